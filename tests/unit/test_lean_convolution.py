"""Convolutions the lean way: torch's own numbers and derivatives, in another order of sums."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from ticketry.models import lean_convolution
from ticketry.models.lean_convolution import LeanConvolutions, _Narrow


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that took the lean way."""
    seen: list[tuple[int, ...]] = []
    apply = _Narrow.apply

    def counted(values: Tensor, *rest: object) -> Tensor:
        seen.append(tuple(values.shape))
        found: Tensor = apply(values, *rest)
        return found

    monkeypatch.setattr(lean_convolution._Narrow, "apply", counted)
    return seen


@pytest.mark.parametrize(("size", "kernel"), [((4, 4), 5), ((2, 2), 3), ((6, 2), 3), ((1, 1), 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_narrow_convolution_has_torchs_gradients(
    size: tuple[int, int], kernel: int, bias: bool, narrow: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6, bias=bias)
    images = torch.randn(3, 6, *size)
    found = []
    for lean in (False, True):
        leaf = images.clone().requires_grad_()
        layer.zero_grad()
        if lean:
            with LeanConvolutions():
                output = layer(leaf)
        else:
            output = layer(leaf)
        output.square().sum().backward()
        found.append([output.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    assert narrow == [tuple(images.shape)]
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain)


def test_derivatives_of_both_orders_are_right() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    for given in ((values, weight, bias, (2, 1)), (values, weight, None, (2, 1))):
        assert gradcheck(_Narrow.apply, given)
        assert gradgradcheck(_Narrow.apply, given)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),  # under a wider image
        nn.Conv2d(6, 6, 5, padding=2, stride=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 12, 5, padding=2, groups=6),
        nn.Conv2d(6, 8, 5, padding=2),
        nn.Conv2d(6, 6, 5, padding="same", groups=6),
        nn.Conv2d(6, 8, 2, stride=2),
    ],
)
def test_all_others_are_torchs_own(layer: nn.Conv2d, narrow: list[tuple[int, ...]]) -> None:
    images = torch.randn(2, 6, 4, 4)
    with LeanConvolutions():
        found = layer(images)
    assert not narrow
    torch.testing.assert_close(found, layer(images))
    patches = layer.kernel_size == layer.stride
    assert (
        found.is_contiguous() if patches else found.is_contiguous(memory_format=torch.channels_last)
    )


def test_autocast_and_evaluation_keep_torchs_way(narrow: list[tuple[int, ...]]) -> None:
    layer = nn.Conv2d(6, 6, 5, padding=2, groups=6)
    images = torch.randn(2, 6, 4, 4)
    with LeanConvolutions(), torch.autocast("cpu", torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
    with LeanConvolutions(), torch.no_grad():
        layer(images)
    with LeanConvolutions():
        layer.double()(images.double())
        nn.functional.conv2d(images[0], torch.randn(6, 1, 5, 5), None, 1, 2, 1, 6)  # no batch
    assert not narrow


def test_the_training_loop_takes_the_lean_way(narrow: list[tuple[int, ...]]) -> None:
    from ticketry.tasks.workload import precision

    layer = nn.Conv2d(6, 6, 5, padding=2, groups=6)
    with precision(torch.device("cpu"), "float32"):
        layer(torch.randn(2, 6, 4, 4))
    assert len(narrow) == 1
