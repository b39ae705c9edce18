"""How alike two masks are, beside what chance gives: overlap, cosine, agreement. Pure arithmetic.

Of n weights the first mask keeps a, the second b, both keep x, neither keeps y = n − a − b + x.

| measure | of the kept | of the pruned |
|---|---|---|
| overlap | x / (a + b − x) | y / (n − x) |
| cosine of the 0/1 vectors | x / √(a·b) | y / √((n − a)(n − b)) |
| agreement | (x + y) / n | the same |

Chance is two independent random masks with the counts of these two, drawn in one of two ways:

- ``density``: a and b weights out of all n. X is hypergeometric: E X = a·b/n,
  Var X = a·b·(n − a)·(n − b) / (n²·(n − 1)).
- ``layers``: a_l and b_l out of the n_l weights of each tensor. Means and variances add up.

Cosine and agreement are linear in X, so their means and spreads are exact. An overlap f(X) is
convex in X: its mean is at least f(E X), which is what stands here as chance, and at most
f(E X) + (a + b)·Var X / max(a, b)³, as f″(x) = 2(a + b) / (a + b − x)³ is largest at the largest
x = min(a, b). This bound is given as the gap; with a = b = n/2 it is 1 / (2n − 2). The spread of
an overlap is f′(E X)·σ(X), to first order.

Given a and b every measure grows with x alone, so one number says how far all of them lie beyond
chance: z = (x − E X) / σ(X). And layer densities that are alike make masks overlap by
themselves: of what is shared beyond chance at the two densities, x − a·b/n, they give
Σ a_l·b_l/n_l − a·b/n. The share is ``by_layers``, the same for every measure linear in x; for
a mask and itself it is the correlation ratio η² of "kept" on the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ticketry.core.mask import Mask, check_shapes
from ticketry.errors import MaskError

MEASURES = ("kept", "pruned", "kept_cosine", "pruned_cosine", "agreement")


@dataclass(frozen=True)
class Shared:
    """How much of some weights two masks keep.

    Attributes:
        weights: n.
        first: kept by the first mask, a.
        second: kept by the second, b.
        both: kept by both, x.
    """

    weights: int
    first: int
    second: int
    both: int

    @property
    def expected(self) -> float:
        """Return E X: what two random masks with these counts share on average."""
        return self.first * self.second / self.weights if self.weights else 0.0

    @property
    def variance(self) -> float:
        """Return Var X of the same; 0 where nothing is left to chance."""
        n, a, b = self.weights, self.first, self.second
        return a * b * (n - a) * (n - b) / (n * n * (n - 1)) if n > 1 else 0.0


def shared(first: Mask, second: Mask) -> dict[str, Shared]:
    """Count, tensor by tensor, what two masks keep.

    Raises:
        MaskError: the masks are of different tensors.
    """
    check_shapes(
        {name: second.shape(name) for name in second},
        {name: first.shape(name) for name in first},
        "the other mask",
        "this mask",
    )
    counts = {}
    for row in first.layers():
        bits = [np.frombuffer(mask.packed(row.name), dtype=np.uint8) for mask in (first, second)]
        both = int(np.bitwise_count(bits[0] & bits[1]).sum(dtype=np.int64))
        counts[row.name] = Shared(row.prunable, row.kept, second.kept_in(row.name), both)
    return counts


def likeness(
    first: Mask, second: Mask, groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Measure how alike two masks are; see this module's head for the formulas.

    Args:
        first: a mask.
        second: a mask of the same tensors.
        groups: name -> tensors, measured together as well, such as those of one kind of matrix.
            Chance at the two densities is then at the group's.
    Returns:
        JSON values: the counts ``weights``, ``first``, ``second``, ``both``; the measures ``kept``
        and ``pruned`` (overlaps), ``kept_cosine``, ``pruned_cosine``, ``agreement``, all in
        [0, 1]; ``chance``: ``density`` and ``layers``, each with ``both``, ``both_spread`` and
        ``z`` (None where chance has no spread), every measure, its ``…_spread``, and
        ``kept_gap``, ``pruned_gap`` by which the mean of an overlap may be higher at most;
        ``by_layers`` (None where no more is shared than by chance). ``tensors`` and ``groups``
        list the same of parts, with their ``name``.

    Raises:
        MaskError: the masks are of different tensors, or lack one of a group.
    """
    counts = shared(first, second)
    if unknown := [
        name for tensors in (groups or {}).values() for name in tensors if name not in counts
    ]:
        raise MaskError(
            f"the groups name {len(unknown)} tensor(s) that the masks lack: "
            f"{', '.join(unknown[:3])}; expected tensors of the masks."
        )
    return {
        **_said(list(counts.values())),
        "tensors": [{"name": name, **_said([count])} for name, count in counts.items()],
        "groups": [
            {"name": name, **_said([counts[tensor] for tensor in tensors])}
            for name, tensors in (groups or {}).items()
        ],
    }


def measures(counts: Shared, both: float) -> dict[str, float]:
    """Return every measure, had the masks shared ``both`` weights; see this module's head.

    Two empty sets are alike (1); an empty one and another have the cosine 0.
    """
    n, a, b = counts.weights, counts.first, counts.second
    neither = n - a - b + both
    return {
        "kept": _ratio(both, a + b - both),
        "pruned": _ratio(neither, n - both),
        "kept_cosine": _cosine(both, a, b),
        "pruned_cosine": _cosine(neither, n - a, n - b),
        "agreement": _ratio(both + neither, n),
    }


def _said(layers: Sequence[Shared]) -> dict[str, Any]:
    whole = Shared(
        sum(layer.weights for layer in layers),
        sum(layer.first for layer in layers),
        sum(layer.second for layer in layers),
        sum(layer.both for layer in layers),
    )
    by_layer = sum(layer.expected for layer in layers)
    excess = whole.both - whole.expected
    return {
        "weights": whole.weights,
        "first": whole.first,
        "second": whole.second,
        "both": whole.both,
        **measures(whole, whole.both),
        "chance": {
            "density": _chance(whole, whole.expected, whole.variance),
            "layers": _chance(whole, by_layer, sum(layer.variance for layer in layers)),
        },
        "by_layers": (by_layer - whole.expected) / excess if excess > _NOTHING else None,
    }


_NOTHING = 1e-6
"""Weights; a difference of expectations below it is rounding."""


def _chance(counts: Shared, expected: float, variance: float) -> dict[str, float | None]:
    spread = math.sqrt(variance)
    found: dict[str, float | None] = {
        "both": expected,
        "both_spread": spread,
        "z": (counts.both - expected) / spread if spread else None,
    }
    slopes = _slopes(counts, expected)
    for name, value in measures(counts, expected).items():
        found[name] = value
        found[f"{name}_spread"] = slopes[name] * spread
    n, a, b = counts.weights, counts.first, counts.second
    found["kept_gap"] = _gap(a, b, variance)
    found["pruned_gap"] = _gap(n - a, n - b, variance)
    return found


def _slopes(counts: Shared, both: float) -> dict[str, float]:
    """Return the derivative of each measure in ``both``."""
    n, a, b = counts.weights, counts.first, counts.second
    return {
        "kept": _over(a + b, (a + b - both) ** 2),
        "pruned": _over(2 * n - a - b, (n - both) ** 2),
        "kept_cosine": _over(1.0, math.sqrt(a * b)),
        "pruned_cosine": _over(1.0, math.sqrt((n - a) * (n - b))),
        "agreement": _over(2.0, n),
    }


def _gap(a: int, b: int, variance: float) -> float:
    """Return the most by which the mean of an overlap exceeds the overlap at the mean."""
    return _over((a + b) * variance, float(max(a, b)) ** 3)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _cosine(both: float, a: int, b: int) -> float:
    if not a and not b:
        return 1.0
    return _over(both, math.sqrt(a * b))


__all__ = ["MEASURES", "Shared", "likeness", "measures", "shared"]
