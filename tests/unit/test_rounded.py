"""bfloat16 products on a CPU without instructions for them: torch's numbers, both ways."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ticketry.models import rounded
from ticketry.models.rounded import RoundedProducts, product, product_plus
from ticketry.tasks.workload import precision


@pytest.fixture(params=[True, False], ids=["native", "rounded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether torch's own kernels multiply."""
    monkeypatch.setattr(rounded, "native", lambda: request.param)
    return bool(request.param)


def exact(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() @ b.double()).to(torch.bfloat16)


def test_products_are_rounded_once(way: bool) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(64, 96).bfloat16(), torch.randn(96, 32).bfloat16()
    bias = torch.randn(32).bfloat16()
    found = product(a, b)
    assert found.dtype == torch.bfloat16
    # In another order of sums a few results fall on the other side of a rounding.
    assert (found != exact(a, b)).float().mean() < 0.01
    whole = (a.double() @ b.double() + bias.double()).bfloat16()
    assert (product_plus(bias, a, b) != whole).float().mean() < (0.2 if way else 0.01)
    torch.testing.assert_close(product(a.float(), b.float()), a.float() @ b.float())


def _linear(x: Tensor, w: Tensor) -> Tensor:
    return functional.linear(x, w)


def _matmul(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.t()


def _convolution(x: Tensor, w: Tensor) -> Tensor:
    return functional.conv2d(x.view(4, 12, 2, 2), w.view(10, 12, 2, 2), padding=1)


def _attention(x: Tensor, w: Tensor) -> Tensor:
    query = functional.linear(x, w[:8]).view(1, 1, 4, 8)
    return functional.scaled_dot_product_attention(query, query, query)


@pytest.mark.parametrize("compute", [_linear, _matmul, _convolution, _attention])
def test_the_mode_gives_what_autocast_gives(compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(4, 48), torch.randn(10, 48)
    found = []
    for mode in (False, True):
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        with torch.autocast("cpu", torch.bfloat16):
            if mode:
                with RoundedProducts():
                    output = compute(*leaves)
            else:
                output = compute(*leaves)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves)
        found.append([output.detach().float(), *(leaf.grad for leaf in leaves)])
    for plain, other in zip(*found, strict=True):
        # bfloat16 has 8 bits; a sum may be rounded to the next number.
        torch.testing.assert_close(other, plain, rtol=2**-6, atol=2**-6 * float(plain.abs().max()))


def test_the_mode_leaves_float32_alone() -> None:
    x, w = torch.randn(4, 8), torch.randn(3, 8)
    with RoundedProducts():
        assert torch.equal(functional.linear(x, w), x @ w.t())
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            assert functional.linear(x, w).dtype == torch.float32


def test_training_goes_the_rounded_way_where_there_are_no_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ticketry.tasks import workload

    seen = []
    monkeypatch.setattr(workload, "native", lambda: False)
    monkeypatch.setattr(rounded, "_rounded", lambda value: seen.append(value.shape) or value)
    layer = nn.Linear(8, 3, bias=False)
    for dtype in ("float32", "bfloat16"):
        with precision(torch.device("cpu"), dtype):
            layer(torch.randn(4, 8))
    assert seen == [(4, 8), (3, 8)]
