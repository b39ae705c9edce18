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
from ticketry.runtime.dispatch import operator
from ticketry.runtime.encoderplan import Plan, key_bias

ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3}
"""Name -> its number in ``native/ticketry.h``."""


@operator
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


@operator
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


@operator
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
    bias = None if mask is None else key_bias(mask, batch)
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


@operator
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


@operator
def encode(
    states: Tensor,
    mask: Tensor | None,
    tensors: list[Tensor],
    heads: int,
    scaling: float,
    eps: float,
    activation: int,
) -> Tensor:
    """Return what the layers of an encoder like BERT's make of its states.

    Args:
        states: float32 (batch, length, hidden).
        mask: as in :func:`attend`.
        tensors: 16 of each layer: matrix and bias of query, key, value, attention output and the
            two of the feed-forward part, then weight and bias of both norms. Matrices are packed,
            or dense float32 (out, in).
        heads: of the attention.
        scaling: of the scores.
        eps: of the norms.
        activation: one of :data:`ACTIVATIONS`' numbers.
    Returns:
        Like the states.

    Raises:
        PackedError: a packed matrix is damaged or does not fit; never a crash.
    """
    check_layers(states, tensors, heads)
    if not states.numel():
        return torch.empty_like(states)
    numbers = (scaling, eps, activation)
    found = Plan(tensors).encode(states, mask, heads, numbers)
    if found is None:
        return encode_reference(states, mask, tensors, heads, *numbers)
    return found


def encode_reference(
    states: Tensor,
    mask: Tensor | None,
    tensors: list[Tensor],
    heads: int,
    scaling: float,
    eps: float,
    activation: int,
) -> Tensor:
    """What :func:`encode` computes, an operator at a time."""
    batch, length, hidden = states.shape
    state = states.reshape(batch * length, hidden).t().contiguous()
    for start in range(0, len(tensors), 16):
        each = tensors[start : start + 16]
        query, key, value = (_product(state, each[i], each[i + 1]) for i in (0, 2, 4))
        context = attend(query, key, value, mask, batch, heads, scaling)
        state = add_norm(_product(context, each[6], each[7]), state, each[12], each[13], eps)
        widened = _product(state, each[8], each[9], activation)
        state = add_norm(_product(widened, each[10], each[11]), state, each[14], each[15], eps)
    return state.t().contiguous().view(batch, length, hidden)


def _product(state: Tensor, matrix: Tensor, bias: Tensor, activation: int = 0) -> Tensor:
    if matrix.dtype == torch.uint8:
        return sparse_linear(state, matrix, bias, len(bias), activation, False)
    return dense_linear(state, matrix, bias, activation)


@encode.register_fake
def _(
    states: Tensor,
    mask: Tensor | None,
    tensors: list[Tensor],
    heads: int,
    scaling: float,
    eps: float,
    activation: int,
) -> Tensor:
    return states.new_empty(states.shape)


def check_layers(states: Tensor, tensors: list[Tensor], heads: int) -> None:
    """Check what :func:`encode` gets, but for the packed bytes, which the kernels check.

    Args:
        states: see there.
        tensors: see there.
        heads: see there.

    Raises:
        PackedError: something does not fit.
    """
    if states.dim() != 3 or states.dtype != torch.float32:
        raise PackedError("an encoder takes float32 states of three axes.")
    hidden = states.shape[-1]
    if not tensors or len(tensors) % 16 or heads < 1 or hidden % heads:
        raise PackedError("an encoder takes 16 tensors a layer, and heads that divide its width.")
    inner = len(tensors[9])
    outs = (hidden, hidden, hidden, hidden, inner, hidden)
    ins = (hidden, hidden, hidden, hidden, hidden, inner)
    for start in range(0, len(tensors), 16):
        each = tensors[start : start + 16]
        for out, into, matrix, bias in zip(outs, ins, each[:12:2], each[1:12:2], strict=True):
            packed = matrix.dtype == torch.uint8 and matrix.dim() == 1
            dense = matrix.dtype == torch.float32 and matrix.shape == (out, into)
            if not (packed or dense) or bias.shape != (out,) or bias.dtype != torch.float32:
                raise PackedError(
                    f"a matrix of an encoder does not fit; it must be {out} x {into}."
                )
        if any(part.shape != (hidden,) or part.dtype != torch.float32 for part in each[12:]):
            raise PackedError(f"a norm of an encoder does not fit; it must have {hidden} features.")
