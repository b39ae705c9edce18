"""Convolutions of one pixel, which are products of a matrix with every pixel's channels.

Pixels lie side by side in a channel, as tokens do where the kernels read them: nothing is turned.
Where channels lie side by side (torch's ``channels_last``) the other layout of the kernels is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ticketry.errors import PackedError
from ticketry.runtime import dispatch, native, packing
from ticketry.runtime.modules import SparseLayer

_SAME = ("valid", "same", (0, 0))


def pointwise(module: Any) -> bool:
    """Say whether a module is a convolution of one pixel, in any number of groups."""
    return type(module) is nn.Conv2d and tuple(module.kernel_size) == (1, 1)


def unfit(module: Any) -> str:
    """Return why a convolution of one pixel stays dense, or nothing."""
    if module.groups > 1:
        return f"it has {module.groups} groups"
    if module.padding not in _SAME:
        return "it has padding"
    return ""


@dispatch.operator
def sparse_conv(input: Tensor, packed: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    """Return matrix · input + bias for every pixel, for a packed matrix.

    Args:
        input: float32 (batch, channels, height, width), contiguous or ``channels_last``.
        packed: uint8, of :func:`ticketry.runtime.packing.pack`: (rows, channels).
        bias: float32 (rows), or None.
        rows: channels of the output.
    Returns:
        float32 (batch, rows, height, width), in the input's layout.

    Raises:
        PackedError: the packed matrix is damaged or does not fit; never a crash.
    """
    _check(input, packed, bias, rows)
    batch, channels, height, width = input.shape
    if not batch * height * width:
        return input.new_empty(batch, rows, height, width)
    if native.isa() is None:
        return sparse_conv_reference(input, packed, bias, rows)
    bias = bias if bias is None else bias.contiguous()
    if _channels_last(input):
        pixels = input.permute(0, 2, 3, 1).reshape(-1, channels)
        found = native.multiply(packed, (rows, channels), pixels, bias, 0, True)
        return found.view(batch, height, width, rows).permute(0, 3, 1, 2)
    found = input.new_empty(batch, rows, height * width)
    for pixels, into in zip(input.contiguous().flatten(2), found, strict=True):
        native.multiply(packed, (rows, channels), pixels, bias, 0, False, into)
    return found.view(batch, rows, height, width)


def sparse_conv_reference(input: Tensor, packed: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    """What :func:`sparse_conv` computes, in plain torch; pruned weights count as zero."""
    weight = packing.unpack(packed)
    if weight.shape != (rows, input.shape[1]):
        raise PackedError("the packed matrix has another shape than its layer.")
    found = functional.conv2d(input, weight[:, :, None, None], bias)
    return found.contiguous(memory_format=_layout(input))


@sparse_conv.register_fake
def _(input: Tensor, packed: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    shape = (input.shape[0], rows, *input.shape[2:])
    return input.new_empty(shape).contiguous(memory_format=_layout(input))


def _channels_last(input: Tensor) -> bool:
    return not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)


def _layout(input: Tensor) -> torch.memory_format:
    return torch.channels_last if _channels_last(input) else torch.contiguous_format


def _check(input: Tensor, packed: Tensor, bias: Tensor | None, rows: int) -> None:
    if input.dim() != 4 or input.dtype != torch.float32:
        raise PackedError(
            f"a sparse convolution takes float32 of four axes, not {input.dtype} of shape "
            f"{tuple(input.shape)}."
        )
    if packed.dtype != torch.uint8 or packed.dim() != 1 or not packed.is_contiguous():
        raise PackedError("a packed matrix is a contiguous uint8 tensor of one axis.")
    if bias is not None and (bias.shape != (rows,) or bias.dtype != torch.float32):
        raise PackedError(f"the bias must be float32 of shape ({rows},).")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, packed, bias, _ = inputs
    ctx.save_for_backward(packed)
    ctx.channels, ctx.biased = input.shape[1], bias is not None


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    back = sparse_conv_back(gradient.contiguous(), ctx.saved_tensors[0], ctx.channels)
    return back, None, gradient.sum((0, 2, 3)) if ctx.biased else None, None


@dispatch.operator
def sparse_conv_back(gradient: Tensor, packed: Tensor, channels: int) -> Tensor:
    """Return the gradient of :func:`sparse_conv`'s input; dense, in plain torch.

    Args:
        gradient: of its output.
        packed: see there.
        channels: of the input.
    """
    weight = packing.unpack(packed)
    return functional.conv2d(gradient, weight.t()[:, :, None, None].contiguous()).contiguous()


@sparse_conv_back.register_fake
def _(gradient: Tensor, packed: Tensor, channels: int) -> Tensor:
    return gradient.new_empty(gradient.shape[0], channels, *gradient.shape[2:])


sparse_conv.register_autograd(_backward, setup_context=_keep)


class SparseConv2d(SparseLayer):
    """A convolution of one pixel that multiplies by the kept weights alone, for inference.

    Its ``state_dict`` is that of the dense layer; see :class:`SparseLayer`.

    Args:
        packed: the matrix (out channels, in channels), see :func:`ticketry.runtime.packing.pack`.
        bias: (out channels), or None.
        stride: of the convolution, (rows, columns).
    """

    tail = (1, 1)

    def __init__(
        self, packed: Tensor, bias: Tensor | None, stride: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__(packed, bias)
        self.out_channels, self.in_channels = self.out_features, self.in_features
        self.kernel_size, self.stride = (1, 1), stride
        self.padding, self.dilation, self.groups = (0, 0), (1, 1), 1

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution.

        Args:
            input: (batch, in channels, height, width), or without the batch; another dtype than
                float32 is converted and the result converted back.
        """
        if input.dim() not in (3, 4) or input.shape[-3] != self.in_channels:
            raise PackedError(
                f"a sparse convolution of {self.in_channels} channels got an input of shape "
                f"{tuple(input.shape)}."
            )
        images = (input if input.dim() == 4 else input[None]).float()
        if self.stride != (1, 1):
            images = images[:, :, :: self.stride[0], :: self.stride[1]]
            images = images.contiguous(memory_format=_layout(input if input.dim() == 4 else images))
        bias = self.bias if self.bias is None else self.bias.float()
        tensors = [images, self.packed] if bias is None else [images, self.packed, bias]
        found = dispatch.call(sparse_conv, tensors, images, self.packed, bias, self.out_channels)
        return (found if input.dim() == 4 else found[0]).to(input.dtype)
