"""Swap a model's sparse matrices for packed ones, wherever that is faster on this machine."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ticketry.errors import MaskError, ModelError, unknown_name
from ticketry.runtime import native, ops, packing
from ticketry.runtime.convolution import SparseConv2d, pointwise, sparse_conv, unfit
from ticketry.runtime.modules import SparseLayer, SparseLinear

TOKENS = 128
GAIN = 1.05
"""How many times faster sparse must be to be chosen."""
LEAST_SPARSITY = 0.4
"""Below this no kernel wins; nothing is packed or measured."""
_ROUNDS = 5
_ROUND_S = 1e-3


@dataclass(frozen=True)
class Layer:
    """What became of one linear layer, or convolution of one pixel.

    Attributes:
        name: of the module in the model.
        rows: outputs.
        columns: inputs.
        sparsity: pruned / all weights, in [0, 1].
        runs_as: ``"sparse"`` or ``"dense"``.
        why: in words.
        dense_s: seconds of the dense layer, the fastest round; None where it was not measured.
        sparse_s: the same of the sparse one.
    """

    name: str
    rows: int
    columns: int
    sparsity: float
    runs_as: str
    why: str
    dense_s: float | None = None
    sparse_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def accelerate(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    tokens: int = TOKENS,
    values: str = "fp32",
    always: bool = False,
) -> list[Layer]:
    """Swap a model's sparse linear layers and convolutions of one pixel for packed ones, in place.

    Encoders like BERT's then keep tokens in the last axis from end to end, where that is faster.

    The outputs stay the same up to the order of float32 sums: within 1e-5 of the largest activation
    for one layer. With fewer bits a value, each swapped weight is also rounded (see ``values``): a
    layer's output moves by at most the sum over its inputs of |input| times that rounding.

    Args:
        model: any module on a CPU, in evaluation mode.
        masks: module name -> bool like the weight, True = kept; other layers stay as they are. None
            takes every layer's zeros as pruned.
        tokens: rows of the input (batch x tokens) at which dense and sparse are compared; for a
            convolution, pixels of an image.
        values: how kept weights are stored: ``"fp32"``; ``"bf16"``, at most 2⁻⁸ of each away; or
            ``"int8"``, at most 1/254 of their row's largest away. Sums are float32 in any case.
            They take 5, 3 or 2 bytes a kept weight.
        always: swap whatever has zeros, without measuring.
    Returns:
        What became of each layer, in the model's order.

    Raises:
        ModelError: the model is in training mode, or a mask's layer is missing.
        MaskError: a mask does not fit, or the model has weights where it prunes.
        UnknownNameError: values are not stored that way.
        PackedError: a weight is not finite, and values are int8.
    """
    if values not in packing.VALUES:
        raise unknown_name("values", values, packing.VALUES)
    if model.training:
        raise ModelError(
            "the model is in training mode, and sparse layers hold their weights fixed; call "
            "model.eval() first."
        )
    if tokens < 1:
        raise ModelError(f"tokens must be at least 1, not {tokens}.")
    native.isa()  # an impossible choice is refused before anything is touched
    found = dict(matrices(model))
    _check_masks(found, masks)
    if native.library().missing:
        warnings.warn(native.library().missing, stacklevel=2)
    barred = _barred(model)
    measured: dict[tuple[int, int, int, bool], tuple[float, float]] = {}
    layers = []
    for name, module in found.items():
        options = _Options(masks, tokens, values, always)
        layer, packed = _decide(name, module, barred.get(name, ""), options, measured)
        layers.append(layer)
        if packed is not None:
            model.set_submodule(name, sparse_layer(module, packed).eval())
    if any(layer.runs_as == "sparse" for layer in layers):
        from ticketry.runtime.encoders import turn  # it needs transformers

        turn(model, tokens, always)
    return layers


def linears(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield a model's dense linear layers, those of GPT-2 too, each once under its first name."""
    for name, module in model.named_modules():
        if name and (type(module) is nn.Linear or _transposed(module)):
            yield name, module


def matrices(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what :func:`linears` does, and convolutions of one pixel."""
    for name, module in model.named_modules():
        if name and _dense(module):
            yield name, module


def layers_of(model: nn.Module) -> list[Layer]:
    """Return what each linear layer and convolution of one pixel of a model runs as."""
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, SparseLayer):
            out, into = module.out_features, module.in_features
            rows.append(Layer(name, out, into, module.sparsity, "sparse", "packed"))
        elif name and _dense(module):
            out, into = _matrix(module).shape
            rows.append(Layer(name, out, into, _zeros(module), "dense", "not packed"))
    return rows


def _dense(module: Any) -> bool:
    return type(module) is nn.Linear or _transposed(module) or pointwise(module)


def sparse_layer(module: Any, packed: Tensor) -> SparseLayer:
    """Return what stands for one of :func:`matrices`, with its bias and a packed weight."""
    if pointwise(module):
        return SparseConv2d(packed, module.bias, tuple(module.stride))
    return SparseLinear(packed, module.bias, transposed=_transposed(module))


def _transposed(module: Any) -> bool:
    # GPT-2's layer, which stores (in, out); its class is transformers' and not imported here.
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _matrix(module: Any) -> Tensor:
    return as_matrix(module, module.weight.detach())


def as_matrix(module: Any, tensor: Tensor) -> Tensor:
    """Return a tensor like a layer's weight as (out, in)."""
    return tensor.t() if _transposed(module) else tensor.flatten(1)


def _zeros(module: Any) -> float:
    weight = module.weight
    return 1 - int(torch.count_nonzero(weight)) / max(1, weight.numel())


def _check_masks(found: Mapping[str, Any], masks: Mapping[str, Tensor] | None) -> None:
    for name, mask in (masks or {}).items():
        if name not in found:
            raise ModelError(
                f"the model has no dense linear layer {name!r} to accelerate, nor a convolution "
                "of one pixel of that name."
            )
        weight = found[name].weight
        if mask.shape != weight.shape:
            raise MaskError(
                f"the mask of {name} has shape {tuple(mask.shape)}, its weight "
                f"{tuple(weight.shape)}."
            )
        stray = int(torch.count_nonzero(weight.detach()[~mask.to(weight.device)]))
        if stray:
            raise MaskError(
                f"{name} has {stray:,} weights that the mask prunes but the model does not; apply "
                "the ticket first, or load the model that `ticketry train` wrote."
            )


def _barred(model: nn.Module) -> dict[str, str]:
    """Return why some layers cannot be swapped, by name."""
    uses = Counter(
        id(value)
        for module in model.modules()
        for value in module._parameters.values()
        if value is not None
    )
    found = {}
    for name, module in matrices(model):
        if uses[id(module.weight)] > 1:
            found[name] = "it shares its weight with another layer"
        elif module.weight.dtype != torch.float32 or module.weight.device.type != "cpu":
            found[name] = f"it is {module.weight.dtype} on {module.weight.device}".replace(
                "torch.", ""
            )
        elif module._forward_hooks or module._forward_pre_hooks:
            found[name] = "it has hooks"
        elif pointwise(module) and unfit(module):
            found[name] = unfit(module)
    return found | dict.fromkeys(read_directly(model), "torch reads its weight directly")


def read_directly(model: nn.Module) -> frozenset[str]:
    """Return the names of linear layers whose weight torch reads without calling the layer."""
    return frozenset(
        f"{name}.{inner}" if name else inner
        for name, module in model.named_modules()
        if isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention)
        for inner, _ in linears(module)
    )


@dataclass(frozen=True)
class _Options:
    """Of :func:`accelerate`."""

    masks: Mapping[str, Tensor] | None
    tokens: int
    values: str
    always: bool


def _decide(
    name: str,
    module: Any,
    why: str,
    options: _Options,
    measured: dict[tuple[int, int, int, bool], tuple[float, float]],
) -> tuple[Layer, Tensor | None]:
    masks, tokens = options.masks, options.tokens
    weight = _matrix(module)
    rows, columns = weight.shape
    mask = weight.ne(0)
    if masks is not None and name in masks:
        mask = as_matrix(module, masks[name])
    sparsity = 1 - int(mask.count_nonzero()) / max(1, mask.numel())

    def dense(why: str) -> tuple[Layer, None]:
        return Layer(name, rows, columns, sparsity, "dense", why), None

    if why:
        return dense(why)
    if masks is not None and name not in masks:
        return dense("the ticket does not prune it")
    if sparsity == 0:
        return dense("nothing is pruned")
    if options.always:
        packed = packing.pack(weight, mask, values=options.values)
        return Layer(name, rows, columns, sparsity, "sparse", "asked for"), packed
    if native.isa() is None:
        return dense("the sparse kernels are missing")
    if sparsity < LEAST_SPARSITY:
        return dense(f"sparsity is below {LEAST_SPARSITY:.0%}")
    packed = packing.pack(weight, mask, values=options.values)
    key = (rows, columns, round(sparsity * 50), pointwise(module))
    if key not in measured:
        measured[key] = compare(weight, packed, tokens, pointwise(module))
    dense_s, sparse_s = measured[key]
    gain = dense_s / sparse_s
    faster = gain >= GAIN
    why = f"sparse is {gain:.2f} times as fast at {tokens} tokens"
    runs_as = "sparse" if faster else "dense"
    layer = Layer(name, rows, columns, sparsity, runs_as, why, dense_s, sparse_s)
    return layer, packed if faster else None


def compare(
    weight: Tensor, packed: Tensor, tokens: int, pixels: bool = False
) -> tuple[float, float]:
    """Return the seconds of a dense and of a packed layer, taken in turns.

    Of each the fastest round: whatever else the machine does only adds time.

    Args:
        weight: (rows, columns), float32.
        packed: the same, packed.
        tokens: rows of the input.
        pixels: whether the layer is a convolution and the rows are an image's pixels.
    """
    rows, columns = weight.shape
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, columns, generator=generator)
    weight, bias = weight.contiguous(), torch.zeros(rows)
    with torch.inference_mode():
        image, kernel = inputs.t().contiguous()[None, :, None], weight[:, :, None, None]
        ways: tuple[Callable[[], Tensor], ...] = (
            lambda: functional.linear(inputs, weight, bias),
            lambda: ops.sparse_linear(inputs, packed, bias, rows, 0, True),
        )
        if pixels:
            ways = (
                lambda: functional.conv2d(image, kernel, bias),
                lambda: sparse_conv(image, packed, bias, rows),
            )
        seconds: tuple[list[float], ...] = ([], [])
        repeats = [max(1, int(_ROUND_S / timed(way, 2))) for way in ways]
        for _ in range(_ROUNDS):
            for way, times, count in zip(ways, seconds, repeats, strict=True):
                times.append(timed(way, count))
    return min(seconds[0]), min(seconds[1])


def timed(way: Callable[[], Any], count: int) -> float:
    """Return the seconds of one call, the mean of ``count``."""
    start = time.perf_counter()
    for _ in range(count):
        way()
    return (time.perf_counter() - start) / count
