"""Schedules: how sparse each round of a search is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ticketry.errors import ConfigError, unknown_name_message

RATES_OF = ("remaining", "original")
MOST_LEVELS = 1000
"""A round is a training: more than this is taken for a slip."""

_ROUNDING = 1e-9
"""Sparsities closer than this are one level: 1 − 0.7² in floats is not 0.51."""


def sparsity_levels(
    sparsity: float,
    *,
    levels: int | None = None,
    rate: float | None = None,
    rate_of: str = "remaining",
) -> tuple[float, ...]:
    """Return the sparsity after rounds 1..N; the last is exactly the one asked for.

    ``levels=N``: every round keeps the same fraction, density (1 − s)^(k/N) after round k.
    ``rate=r``: every round removes r of the remaining weights, 1 − (1 − r)^k, or r of the original
    ones, k·r; a round that would reach or pass the target is the last and lands on it.

    Args:
        sparsity: pruned / prunable at the end, in [0, 1).
        levels: how many rounds; give this or ``rate``.
        rate: fraction removed per round, in (0, 1).
        rate_of: ``"remaining"`` or ``"original"``.

    Raises:
        ConfigError: lists every fault of the arguments.

    Source: Frankle & Carbin 2019, arXiv 1803.03635, §1 (p^(1/n) of the survivors each round; 20%
        of the remaining); Chen et al. 2020, arXiv 2007.12223, §2 (10% of the original).
    """
    faults = _faults(sparsity, levels, rate, rate_of)
    if not faults and rate is not None:
        levels = _rounds(sparsity, rate, rate_of)
        if levels > MOST_LEVELS:
            faults.append(
                f"rate {rate} needs {levels:,} rounds to reach sparsity {sparsity}; expected at "
                f"most {MOST_LEVELS:,}, give a higher rate."
            )
    if faults or levels is None:
        raise ConfigError(faults)
    before = range(1, levels)
    if rate is None:
        return (*(1.0 - (1.0 - sparsity) ** (k / levels) for k in before), float(sparsity))
    return (*(_after(k, rate, rate_of) for k in before), float(sparsity))


def grid_levels(grid: Sequence[float]) -> tuple[float, ...]:
    """Return a grid of sparsities as levels: each in (0, 1), rising.

    Raises:
        ConfigError: lists every fault.
    """
    faults = [
        f"the grid's sparsity {value} is no number in (0, 1); percent are not used."
        for value in grid
        if not 0 < value < 1
    ]
    if not grid:
        faults.append("the grid is empty; give sparsities such as 0.2, 0.36, 0.488.")
    if len(grid) > MOST_LEVELS:
        faults.append(f"the grid has {len(grid):,} sparsities; expected at most {MOST_LEVELS:,}.")
    if not faults and any(b <= a for a, b in itertools.pairwise(grid)):
        faults.append(
            f"the grid {', '.join(f'{v:g}' for v in grid)} does not rise; expected each sparsity "
            "above the one before, because every mask lies within the one before."
        )
    if faults:
        raise ConfigError(faults)
    return tuple(float(value) for value in grid)


def cubic_sparsity(progress: float, sparsity: float) -> float:
    """Return the sparsity of gradual pruning: fast while much is redundant, slow at the end.

    s(p) = s_final · (1 − (1 − p)³).

    Args:
        progress: share of the pruning phase that is over; outside [0, 1] it is taken as its end.
        sparsity: at the end, in [0, 1).

    Source: Zhu & Gupta 2017, arXiv 1710.01878, §3 (eq. 1, with s_initial = 0).
    """
    left = 1.0 - min(max(progress, 0.0), 1.0)
    return sparsity if left == 0 else sparsity * (1.0 - left**3)


def _after(rounds: int, rate: float, rate_of: str) -> float:
    return rounds * rate if rate_of == "original" else 1.0 - (1.0 - rate) ** rounds


def _rounds(sparsity: float, rate: float, rate_of: str) -> int:
    target = sparsity - _ROUNDING
    if target <= 0:
        return 1
    exact = target / rate if rate_of == "original" else math.log1p(-target) / math.log1p(-rate)
    return max(1, math.ceil(exact))


def _faults(sparsity: float, levels: int | None, rate: float | None, rate_of: str) -> list[str]:
    faults: list[str] = []
    if not 0 <= sparsity < 1:  # also catches NaN
        hint = " Percent are not used: write 0.4 for 40%." if sparsity >= 1 else ""
        faults.append(f"sparsity is {sparsity}; expected a number in [0, 1).{hint}")
    if levels is None and rate is None:
        faults.append("neither levels nor rate was given; give one.")
    if levels is not None and rate is not None:
        faults.append("levels and rate were both given; they exclude each other, give one.")
    if levels is not None and not (type(levels) is int and 1 <= levels <= MOST_LEVELS):
        faults.append(f"levels is {levels}; expected a whole number from 1 to {MOST_LEVELS:,}.")
    if rate is not None and not 0 < rate < 1:
        faults.append(f"rate is {rate}; expected a number in (0, 1).")
    if rate_of not in RATES_OF:
        faults.append(unknown_name_message("rate_of", rate_of, RATES_OF))
    return faults
