"""Criteria: how much a weight matters. One formula each; higher = keep.

A criterion maps a flat piece of weights (float32, any length) to scores of the same length. It sees
a tensor in pieces, so that selection needs no copy of the model; a formula may therefore look at
each weight alone. Scores may be negative and infinite, but never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ticketry.errors import unknown_name

Criterion = Callable[[Tensor], Tensor]


def magnitude(weights: Tensor) -> Tensor:
    """Score a weight by its absolute value.

    Source: Han et al. 2015, arXiv 1506.02626, §3.
    """
    return weights.abs()


CRITERIA: Mapping[str, Criterion] = {"magnitude": magnitude}


def criterion_named(name: str) -> Criterion:
    """Return a criterion.

    Raises:
        UnknownNameError: shows the nearest names.
    """
    if name not in CRITERIA:
        raise unknown_name("criterion", name, CRITERIA)
    return CRITERIA[name]
