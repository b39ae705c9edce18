"""Sparse convolutions of one pixel against float64, in both layouts, and accelerated models."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ticketry.errors import PackedError
from ticketry.runtime import native, packing
from ticketry.runtime.accelerating import accelerate, compare, layers_of
from ticketry.runtime.convolution import SparseConv2d, sparse_conv


def convolution(into: int, out: int, stride: int = 1, sparsity: float = 0.7, **more: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(into + 100 * out)
        layer = nn.Conv2d(into, out, 1, stride=stride, **more).eval()
        with torch.no_grad():
            layer.weight[torch.rand(layer.weight.shape) < sparsity] = 0
    return layer


def sparse(layer: Any) -> SparseConv2d:
    packed = packing.pack(layer.weight.detach().flatten(1))
    found = SparseConv2d(packed, layer.bias, layer.stride)
    found.eval()
    return found


def images(*shape: int, last: bool = False) -> torch.Tensor:
    found = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return found.contiguous(memory_format=torch.channels_last) if last else found


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([1, 3, 70, 200]),
    st.sampled_from([1, 2, 65, 260]),
    st.sampled_from([(0, 4, 4), (1, 1, 1), (1, 7, 7), (3, 5, 9), (2, 16, 8), (1, 0, 3)]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_convolutions_are_those_of_float64(
    isa: str,
    into: int,
    out: int,
    shape: tuple[int, int, int],
    stride: int,
    sparsity: float,
    bias: bool,
    last: bool,
) -> None:
    layer = convolution(into, out, stride, sparsity, bias=bias)
    batch, height, width = shape
    given_images = images(batch, into, height, width, last=last)
    with torch.inference_mode():
        found = sparse(layer)(given_images)
    if not height:
        assert found.shape == (batch, out, 0, -(-width // stride))
        return
    right = copy.deepcopy(layer).double()(given_images.double())
    torch.testing.assert_close(found.double(), right.detach(), rtol=1e-5, atol=1e-5)


def test_the_layout_stays(isa: str) -> None:
    layer = sparse(convolution(6, 10))
    last = layer(images(2, 6, 4, 4, last=True))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert layer(images(2, 6, 4, 4)).is_contiguous()
    assert layer(images(6, 4, 4)).shape == (10, 4, 4)


def test_nan_and_inf_stay_with_their_pixel(isa: str) -> None:
    layer = convolution(8, 12)
    wrong = images(2, 8, 5, 5)
    wrong[1, 3, 2, 2], wrong[0, 1, 0, 4] = float("nan"), float("inf")
    touched = ~sparse(layer)(wrong).isfinite()
    kept = layer.weight[:, :, 0, 0] != 0
    if isa != "none":  # without kernels zeros are multiplied too, as the reference says
        assert torch.equal(touched[1, :, 2, 2], kept[:, 3])
        assert torch.equal(touched[0, :, 0, 4], kept[:, 1])
    touched[1, :, 2, 2] = touched[0, :, 0, 4] = False
    assert not touched.any()


def test_the_operator_is_sound() -> None:
    layer = convolution(8, 12)
    packed = packing.pack(layer.weight.detach().flatten(1))
    for last in (False, True):
        inputs = images(2, 8, 5, 5, last=last)
        torch.library.opcheck(sparse_conv, (inputs, packed, layer.bias.detach(), 12))
        torch.library.opcheck(sparse_conv, (inputs.requires_grad_(), packed, None, 12))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_pass_to_the_input(stride: int) -> None:
    layer = convolution(8, 12, stride)
    ours, theirs = (images(2, 8, 5, 5).requires_grad_() for _ in range(2))
    sparse(layer)(ours).sin().sum().backward()
    layer(theirs).sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_it_is_saved_copied_and_loaded_as_a_dense_layer() -> None:
    layer = convolution(8, 12)
    ours, inputs = sparse(layer), images(2, 8, 5, 5)
    dense = nn.Conv2d(8, 12, 1)
    dense.load_state_dict(ours.state_dict())
    assert torch.equal(dense.weight, layer.weight)
    other = nn.Conv2d(8, 12, 1)
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(again(inputs), ours(inputs))
    ours.load_state_dict(other.state_dict())
    torch.testing.assert_close(ours(inputs), other(inputs).detach())
    assert ours.weight.shape == (12, 8, 1, 1)


def test_what_does_not_fit_is_named() -> None:
    layer = sparse(convolution(8, 12))
    with pytest.raises(PackedError, match=r"of 8 channels got an input of shape \(2, 7, 5, 5\)"):
        layer(images(2, 7, 5, 5))
    with pytest.raises(PackedError, match="takes float32 of four axes, not"):
        sparse_conv(images(1, 8, 2, 2).double(), layer.packed, None, 12)
    with pytest.raises(PackedError, match=r"the bias must be float32 of shape \(12,\)"):
        sparse_conv(images(1, 8, 2, 2), layer.packed, torch.zeros(3), 12)
    with pytest.raises(PackedError, match="another shape"):
        sparse_conv(images(1, 9, 2, 2), layer.packed, None, 12)


def network() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),  # not of one pixel
        convolution(16, 32),
        convolution(32, 32, groups=4),
        convolution(32, 24, stride=2, bias=False),
        convolution(24, 8, padding=1),
    ).eval()


def test_accelerate_swaps_what_it_can() -> None:
    model, inputs = network(), images(2, 3, 8, 8)
    before = model(inputs).detach()
    layers = {layer.name: layer for layer in accelerate(model, always=True)}
    assert [layers[name].runs_as for name in "1234"] == ["sparse", "dense", "sparse", "dense"]
    assert layers["2"].why == "it has 4 groups"
    assert layers["4"].why == "it has padding"
    assert "0" not in layers
    torch.testing.assert_close(model(inputs), before, rtol=1e-5, atol=1e-5)
    assert [layer.runs_as for layer in layers_of(model)] == ["sparse", "dense", "sparse", "dense"]
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(inputs), before, rtol=1e-5, atol=1e-5)
    plain = network()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(inputs), before)


def test_accelerate_measures_convolutions_as_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.isa() is None:
        pytest.skip("no library")
    seen = []

    def measured(*arguments: Any) -> tuple[float, float]:
        seen.append(arguments[2:])
        assert all(taken > 0 for taken in compare(*arguments))
        return (2.0, 1.0)

    monkeypatch.setattr("ticketry.runtime.accelerating.compare", measured)
    model = network()
    mask = {"1": model[1].weight.detach() != 0}
    layers = {layer.name: layer for layer in accelerate(model, mask, tokens=49)}
    assert seen == [(49, True)]
    assert layers["1"].runs_as == "sparse"
    assert layers["3"].why == "the ticket does not prune it"
