"""Convolutions of a training step on a CPU, the same numbers up to the order of sums, in less time.

Two things cost about half of a step of a small CNN, and neither is arithmetic
(``benchmarks/cpu_step.py`` measures EfficientNet-Lite0):

- oneDNN, torch's library, has no fast kernel for the weight gradient of a depthwise convolution
  whose images are smaller than its kernel (4×4 under 5×5): a reference loop took half the step.
  Here it is a sum over positions for each of the kernel's weights.
- Channels side by side in memory (``channels_last``) suit its other kernels better. The weights
  stay as they are: once one input has that layout, what follows keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class LeanConvolutions(TorchFunctionMode):
    """While it is on, ``conv2d`` on a CPU takes the lean way where that is the same function."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace ``torch.conv2d``; pass all else on."""
        kwargs = kwargs or {}
        if func is not torch.conv2d:
            return func(*args, **kwargs)
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        values, weight = given["input"], given["weight"]
        if values.device.type != "cpu" or values.dim() != 4 or values.dtype != torch.float32:
            return func(*args, **kwargs)
        stride, padding = _pair(given.get("stride", 1)), _pair(given.get("padding", 0))
        if tuple(weight.shape[2:]) != stride:  # that of patches opens a transformer, in its layout
            values = values.contiguous(memory_format=torch.channels_last)
        plain = _pair(given.get("dilation", 1)) == (1, 1) == stride
        depthwise = 1 < given.get("groups", 1) == values.shape[1] == len(weight)
        narrow = any(
            size < side for size, side in zip(values.shape[2:], weight.shape[2:], strict=True)
        )
        if plain and depthwise and narrow and padding is not None and _in_float32():
            found: Tensor = _Narrow.apply(values, weight, given.get("bias"), padding)
            return found
        return func(**{**given, "input": values})


def _in_float32() -> bool:
    """Say whether a gradient is wanted, and of products that autocast leaves in float32."""
    return torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _pair(value: Any) -> tuple[int, int] | None:
    """Return rows and columns; None for padding by name."""
    if isinstance(value, str):
        return None
    if isinstance(value, int):
        return (value, value)
    pair = tuple(value)
    return (pair[0], pair[-1])


class _Narrow(torch.autograd.Function):
    """A depthwise convolution of stride 1; the gradient of its weights is summed tap by tap."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.padding, ctx.biased = padding, bias is not None
        return torch.conv2d(values, weight, bias, 1, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Of plain operations, so that it has a derivative of its own, which GraSP asks for.
        values, weight = ctx.saved_tensors
        back = weights = bias = None
        if ctx.needs_input_grad[0]:
            back = conv2d_input(values.shape, weight, gradient, 1, ctx.padding, 1, len(weight))
        if ctx.needs_input_grad[1]:
            weights = _weight_gradient(values, gradient, weight.shape, ctx.padding)
        if ctx.biased and ctx.needs_input_grad[2]:
            bias = gradient.sum((0, 2, 3))
        return back, weights, bias, None


def _weight_gradient(
    values: Tensor, gradient: Tensor, shape: torch.Size, padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of a depthwise kernel (channels, 1, rows, columns)."""
    across, down = padding[1], padding[0]
    padded = pad(values, (across, across, down, down))
    rows, columns = gradient.shape[2:]
    taps = [
        (padded[:, :, i : i + rows, j : j + columns] * gradient).sum((0, 2, 3))
        for i in range(shape[2])
        for j in range(shape[3])
    ]
    return torch.stack(taps, 1).view(shape)
