"""Allocation: how many weights (blocks, units) each tensor keeps, of a total for all.

Shares are exact fractions; what is left after rounding down goes, one each, to the largest
remainders (ties: name order). Nothing here looks at scores.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from ticketry.core.pattern import Shapes
from ticketry.errors import ConfigError, MaskError

Counts = Mapping[str, int]


def uniform(sizes: Counts, count: int) -> dict[str, Fraction]:
    """Give each tensor the same density.

    Args:
        sizes: name -> how many there are.
        count: how many are kept in all.
    Returns:
        name -> share; they add up to ``count``.
    """
    total = sum(sizes.values())
    return {name: Fraction(count * size, total or 1) for name, size in sizes.items()}


def erk(shapes: Shapes, sizes: Counts, count: int) -> dict[str, Fraction]:
    """Give each tensor a density that grows as its shape is smaller (Erdős–Rényi kernel).

    The density is ε·(n_in + n_out + kh + kw) / (n_in·n_out·kh·kw), that is the sum of the shape
    over its product; ε is the same for all and makes the total exact. Tensors that would pass
    density 1 are dense, and the others share the rest.

    Args:
        shapes: name -> the weights' shape.
        sizes: name -> how many (weights, or blocks of one size) there are.
        count: how many are kept in all.
    Returns:
        name -> share, at most its size; they add up to ``count``.

    Source: Evci et al. 2020, arXiv 1911.11134, §3 (1), and Mocanu et al. 2018, arXiv 1707.04780.
        Differs: a linear layer follows the same rule with kh and kw absent, one dimension counts
        as a shape of one number, and the total is exact.
    """
    dense: dict[str, Fraction] = {}
    rest = {name: sum(shapes[name]) for name, size in sizes.items() if size}
    while True:
        left = count - sum(dense.values())
        scale = Fraction(left) / (sum(rest.values()) or 1)
        full = [name for name, part in rest.items() if scale * part > sizes[name]]
        if not full:
            shares = {name: scale * part for name, part in rest.items()}
            return {name: (dense | shares).get(name, Fraction(0)) for name in sizes}
        for name in full:
            del rest[name]
            dense[name] = Fraction(sizes[name])


def given(
    layer_densities: Mapping[str, float],
    sizes: Counts,
    members: Mapping[str, tuple[str, ...]],
    density: float | None,
) -> tuple[dict[str, Fraction], int]:
    """Give each tensor the density that the first matching pattern names.

    Args:
        layer_densities: glob on tensor names (``*`` also crosses dots) -> density in [0, 1]; the
            first that matches a tensor decides.
        sizes: name of a group -> how many there are to keep or prune.
        members: name of a group -> the tensors it lies in, which must be given one density; a
            tensor by itself is the group of its own.
        density: of the total; None: whatever the layers add up to.
    Returns:
        group -> share, and the total: round(density · n), or the rounded sum of the shares.

    Raises:
        ConfigError: lists every density out of range, pattern that decides nothing, tensor that no
            pattern matches and group of two densities; or the layers' total is not that of
            ``density`` (it may be off by one weight a layer).
    """
    faults: list[str] = []
    for pattern, value in layer_densities.items():
        if not 0 <= value <= 1:
            faults.append(
                f"layer_densities gives {pattern!r} density {value}; expected a number in [0, 1]."
            )
    decided = {
        name: next((p for p in layer_densities if fnmatch.fnmatchcase(name, p)), None)
        for name in sorted(set(itertools.chain.from_iterable(members.values())))
    }
    if open_ := [name for name, pattern in decided.items() if pattern is None]:
        some = ", ".join(open_[:3]) + (", …" if len(open_) > 3 else "")
        faults.append(
            f"layer_densities matches none of {len(open_)} tensor(s): {some}; expected each tensor "
            "to match a pattern. A last pattern '*' takes the others."
        )
    for pattern in layer_densities:
        if pattern not in decided.values():
            faults.append(
                f"layer_densities pattern {pattern!r} decides no tensor: none matches it, or an "
                "earlier pattern takes them. Drop it, or move it up."
            )
    for names in members.values():
        found = {layer_densities[p] for name in names if (p := decided[name]) is not None}
        if len(found) > 1:
            faults.append(
                f"layer_densities gives {', '.join(names)} the densities "
                f"{', '.join(f'{value:g}' for value in sorted(found))}; expected one: units "
                "lie in all of them."
            )
    if faults:
        raise ConfigError(faults)
    shares: dict[str, Fraction] = {}
    for group, size in sizes.items():
        (value,) = {layer_densities[p] for n in members[group] if (p := decided[n]) is not None}
        # In decimal, as the user wrote it: 0.07 * 100 in floats is above 7.
        shares[group] = Fraction(Decimal(repr(float(value)))) * size
    return _scaled(shares, sizes, density)


def _scaled(
    shares: dict[str, Fraction], sizes: Counts, density: float | None
) -> tuple[dict[str, Fraction], int]:
    total, kept = sum(sizes.values()), sum(shares.values(), Fraction(0))
    if density is None:
        return shares, round(kept)
    if abs(kept - Fraction(density) * total) > len(sizes):
        raise ConfigError(
            f"layer_densities add up to density {float(kept / (total or 1)):.6g}, but density is "
            f"{density:.6g}; expected the same. Give the one, or leave density out."
        )
    return shares, round(density * total)


def whole(shares: Mapping[str, Fraction], limits: Counts, count: int, what: str) -> dict[str, int]:
    """Round shares to whole numbers that add up to ``count``.

    Each share is rounded down; the rest goes to the largest remainders, one each, where the limit
    leaves room (again from the start if needed). Where rounding down is already too many, as a
    ``given`` total can have it, one each is taken from the smallest remainders.

    Args:
        shares: name -> exact share.
        limits: name -> the most that can be kept there.
        count: the total.
        what: the allocation, for the message.

    Raises:
        MaskError: a tensor is to keep more than its limit, or the limits hold fewer than
            ``count``.
    """
    counts = {name: int(share) for name, share in shares.items()}
    for name in sorted(counts):
        if counts[name] > limits[name]:
            raise MaskError(
                f"allocation {what} keeps {counts[name]:,} of tensor {name!r}, but within keeps "
                f"{limits[name]:,} there; expected a mask of the same allocation."
            )
    if sum(limits.values()) < count:
        raise MaskError(
            f"allocation {what} keeps {count:,} in all, but within keeps "
            f"{sum(limits.values()):,}; expected a lower density."
        )
    ranked = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    missing = count - sum(counts.values())
    while missing > 0:
        for name in ranked:
            if missing and counts[name] < limits[name]:
                counts[name] += 1
                missing -= 1
    while missing < 0:
        for name in reversed(ranked):
            if missing and counts[name]:
                counts[name] -= 1
                missing += 1
    return counts


def layer_floors(shapes: Shapes, kept: int, min_layer_density: float) -> dict[str, int]:
    """Return how many weights each tensor keeps at least: its share, rounded up.

    Args:
        shapes: name -> shape.
        kept: weights that are kept in all.
        min_layer_density: as in :func:`ticketry.core.select.select`.

    Raises:
        ConfigError: the floors add up to more than is kept in all.
    """
    # In decimal, as the user wrote it: 0.07 * 100 in floats is above 7.
    share = Decimal(repr(float(min_layer_density)))
    floors = {name: math.ceil(share * math.prod(shape)) for name, shape in shapes.items()}
    if sum(floors.values()) > kept:
        raise ConfigError(
            f"min_layer_density {min_layer_density} needs {sum(floors.values()):,} weights, but "
            f"only {kept:,} are kept in all; expected a floor below the density."
        )
    return floors
