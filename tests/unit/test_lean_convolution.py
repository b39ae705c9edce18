"""Convolutions the lean way: torch's own numbers and derivatives, in another order of sums."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from ticketry.models import lean_convolution
from ticketry.models.lean_convolution import LeanConvolutions, _Depthwise


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that took the lean way."""
    seen: list[tuple[int, ...]] = []
    apply = _Depthwise.apply

    def counted(values: Tensor, *rest: object) -> Tensor:
        seen.append(tuple(values.shape))
        found: Tensor = apply(values, *rest)
        return found

    monkeypatch.setattr(lean_convolution._Depthwise, "apply", counted)
    return seen


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "dilation"),
    [
        ((4, 4), 5, 2, 1),  # images smaller than the kernel
        ((2, 2), 3, 1, 1),
        ((6, 2), 3, 1, 1),
        ((1, 1), 3, 1, 1),
        ((8, 9), 3, 1, 1),  # wider ones
        ((8, 9), (3, 5), (0, 1), 1),
        ((8, 9), 3, 4, 1),  # padded by more than the kernel reaches
        ((8, 9), 3, 2, 2),
        ((9, 8), 5, 4, 2),
        ((9, 8), (5, 3), (4, 3), (2, 3)),
        ((4, 4), 3, 4, 4),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_lean_convolution_has_torchs_gradients(
    size: tuple[int, int],
    kernel: Any,
    padding: Any,
    dilation: Any,
    bias: bool,
    lean: list[tuple[int, ...]],
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, padding=padding, dilation=dilation, groups=6, bias=bias)
    images = torch.randn(3, 6, *size)
    found = []
    for mode in (contextlib.nullcontext(), LeanConvolutions()):
        leaf = images.clone().requires_grad_()
        layer.zero_grad()
        with mode:
            output = layer(leaf)
        output.square().sum().backward()
        found.append([output.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    assert lean == [tuple(images.shape)]
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain)


def test_derivatives_of_both_orders_are_right() -> None:
    torch.manual_seed(0)
    values, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 3, 2), (2, 1, 3, 3), (2,))
    )
    for padding, dilation in (((1, 1), (1, 1)), ((2, 3), (2, 3)), ((1, 0), (1, 1))):
        arguments = (values, weight, bias, padding, dilation)
        if padding == (1, 0):  # wide enough for torch's own gradient of the weights
            arguments = (values.repeat(1, 1, 1, 2), *arguments[1:])
        assert gradcheck(_Depthwise.apply, arguments)
        assert gradgradcheck(_Depthwise.apply, arguments)
    without = (values, weight, None, (1, 1), (1, 1))
    assert gradcheck(_Depthwise.apply, without)
    assert gradgradcheck(_Depthwise.apply, without)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 5, padding=2, stride=2, groups=6),
        nn.Conv2d(6, 12, 5, padding=2, groups=6),
        nn.Conv2d(6, 8, 5, padding=2),
        nn.Conv2d(6, 6, 5, padding="same", groups=6),
        nn.Conv2d(6, 8, 2, stride=2),
    ],
)
def test_all_others_are_torchs_own(layer: nn.Conv2d, lean: list[tuple[int, ...]]) -> None:
    images = torch.randn(2, 6, 4, 4)
    with LeanConvolutions():
        found = layer(images)
    assert not lean
    torch.testing.assert_close(found, layer(images))
    patches = layer.kernel_size == layer.stride
    assert (
        found.is_contiguous() if patches else found.is_contiguous(memory_format=torch.channels_last)
    )


def test_autocast_and_evaluation_keep_torchs_way(lean: list[tuple[int, ...]]) -> None:
    layer = nn.Conv2d(6, 6, 5, padding=2, groups=6)
    images = torch.randn(2, 6, 4, 4)
    with LeanConvolutions(), torch.autocast("cpu", torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
    with LeanConvolutions(), torch.no_grad():
        layer(images)
    with LeanConvolutions():
        layer.double()(images.double())
        nn.functional.conv2d(images[0], torch.randn(6, 1, 5, 5), None, 1, 2, 1, 6)  # no batch
    assert not lean


def test_the_training_loop_takes_the_lean_way(lean: list[tuple[int, ...]]) -> None:
    from ticketry.tasks.workload import precision

    layer = nn.Conv2d(6, 6, 5, padding=2, groups=6)
    with precision(torch.device("cpu"), "float32"):
        layer(torch.randn(2, 6, 4, 4))
    assert len(lean) == 1
