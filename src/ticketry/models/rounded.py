"""Products in bfloat16 on a CPU without instructions for them, at the speed of float32.

Such a CPU (x86 without AVX-512, say) leaves torch with loops that take many times as long as
float32 (``benchmarks/cpu_step.py``). But two bfloat16 numbers multiply exactly in float32, and
kernels made for bfloat16 sum in float32 and round once, at the end. So here values are rounded,
multiplied in float32, and the result is rounded: the same numbers up to the order of sums, forward
and backward, on any CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_PRODUCTS = frozenset(
    {
        torch.nn.functional.linear,
        torch.nn.functional.scaled_dot_product_attention,
        torch.addmm,
        torch.baddbmm,
        torch.bmm,
        torch.conv1d,
        torch.conv2d,
        torch.conv_transpose2d,
        torch.matmul,
        torch.mm,
        Tensor.__matmul__,
        Tensor.bmm,
        Tensor.matmul,
        Tensor.mm,
    }
)
"""What autocast computes in its dtype, and models call."""


@functools.cache
def native() -> bool:
    """Say whether torch has fast kernels for bfloat16 products on this CPU."""
    supported: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b`` in the tensors' dtype; bfloat16 as told above."""
    if a.dtype != torch.bfloat16 or native():
        return a @ b
    return (a.float() @ b.float()).to(a.dtype)


def product_plus(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b + bias`` of matrices and a row, in the tensors' dtype, rounded once."""
    if a.dtype != torch.bfloat16 or native():
        return torch.addmm(bias, a, b)
    return torch.addmm(bias.float(), a.float(), b.float()).to(a.dtype)


class RoundedProducts(TorchFunctionMode):
    """While it is on, what autocast would multiply in bfloat16 is multiplied as told above."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Round, multiply in float32, round; pass all else on."""
        kwargs = kwargs or {}
        if (
            func not in _PRODUCTS
            or not torch.is_autocast_enabled("cpu")
            or torch.get_autocast_dtype("cpu") != torch.bfloat16
        ):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            args, kwargs = tree_map_only(Tensor, _rounded, (args, kwargs))
            return func(*args, **kwargs).to(torch.bfloat16)


def _rounded(value: Tensor) -> Tensor:
    """Return a floating-point tensor rounded to bfloat16, in float32; masks and indices as is."""
    if value.device.type != "cpu" or not value.is_floating_point():
        return value
    return value.to(torch.bfloat16).float()
