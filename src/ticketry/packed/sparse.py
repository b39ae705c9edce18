"""Which layers of a packed model become sparse as it is loaded, and their swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from ticketry.packed.form import Entry
from ticketry.runtime.accelerating import (
    LEAST_SPARSITY,
    TOKENS,
    matrices,
    read_directly,
    sparse_layer,
)
from ticketry.runtime.convolution import pointwise, unfit
from ticketry.runtime.encoders import turn


def choose(model: Any, entries: Iterable[Entry]) -> frozenset[str]:
    """Return the names of the weights that stay packed.

    Those of linear layers and of convolutions of one pixel, of 40% sparsity or more, which share
    their weight with nothing else.

    Args:
        model: built, without weights.
        entries: of the file, which may carry or lack the base's prefix.
    """
    direct = read_directly(model)
    layers = {
        f"{name}.weight"
        for name, module in matrices(model)
        if name not in direct and not (pointwise(module) and unfit(module))
    }
    parameters = dict(model.named_parameters(remove_duplicate=False))
    uses = Counter(id(parameter) for parameter in parameters.values())
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    chosen = set()
    for entry in entries:
        name = _name_in(layers, entry.name, model.base_model_prefix)
        if name is None or name in tied:
            continue
        weight = parameters[name]
        if (
            uses[id(weight)] == 1
            and tuple(weight.shape) == entry.shape
            and entry.sparsity >= LEAST_SPARSITY
        ):
            chosen.add(name)
    return frozenset(chosen)


def _name_in(known: Collection[str], name: str, prefix: str) -> str | None:
    """Return what a tensor of the file is called in the model; either may lack the prefix."""
    ways = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((way for way in ways if way in known), None)


def swap(model: Any, names: Iterable[str]) -> None:
    """Put sparse layers in the place of those whose weight was loaded packed.

    Encoders like BERT's keep tokens in the last axis where that is faster.
    """
    for name in sorted(names):
        layer = name.removesuffix(".weight")
        module = model.get_submodule(layer)
        packed = module.weight.detach()
        model.set_submodule(layer, sparse_layer(module, packed).eval())
    turn(model, TOKENS)
