"""A lean forward and backward of BERT-shaped text models on a CPU.

The same network as transformers', on the same modules and parameters, with less work around the
matrix products:

- A classifier's head reads one token, so the last layer's queries, products and MLP are computed
  for that token alone (its keys and values for all): 5/6 of a layer less, exactly the same
  function. A masked language model's reads the tokens to predict, so there it is for these.
- Dropout draws 15 random bits an element, four elements a random number, and is applied to the
  bits: torch's ``bernoulli_`` took a tenth of a training step.
- Query, key and value are one product; activations are cast once, not at each product; residual
  sums, normalisation and their backward are one node of the graph each.

Products run in autocast's dtype where autocast is on, the residual stream in float32, as under
autocast itself. A dropout probability is rounded to 1/32,768. There is no second derivative.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ticketry.models.rounded import product, product_plus

LONGEST = 128
"""Tokens up to which all attention weights are held at once; torch's own kernel holds fewer."""
_DRAWS = 1 << 15
_INTEGER = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_CLASSIFIERS = ("BertForSequenceClassification", "RobertaForSequenceClassification")


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return a sequence classifier's logits, the lean way where that is the same function.

    Args:
        model: a task model.
        inputs: ``input_ids`` (batch, tokens), ``attention_mask`` and whatever else it reads.
    Returns:
        (batch, labels).
    """
    if not fits(model, inputs, _CLASSIFIERS):
        found: Tensor = model(**inputs).logits
        return found
    base: Any = model.base_model
    batch = len(inputs["input_ids"])

    def first(states: Tensor) -> Tensor:
        return states.view(batch, -1, states.shape[1])[:, 0]

    return _head(model, base, _encode(base, inputs, first)[:, None])


def states_at(model: nn.Module, inputs: Mapping[str, Tensor], chosen: Tensor) -> Tensor:
    """Return the base's last states at chosen tokens; see :func:`fits`.

    Args:
        model: a task model.
        inputs: as for :func:`logits_of`.
        chosen: which tokens, bool, (batch, tokens), equally many in each example.
    Returns:
        (chosen tokens, hidden), float32, in the order of the text.
    """
    rows = chosen.flatten().nonzero().squeeze(1)
    return _encode(model.base_model, inputs, lambda states: states.index_select(0, rows))


def fits(
    model: nn.Module, inputs: Mapping[str, Tensor], kinds: Container[str] = _CLASSIFIERS
) -> bool:
    """Say whether the lean way computes what ``model`` does with these inputs.

    Args:
        model: a task model.
        inputs: of a batch.
        kinds: names of the task models whose head the caller knows how to apply.

    It does not where a second derivative may be asked for (a graph outside training), nor where
    someone else's hook or module stands in the model.
    """
    ids = inputs.get("input_ids")
    if ids is None or ids.device.type != "cpu" or ids.shape[1] > LONGEST:
        return False
    if type(model).__name__ not in kinds:
        return False
    base: Any = model.base_model
    if torch.is_grad_enabled() != base.training:
        return False
    config: Any = model.config
    if config.is_decoder or config.add_cross_attention:
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in base.modules()):
        return False
    return all(
        type(module) is nn.Linear
        and module.weight.dtype == torch.float32
        and module.bias is not None
        for layer in base.encoder.layer
        for module in _linears(layer)
    )


def _linears(layer: Any) -> tuple[nn.Module, ...]:
    attention = layer.attention
    return (
        attention.self.query,
        attention.self.key,
        attention.self.value,
        attention.output.dense,
        layer.intermediate.dense,
        layer.output.dense,
    )


def _head(model: Any, base: Any, first: Tensor) -> Tensor:
    """Return the logits from the first token's state (batch, 1, hidden)."""
    if base.pooler is None:
        found: Tensor = model.classifier(first)
    else:
        found = model.classifier(model.dropout(base.pooler(first)))
    return found


def _encode(base: Any, inputs: Mapping[str, Tensor], pick: Callable[[Tensor], Tensor]) -> Tensor:
    """Return some tokens' states after all layers, float32 (tokens picked, hidden).

    Args:
        base: transformers' module.
        inputs: of a batch.
        pick: rows of (batch · tokens, …) -> those that are read, equally many of each example.
    """
    attention_mask = inputs.get("attention_mask")
    embedded = base.embeddings(**{n: v for n, v in inputs.items() if n != "attention_mask"})
    layers = base.encoder.layer
    enabled = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if enabled else torch.float32
    batch, _, hidden = embedded.shape
    bias = None
    if attention_mask is not None and not bool(attention_mask.all()):
        lowest = torch.finfo(torch.float32).min
        bias = (attention_mask == 0).to(torch.float32).mul_(lowest)[:, None, None, :]
    with torch.autocast("cpu", enabled=False) if enabled else contextlib.nullcontext():
        residual = embedded.float().reshape(-1, hidden)
        state = residual.to(dtype)
        for layer in layers[:-1]:
            residual, state = _layer(layer, residual, state, batch, bias)
        last = layers[-1]
        return _layer(last, residual, state, batch, bias, pick)[0]


def _layer(
    layer: Any,
    residual: Tensor,
    state: Tensor,
    batch: int,
    bias: Tensor | None,
    pick: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """One block; return its output as residual stream and in the products' dtype.

    Args:
        layer: transformers' module.
        residual: (batch · tokens, hidden), float32.
        state: the same in the products' dtype.
        batch: examples.
        bias: added to the attention's scores; None without padding.
        pick: return these rows alone; None for all.
    """
    attention = layer.attention.self
    heads = attention.num_attention_heads
    p = attention.dropout.p if attention.training else 0.0
    if pick is not None:
        width = state.shape[1]
        residual, top = pick(residual), pick(state)
        query = _linear(top, attention.query).view(batch, -1, 1, heads, width // heads)
        rest = _linear(state, attention.key, attention.value).view(
            batch, -1, 2, heads, width // heads
        )
    else:
        query = _linear(state, attention.query, attention.key, attention.value)
        query, rest = query.view(batch, -1, 3, heads, state.shape[1] // heads), None
    context = _Attention.apply(query, rest, bias, attention.scaling, p)
    output = layer.attention.output
    residual, state = _add_norm(_linear(context, output.dense), residual, output)
    inner = layer.intermediate.intermediate_act_fn(_linear(state, layer.intermediate.dense))
    return _add_norm(_linear(inner, layer.output.dense), residual, layer.output)


def _linear(state: Tensor, *modules: Any) -> Tensor:
    """Apply linear layers to the same rows; their outputs stand side by side."""
    tensors = [*(module.weight for module in modules), *(module.bias for module in modules)]
    found: Tensor = _Linear.apply(state, *tensors)
    return found


def _add_norm(values: Tensor, residual: Tensor, module: Any) -> tuple[Tensor, Tensor]:
    """Return LayerNorm(dropout(values) + residual), in float32 and in the dtype of ``values``."""
    norm = module.LayerNorm
    p = module.dropout.p if module.training else 0.0
    found = _AddNorm.apply(values, residual, norm.weight, norm.bias, norm.eps, p)
    return (found, found) if isinstance(found, Tensor) else found


class _Linear(torch.autograd.Function):
    """x·Wᵀ + b for float32 weights and activations of another dtype; gradients are float32."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, *tensors: Tensor) -> Tensor:
        weights, biases = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.rows = [len(bias) for bias in biases]
        weight = _joined(weights, state.dtype)
        ctx.save_for_backward(state, weight)
        return product_plus(_joined(biases, state.dtype), state, weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        state, weight = ctx.saved_tensors
        back = product(gradient, weight) if ctx.needs_input_grad[0] else None
        weights = product(gradient.t(), state).split(ctx.rows)
        biases = gradient.sum(0).split(ctx.rows)
        return back, *(part.float() for part in (*weights, *biases))


def _joined(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Return tensors in one, along their first axis, in ``dtype``."""
    if len(parts) == 1:
        return parts[0].detach().to(dtype)
    rows = [len(part) for part in parts]
    whole = torch.empty((sum(rows), *parts[0].shape[1:]), dtype=dtype)
    for target, part in zip(whole.split(rows), parts, strict=True):
        target.copy_(part.detach())
    return whole


class _Attention(torch.autograd.Function):
    """softmax(q·kᵀ·scaling + bias)·v with dropout on the weights.

    ``first`` is (batch, tokens, 3, heads, size) with q, k and v, or (batch, queries, 1, heads,
    size) with q alone; then ``rest`` has k and v. The result is (batch · queries, heads · size).
    """

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, rest: Tensor | None, bias: Tensor | None, scaling: float, p: float
    ) -> Tensor:
        parts = [*first.unbind(2), *(rest.unbind(2) if rest is not None else ())]
        query, key, value = (part.transpose(1, 2).contiguous() for part in parts)
        scores = product(query, key.transpose(2, 3)).float().mul_(scaling)
        if bias is not None:
            scores += bias
        weights = scores.softmax(-1)
        keep, factor = _draw(weights.shape, p, query.dtype)
        dropped = _drop(weights.mul(factor).to(query.dtype), keep)
        ctx.save_for_backward(query, key, value, weights, dropped, keep)
        ctx.scaling, ctx.factor, ctx.apart = scaling, factor, rest is not None
        found = product(dropped, value).transpose(1, 2)
        return found.reshape(found.shape[0] * found.shape[1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, dropped, keep = ctx.saved_tensors
        batch, heads, queries, size = query.shape
        out = gradient.view(batch, queries, heads, size).transpose(1, 2).contiguous()
        back = _drop(product(out, value.transpose(2, 3)), keep).float().mul_(ctx.factor)
        scores = torch._softmax_backward_data(back, weights, -1, torch.float32)
        scores = scores.mul_(ctx.scaling).to(query.dtype)
        found = (
            product(scores, key),
            product(scores.transpose(2, 3), query),
            product(dropped.transpose(2, 3), out),
        )
        groups = (found[:1], found[1:]) if ctx.apart else (found,)
        packed = []
        for group in groups:
            whole = query.new_empty((batch, group[0].shape[2], len(group), heads, size))
            for target, part in zip(whole.unbind(2), group, strict=True):
                target.copy_(part.transpose(1, 2))
            packed.append(whole)
        return packed[0], packed[1] if ctx.apart else None, None, None, None


class _AddNorm(torch.autograd.Function):
    """LayerNorm(dropout(values) + residual) in float32; a copy in the dtype of ``values``."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        p: float,
    ) -> Any:
        keep, factor = _draw(values.shape, p, values.dtype)
        summed = torch.add(residual, _drop(values, keep), alpha=factor)
        found, mean, scale = torch.native_layer_norm(summed, [summed.shape[-1]], weight, bias, eps)
        ctx.save_for_backward(summed, mean, scale, weight, bias, keep)
        ctx.factor, ctx.dtype = factor, values.dtype
        ctx.set_materialize_grads(False)
        return found if values.dtype == torch.float32 else (found, found.to(values.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        summed, mean, scale, weight, bias, keep = ctx.saved_tensors
        present = [gradient for gradient in gradients if gradient is not None]
        gradient = present[0].float() if len(present) == 1 else present[0] + present[1]
        back, weight_gradient, bias_gradient = torch.ops.aten.native_layer_norm_backward(
            gradient, summed, [summed.shape[-1]], mean, scale, weight, bias, [True, True, True]
        )
        values = _drop(back.mul(ctx.factor).to(ctx.dtype), keep)
        return values, back, weight_gradient, bias_gradient, None, None


def _draw(shape: torch.Size, p: float, dtype: torch.dtype) -> tuple[Tensor | None, float]:
    """Draw which elements stay: all bits set where one does, none where not, and their factor."""
    dropped = round(p * _DRAWS)
    if dropped == 0:
        return None, 1.0
    if dropped >= _DRAWS:
        return torch.zeros(shape, dtype=_INTEGER[dtype]), 0.0
    elements = shape.numel()
    # One 64-bit number for four elements; full range, so every bit is random.
    draws = torch.empty(-(-elements // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[:elements].bitwise_and_(_DRAWS - 1)
    # dropped - 1 - bits is negative where bits >= dropped; its sign, spread over all bits.
    bits.neg_().add_(dropped - 1).bitwise_right_shift_(15)
    return bits.view(shape).to(_INTEGER[dtype]), _DRAWS / (_DRAWS - dropped)


def _drop(values: Tensor, keep: Tensor | None) -> Tensor:
    """Return ``values`` with zeros where they are not kept, whatever stood there."""
    if keep is None:
        return values
    return values.view(keep.dtype).bitwise_and(keep).view(values.dtype)
