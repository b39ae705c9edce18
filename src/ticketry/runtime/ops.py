"""The operators that sparse modules call, each with a reference in plain torch.

Custom operators, so that ``torch.compile`` keeps them whole in its graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ticketry.errors import PackedError
from ticketry.runtime import native, packing

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3}
"""Name -> its number in ``native/ticketry.h``."""


@torch.library.custom_op("ticketry::sparse_linear", mutates_args=(), device_types="cpu")
def sparse_linear(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    rows: int,
    activation: int,
    tokens_first: bool,
) -> Tensor:
    """Return activation(matrix · input + bias) for a packed matrix.

    Args:
        input: float32 (columns, tokens), or (tokens, columns) with ``tokens_first``.
        packed: uint8, of :func:`ticketry.runtime.packing.pack`.
        bias: float32 (rows), or None.
        rows: of the matrix.
        activation: one of :data:`ACTIVATIONS`' numbers.
        tokens_first: the layout of input and output.
    Returns:
        float32 (rows, tokens), or (tokens, rows) with ``tokens_first``.

    Raises:
        PackedError: the packed matrix is damaged or does not fit; never a crash.
    """
    _check(input, packed, bias, rows)
    if native.isa() is None:
        return sparse_linear_reference(input, packed, bias, rows, activation, tokens_first)
    if input.stride(1) != 1 or input.stride(0) < input.shape[1]:
        input = input.contiguous()
    columns = input.shape[1] if tokens_first else input.shape[0]
    bias = bias if bias is None else bias.contiguous()
    return native.multiply(packed, (rows, columns), input, bias, activation, tokens_first)


def sparse_linear_reference(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    rows: int,
    activation: int,
    tokens_first: bool,
) -> Tensor:
    """What :func:`sparse_linear` computes, in plain torch; pruned weights count as zero.

    Where an activation is NaN or inf it differs: zero times these is NaN here.
    """
    weight = packing.unpack(packed)
    if weight.shape != (rows, input.shape[1] if tokens_first else input.shape[0]):
        raise PackedError("the packed matrix has another shape than its layer.")
    if tokens_first:
        found = functional.linear(input, weight, bias)
    else:
        found = weight @ input if bias is None else torch.addmm(bias[:, None], weight, input)
    return _activated(found, activation)


@sparse_linear.register_fake
def _(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    rows: int,
    activation: int,
    tokens_first: bool,
) -> Tensor:
    tokens = input.shape[0] if tokens_first else input.shape[1]
    return input.new_empty((tokens, rows) if tokens_first else (rows, tokens))


def _check(input: Tensor, packed: Tensor, bias: Tensor | None, rows: int) -> None:
    if input.dim() != 2 or input.dtype != torch.float32:
        raise PackedError(
            f"a sparse product takes float32 of two axes, not {input.dtype} of shape "
            f"{tuple(input.shape)}."
        )
    if packed.dtype != torch.uint8 or packed.dim() != 1 or not packed.is_contiguous():
        raise PackedError("a packed matrix is a contiguous uint8 tensor of one axis.")
    if bias is not None and (bias.shape != (rows,) or bias.dtype != torch.float32):
        raise PackedError(f"the bias must be float32 of shape ({rows},).")


def _activated(values: Tensor, activation: int) -> Tensor:
    if activation == ACTIVATIONS["relu"]:
        return values.relu()
    if activation == ACTIVATIONS["gelu"]:
        return functional.gelu(values)
    if activation == ACTIVATIONS["gelu_tanh"]:
        return functional.gelu(values, approximate="tanh")
    if activation != ACTIVATIONS["none"]:
        raise PackedError(f"no activation has the number {activation}.")
    return values


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, packed, bias, _, activation, tokens_first = inputs
    if activation != ACTIVATIONS["none"]:
        raise PackedError("gradients pass through sparse products without activation only.")
    ctx.save_for_backward(packed)
    ctx.columns = input.shape[1 if tokens_first else 0]
    ctx.first, ctx.biased = tokens_first, bias is not None


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    back = sparse_linear_back(gradient.contiguous(), ctx.saved_tensors[0], ctx.columns, ctx.first)
    bias = gradient.sum(0 if ctx.first else 1) if ctx.biased else None
    return back, None, bias, None, None, None


@torch.library.custom_op("ticketry::sparse_linear_back", mutates_args=(), device_types="cpu")
def sparse_linear_back(
    gradient: Tensor, packed: Tensor, columns: int, tokens_first: bool
) -> Tensor:
    """Return the gradient of :func:`sparse_linear`'s input; dense, in plain torch.

    Args:
        gradient: of its output.
        packed: see there.
        columns: of the matrix.
        tokens_first: see there.
    """
    weight = packing.unpack(packed)
    return gradient @ weight if tokens_first else weight.t() @ gradient


@sparse_linear_back.register_fake
def _(gradient: Tensor, packed: Tensor, columns: int, tokens_first: bool) -> Tensor:
    tokens = gradient.shape[0] if tokens_first else gradient.shape[1]
    return gradient.new_empty((tokens, columns) if tokens_first else (columns, tokens))


sparse_linear.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("ticketry::attend", mutates_args=(), device_types="cpu")
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    batch: int,
    heads: int,
    scaling: float,
) -> Tensor:
    """Return the attention of every head, with tokens in the last axis.

    Args:
        query: float32 (heads · size, batch · length); so are key and value.
        key: like the query.
        value: like the query.
        mask: (batch or 1, heads or 1, length or 1, length): bool, True = seen, or float32, added
            to the scores; None sees all.
        batch: examples.
        heads: of the attention.
        scaling: of the scores.
    Returns:
        Like the query.
    """
    bias = None if mask is None else _key_bias(mask, batch)
    if native.isa() is None or (mask is not None and bias is None):
        return attend_reference(query, key, value, mask, batch, heads, scaling)
    parts = [part.contiguous() for part in (query, key, value)]
    return native.attend(parts[0], parts[1], parts[2], bias, (batch, heads), scaling)


def attend_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    batch: int,
    heads: int,
    scaling: float,
) -> Tensor:
    """What :func:`attend` computes, in plain torch."""
    features, tokens = query.shape
    q, k, v = (
        part.view(heads, features // heads, batch, tokens // batch).permute(2, 0, 3, 1)
        for part in (query.contiguous(), key.contiguous(), value.contiguous())
    )
    found = functional.scaled_dot_product_attention(q, k, v, mask, scale=scaling)
    return found.permute(1, 3, 0, 2).reshape(features, tokens).contiguous()


def _key_bias(mask: Tensor, batch: int) -> Tensor | None:
    """Return what each key's scores get, (batch, length), where that is all that a mask says."""
    first = mask[:, :1, :1]
    if mask.shape[1:3] != (1, 1) and not bool((mask == first).all()):
        return None
    row = first[:, 0, 0].expand(batch, -1)
    if mask.dtype == torch.bool:
        if not bool(row.any(-1).all()):
            return None  # an example that sees nothing: torch decides what comes of it
        row = torch.zeros(row.shape).masked_fill_(~row, torch.finfo(torch.float32).min)
    return row.float().contiguous()


@attend.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    batch: int,
    heads: int,
    scaling: float,
) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op("ticketry::add_norm", mutates_args=(), device_types="cpu")
def add_norm(input: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(input + residual), with tokens in the last axis.

    Args:
        input: float32 (features, tokens).
        residual: like the input.
        weight: float32 (features).
        bias: like the weight.
        eps: added to the variance.
    """
    if native.isa() is None:
        return add_norm_reference(input, residual, weight, bias, eps)
    parts = [part.contiguous() for part in (input, residual, weight, bias)]
    return native.add_norm(parts[0], parts[1], parts[2], parts[3], eps)


def add_norm_reference(
    input: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """What :func:`add_norm` computes, in plain torch."""
    summed = (input + residual).t()
    return functional.layer_norm(summed, summed.shape[-1:], weight, bias, eps).t().contiguous()


@add_norm.register_fake
def _(input: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return input.new_empty(input.shape)


def dense_linear(input: Tensor, weight: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """Return activation(weight · input + bias), with tokens in the last axis, in plain torch."""
    found = weight @ input if bias is None else torch.addmm(bias[:, None], weight, input)
    return _activated(found, activation)
