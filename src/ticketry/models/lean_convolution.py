"""Convolutions of a training step on a CPU, the same numbers up to the order of sums, in less time.

Three things cost more than half of a step of a small CNN, and none is arithmetic
(``benchmarks/cpu_step.py`` measures EfficientNet-Lite0):

- oneDNN, torch's library, has no fast kernel for the weight gradient of a depthwise convolution
  whose images are smaller than its kernel (4×4 under 5×5) or which is dilated, as segmentation's
  are: a reference loop took half the step. Here it is a sum over positions for each of the
  kernel's weights; of a dilated one, over the images that its kernel reads without gaps.
- The gradient of a depthwise convolution's input took four times as long as the convolution, and
  of a dilated one twenty times. It is itself a convolution, with the kernel turned.
- Channels side by side in memory (``channels_last``) suit its other kernels better. The weights
  stay as they are: once one input has that layout, what follows keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
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
        dilation = _pair(given.get("dilation", 1))
        depthwise = 1 < given.get("groups", 1) == values.shape[1] == len(weight)
        if depthwise and stride == (1, 1) and padding and dilation and _in_float32():
            found: Tensor = _Depthwise.apply(values, weight, given.get("bias"), padding, dilation)
            return found
        return func(**{**given, "input": values})


def _in_float32() -> bool:
    """Say whether a gradient is wanted, and of products that autocast leaves in float32."""
    return torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _pair(value: Any) -> Pair | None:
    """Return rows and columns; None for padding by name."""
    if isinstance(value, str):
        return None
    if isinstance(value, int):
        return (value, value)
    pair = tuple(value)
    return (pair[0], pair[-1])


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1, with gradients of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Pair,
        dilation: Pair,
    ) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.padding, ctx.dilation, ctx.biased = padding, dilation, bias is not None
        return _convolve(values, weight, bias, padding, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Of plain operations, so that it has a derivative of its own, which GraSP asks for.
        values, weight = ctx.saved_tensors
        padding, dilation = ctx.padding, ctx.dilation
        back = weights = bias = None
        if ctx.needs_input_grad[0]:
            back = _input_gradient(values, weight, gradient, padding, dilation)
        if ctx.needs_input_grad[1]:
            weights = _weight_gradient(values, gradient, weight.shape, padding, dilation)
        if ctx.biased and ctx.needs_input_grad[2]:
            bias = gradient.sum((0, 2, 3))
        return back, weights, bias, None, None


def _input_gradient(
    values: Tensor, weight: Tensor, gradient: Tensor, padding: Pair, dilation: Pair
) -> Tensor:
    """Return the gradient of what a depthwise kernel (channels, 1, rows, columns) read."""
    sides = weight.shape[2:]
    rest = [d * (side - 1) - p for p, d, side in zip(padding, dilation, sides, strict=True)]
    if min(rest) < 0:  # padded by more than the kernel reaches
        return conv2d_input(values.shape, weight, gradient, 1, padding, dilation, len(weight))
    return _convolve(gradient, weight.flip(2, 3), None, (rest[0], rest[1]), dilation)


def _weight_gradient(
    values: Tensor, gradient: Tensor, shape: torch.Size, padding: Pair, dilation: Pair
) -> Tensor:
    """Return the gradient of a depthwise kernel (channels, 1, rows, columns)."""
    if dilation != (1, 1) and (each := _phase_padding(padding, dilation)):
        values, gradient = _phases(values, dilation), _phases(gradient, dilation)
        padding, dilation = each, (1, 1)
    if dilation == (1, 1) and _hold(values, shape[2:]):
        return conv2d_weight(values, shape, gradient, 1, padding, 1, shape[0])
    padded = pad(values, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = gradient.shape[2:]
    down, across = dilation
    taps = [
        (padded[:, :, i : i + rows, j : j + columns] * gradient).sum((0, 2, 3))
        for i in range(0, down * shape[2], down)
        for j in range(0, across * shape[3], across)
    ]
    return torch.stack(taps, 1).view(shape)


def _convolve(
    values: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair, dilation: Pair
) -> Tensor:
    """Convolve depthwise, with stride 1."""
    # What the kernel spans, gaps and all.
    spans = [d * (side - 1) + 1 for d, side in zip(dilation, weight.shape[2:], strict=True)]
    each = _phase_padding(padding, dilation)
    if dilation == (1, 1) or each is None or _hold(values, spans):
        return torch.conv2d(values, weight, bias, 1, padding, dilation, len(weight))
    found = torch.conv2d(_phases(values, dilation), weight, bias, 1, each, 1, len(weight))
    rows, columns = (
        size + 2 * p - span + 1
        for size, p, span in zip(values.shape[2:], padding, spans, strict=True)
    )
    return _joined(found, dilation)[:, :, :rows, :columns].contiguous(
        memory_format=torch.channels_last
    )


def _hold(values: Tensor, sides: Sequence[int]) -> bool:
    """Say whether images are at least so high and wide; oneDNN is slow under smaller ones."""
    return all(size >= side for size, side in zip(values.shape[2:], sides, strict=True))


def _phase_padding(padding: Pair, dilation: Pair) -> Pair | None:
    """Return the padding of each phase; None where a kernel meets more than one phase."""
    if padding[0] % dilation[0] or padding[1] % dilation[1]:
        return None
    return padding[0] // dilation[0], padding[1] // dilation[1]


def _phases(values: Tensor, dilation: Pair) -> Tensor:
    """Return every so many-th row and column as images of their own, filled up with zeros.

    A dilated kernel reads just one of them, without gaps.
    """
    count, channels, *size = values.shape
    down, across = dilation
    filled = pad(values, (0, -size[1] % across, 0, -size[0] % down))
    rows, columns = filled.shape[2] // down, filled.shape[3] // across
    apart = filled.view(count, channels, rows, down, columns, across).permute(0, 3, 5, 2, 4, 1)
    images = apart.reshape(count * down * across, rows, columns, channels)
    return images.permute(0, 3, 1, 2)


def _joined(phases: Tensor, dilation: Pair) -> Tensor:
    """Return the images of which these are the phases, with what was filled up."""
    _, channels, rows, columns = phases.shape
    down, across = dilation
    apart = phases.permute(0, 2, 3, 1).reshape(-1, down, across, rows, columns, channels)
    images = apart.permute(0, 3, 1, 4, 2, 5).reshape(-1, rows * down, columns * across, channels)
    return images.permute(0, 3, 1, 2)
