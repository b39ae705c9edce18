"""Items: the weights, blocks or units that are ranked, and how many of them each tensor keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ticketry.combination import Blocks
from ticketry.core import allocation as sharing
from ticketry.core import keys as keying
from ticketry.core import structured
from ticketry.core.allocation import layer_floors
from ticketry.core.keys import Pass, keep_highest
from ticketry.core.mask import Mask
from ticketry.core.pattern import Shapes, Unit, check_units
from ticketry.core.scoring import Scores
from ticketry.errors import MaskError


@dataclass(frozen=True)
class Items:
    """What is ranked.

    Attributes:
        called: the word for them in messages.
        shapes: name -> shape of the items of a tensor, or of a group of tensors.
        keys: a pass over some of them.
        allowed: the items that may be kept; None: all.
    """

    called: str
    shapes: Shapes
    keys: Callable[[Shapes], Pass]
    allowed: Mask | None

    @property
    def sizes(self) -> dict[str, int]:
        """Return name -> how many."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}


@dataclass(frozen=True)
class Shares:
    """How items are shared out.

    Attributes:
        allocation: its name.
        layer_densities: what ``given`` gives.
        shapes: name -> shape of the weights.
        members: name of a group of items -> the tensors it lies in.
    """

    allocation: str
    layer_densities: Mapping[str, float]
    shapes: Shapes
    members: Mapping[str, tuple[str, ...]]


def weight_keys(scores: Scores | torch.Generator) -> Callable[[Shapes], Pass]:
    """Return what passes over weights, scored or drawn."""
    if isinstance(scores, torch.Generator):
        return lambda shapes: keying.drawn(shapes, scores)
    return lambda shapes: keying.scored(scores, shapes)


def _held(scores: Mapping[str, Tensor]) -> Callable[[Shapes], Pass]:
    return lambda shapes: keying.held(scores, shapes)


def block_items(
    scores: Scores | torch.Generator,
    matrices: structured.Matrices,
    kind: Blocks,
    within: Mask | None,
) -> Items:
    """Return the blocks of a model; drawn ones have no scores.

    Raises:
        ScopeError: blocks that do not fill a tensor.
        ScoreError: a score, or a mean, that is NaN.
    """
    shapes = structured.block_shapes(matrices, kind)
    keys = (
        weight_keys(scores)
        if isinstance(scores, torch.Generator)
        else _held(structured.block_scores(scores, matrices, shapes, kind))
    )
    allowed = None if within is None else structured.whole_blocks(within, matrices, kind)
    return Items("blocks", shapes, keys, allowed)


def select_units(
    scores: Scores | torch.Generator,
    units: Sequence[Unit],
    density: float | None,
    shares: Shares,
    within: Mask | None,
) -> Mask:
    """Keep the best units and what lies outside all of them; see :func:`select.select`.

    Args:
        scores: of the weights, or a generator to draw the units from.
        units: heads or neurons, which share no weight.
        density: kept / all units; None only where layer densities are given.
        shares: the allocation; its members are replaced by the groups of units.
        within: keep only weights that this mask keeps, and units that it keeps entirely.

    Raises:
        ScopeError: units that lie outside the tensors or share weights.
        ScoreError: a score, or a mean, that is NaN.
        ConfigError, MaskError: as :func:`choose`.
    """
    check_units(units, shares.shapes)
    groups = structured.unit_groups(units)
    if shares.allocation == "global":  # one ranking, so that ties go to the earlier unit
        groups = {"": (list(range(len(units))), tuple(shares.shapes))}
    shapes = {name: (len(indices),) for name, (indices, _) in groups.items()}
    if isinstance(scores, torch.Generator):
        keys = weight_keys(scores)
    else:
        means = structured.unit_scores(scores, units)
        keys = _held({name: means[indices] for name, (indices, _) in groups.items()})
    allowed = None
    if within is not None:
        whole = torch.tensor(structured.whole_units(within, units))
        allowed = Mask({name: whole[indices] for name, (indices, _) in groups.items()})
    members = {name: tensors for name, (_, tensors) in groups.items()}
    chosen = choose(
        Items("units", shapes, keys, allowed), density, replace(shares, members=members), 0.0
    )
    kept = [False] * len(units)
    for name, (indices, _) in groups.items():
        for index, keep in zip(indices, chosen[name].tolist(), strict=True):
            kept[index] = keep
    return structured.spread_units(kept, units, shares.shapes, within)


def choose(items: Items, density: float | None, shares: Shares, min_layer_density: float) -> Mask:
    """Keep the best items, as many as density and allocation say.

    Raises:
        ConfigError: layer densities or a floor that cannot be.
        MaskError: fewer items are allowed than are asked for, in all or in a tensor.
    """
    sizes = items.sizes
    total = sum(sizes.values())
    parts: Mapping[str, Fraction] = {}
    if shares.allocation == "given":
        parts, count = sharing.given(shares.layer_densities, sizes, shares.members, density)
    else:
        assert density is not None, "only layer densities make up for a missing density"
        count = round(density * total)
    if items.allowed is not None and count > items.allowed.kept:
        raise MaskError(
            f"density {count / total:g} asks for {count:,} of {total:,} {items.called}, but within "
            f"keeps {items.allowed.kept:,}; expected at most density {items.allowed.density:g}."
        )
    if shares.allocation == "global":
        if not min_layer_density:
            return keep_highest(items.keys(items.shapes), items.shapes, count, items.allowed)
        floors = _floors(items, count, min_layer_density)
        floor = _keep_counts(items, floors)
        allowed = ~floor if items.allowed is None else items.allowed & ~floor
        rest = count - floor.kept
        return floor | keep_highest(items.keys(items.shapes), items.shapes, rest, allowed)
    if shares.allocation == "uniform":
        parts = sharing.uniform(sizes, count)
    elif shares.allocation == "erk":
        parts = sharing.erk(shares.shapes, sizes, count)
    limits = sizes
    if items.allowed is not None:
        limits = {name: items.allowed.kept_in(name) for name in sizes}
    return _keep_counts(items, sharing.whole(parts, limits, count, shares.allocation))


def _keep_counts(items: Items, counts: Mapping[str, int]) -> Mask:
    """Keep the best of each tensor, as many as ``counts`` says."""
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name, shape in items.shapes.items():
        one = {name: shape}
        allowed = None
        if items.allowed is not None:
            allowed = Mask.from_packed({name: (shape, items.allowed.packed(name))})
        kept = keep_highest(items.keys(one), one, counts[name], allowed)
        packed[name] = (shape, kept.packed(name))
    return Mask.from_packed(packed)


def _floors(items: Items, count: int, min_layer_density: float) -> dict[str, int]:
    floors = layer_floors(items.shapes, count, min_layer_density)
    for name, floor in floors.items():
        if items.allowed is not None and floor > items.allowed.kept_in(name):
            raise MaskError(
                f"min_layer_density {min_layer_density} needs {floor:,} {items.called} of tensor "
                f"{name!r}, but within keeps {items.allowed.kept_in(name):,} there; expected the "
                "same floor when within was selected."
            )
    return floors
