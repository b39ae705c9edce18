"""Where attention heads and MLP neurons lie, and which way a matrix is stored.

A family says it as data (:class:`ticketry.models.layout.Layout`): which tensors of a layer are
cut along which axis into as many equal slices as there are units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ticketry.core.pattern import Part, Unit
from ticketry.errors import ScopeError
from ticketry.models.families import FAMILIES
from ticketry.models.layout import Cut, Family, Layout
from ticketry.models.loading import base_model, config_of, some_names

KINDS: Mapping[str, str] = {"head": "attention heads", "neuron": "MLP neurons"}


def units(backbone: nn.Module, kind: str, names: Sequence[str]) -> tuple[Unit, ...]:
    """Return the heads or neurons that lie in a scope, layer by layer.

    Args:
        backbone: a base model, or a task model on one.
        kind: ``"head"`` or ``"neuron"``. Where query heads share keys and values, a head is a
            group of those that do, with its keys and values.
        names: the scope; a layer of which it holds nothing is left out.

    Raises:
        ScopeError: the family does not say where they lie, or has none; the scope holds a part of
            a layer's tensors only; or it holds no units at all.
    """
    base = base_model(backbone)
    config = config_of(backbone)
    family = FAMILIES.get(str(config.model_type))
    layouts = _layouts(family, kind, str(config.model_type))
    shapes = {name: tuple(p.shape) for name, p in base.named_parameters()}
    found: list[Unit] = []
    for layout in layouts:
        for layer in _layers(layout, shapes):
            held = [name for name in layer if name in set(names)]
            if not held:
                continue
            if len(held) < len(layer):
                raise ScopeError(
                    f"pattern {kind} keeps or prunes {KINDS[kind]} in all their tensors, but the "
                    f"scope holds {some_names(held)} without "
                    f"{some_names([name for name in layer if name not in held])}; take them all "
                    "into the scope, or none of that layer."
                )
            found += _units_of(layout, layer, shapes, config, kind)
    if not found:
        raise ScopeError(
            f"the scope holds no {KINDS[kind]} ({some_names(list(names))}); use a scope that "
            "holds their tensors, such as 'encoder'."
        )
    return tuple(found)


def input_axes(backbone: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Return name -> 0 for the tensors of a scope that are stored [in, out].

    All others have their outputs first: [out, in], or [out, in, kh, kw].
    """
    turned = {
        f"{name}.weight"
        for name, module in base_model(backbone).named_modules()
        if isinstance(module, Conv1D)
    }
    return dict.fromkeys((name for name in names if name in turned), 0)


def _layouts(family: Family | None, kind: str, model_type: str) -> tuple[Layout, ...]:
    layouts = {} if family is None else {"head": family.heads, "neuron": family.neurons}
    if found := layouts.get(kind):
        return found
    known = [f.model_type for f in FAMILIES.values() if (f.heads if kind == "head" else f.neurons)]
    raise ScopeError(
        f"ticketry does not know where {KINDS[kind]} lie in {model_type} models, or they have "
        f"none; pattern {kind} is known for {', '.join(sorted(known))}. Use another pattern."
    )


def _layers(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, ...]]:
    """Return, for each layer, its tensors in the order of the layout's cuts."""
    layers = []
    for name in shapes:
        where = _numbers(layout.cuts[0].tensor, name)
        if where is None:
            continue
        tensors = tuple(_numbered(cut.tensor, where) for cut in layout.cuts)
        layers.append(tuple(tensor for tensor in tensors if tensor in shapes))
    return layers


def _units_of(
    layout: Layout,
    layer: tuple[str, ...],
    shapes: Mapping[str, tuple[int, ...]],
    config: Any,
    kind: str,
) -> list[Unit]:
    where = _numbers(layout.cuts[0].tensor, layer[0])
    assert where is not None
    cuts = {_numbered(cut.tensor, where): cut for cut in layout.cuts}
    count = _count(layout, config, shapes[layer[0]])
    for name in layer:
        cut = cuts[name]
        size = shapes[name][cut.axis]
        if size % (count * cut.blocks):
            raise ScopeError(
                f"tensor {name} has {size} along axis {cut.axis}, which {count} {KINDS[kind]} "
                f"{f'in {cut.blocks} blocks ' if cut.blocks > 1 else ''}do not share evenly; use "
                "another pattern for this model."
            )
    place = layer[0].rsplit(".", 2)[0]
    return [
        Unit(
            f"{kind} {number} of {place}",
            tuple(
                part for name in layer for part in _parts(name, cuts[name], shapes, count, number)
            ),
        )
        for number in range(count)
    ]


def _parts(
    name: str, cut: Cut, shapes: Mapping[str, tuple[int, ...]], count: int, number: int
) -> list[Part]:
    block = shapes[name][cut.axis] // cut.blocks
    width = block // count
    starts = [b * block + number * width for b in range(cut.blocks)]
    return [Part(name, cut.axis, start, start + width) for start in starts]


def _count(layout: Layout, config: Any, shape: tuple[int, ...]) -> int:
    for key in layout.count:
        if (value := getattr(config, key, None)) is not None:
            return int(value)
    cut = layout.cuts[0]
    return shape[cut.axis] // cut.blocks


def _numbers(pattern: str, name: str) -> tuple[str, ...] | None:
    """Return what stands for each ``*`` of a pattern (between dots), None where it does not fit."""
    expression = re.escape(pattern).replace(r"\*", r"([^.]+)")
    match = re.fullmatch(expression, name)
    return None if match is None else match.groups()


def _numbered(pattern: str, where: tuple[str, ...]) -> str:
    parts = pattern.split("*")
    return parts[0] + "".join(number + part for number, part in zip(where, parts[1:], strict=True))
