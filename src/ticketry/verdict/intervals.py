"""Intervals of a paired gain, what would decide, and what the test is worth. Pure numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ticketry.metrics import Resampled
from ticketry.verdict.reading import TINY, Comparison

CONFIDENCE = 0.95
"""Of every one-sided end."""

REPLICATES_BOUND = 1_000
EXAMPLES_BOUND = 10_000_000
"""How far the search for the number that would decide goes."""

_NORMAL = float(special.ndtri(CONFIDENCE))


def _quantile(df: float | NDArray[np.float64]) -> Any:
    """Return Student's t quantile at the confidence, for each number of degrees of freedom."""
    return special.stdtrit(df, CONFIDENCE)


def compare(gains: NDArray[np.float64], drawn: Resampled) -> Comparison:
    """Put the intervals of one paired gain together.

    Args:
        gains: of each seed, positive = better, shape (replicates,), at least two.
        drawn: the same gains with test examples drawn anew.
    """
    replicates = len(gains)
    mean, spread = float(gains.mean()), float(gains.std(ddof=1))
    if spread < TINY:
        spread = 0.0
    reach = float(_quantile(replicates - 1)) * spread / math.sqrt(replicates)
    seed_low, seed_high = mean - reach, mean + reach
    overall = _overall_reach(spread**2 / replicates, drawn.variance, drawn.interaction, replicates)
    return Comparison(
        difference=mean,
        spread=spread,
        seed_ci_low=seed_low,
        seed_ci_high=seed_high,
        example_ci_low=drawn.low,
        example_ci_high=drawn.high,
        overall_ci_low=min(seed_low, drawn.low, drawn.low_mean - overall),
        overall_ci_high=max(seed_high, drawn.high, drawn.high_mean + overall),
    )


def _overall_reach(seeds: float, examples: float, interaction: float, replicates: int) -> float:
    """Return how far an end over replicates and test examples lies from the mean.

    Replicates and examples are crossed: noise of one replicate on one example shows in both
    variances of the mean and is counted once. Degrees of freedom after Satterthwaite, of which
    only the replicates' are few.

    Source: Owen 2007, "The pigeonhole bootstrap" (crossed replicates and examples);
        Satterthwaite 1946 (degrees of freedom of a sum of variances).
    """
    total = max(seeds + examples - interaction, seeds, examples)
    if total <= 0:
        return 0.0
    freedom = (replicates - 1) * (total / seeds) ** 2 if seeds > 0 else np.inf
    quantile = _NORMAL if freedom > 1e6 else _quantile(freedom)
    return float(quantile) * math.sqrt(total)


def needed(
    seen: Comparison, drawn: Resampled, margin: float, replicates: int, examples: int
) -> tuple[int | None, int | None]:
    """Search how many replicates, or else test examples, or else both, would decide.

    The observed mean and spread are taken to stay as they are.

    Returns:
        (replicates, test examples): the one that is enough alone and None, or both together, or
        None twice when no number up to the bounds would decide.
    """
    towards_yes = seen.difference > -margin
    room = abs(seen.difference + margin) - TINY
    # Variances of a single example; the imaginary one adds its own share, see `resample`.
    imaginary = abs(seen.difference - drawn.low_mean) * examples
    single = drawn.interaction * replicates * examples  # of one replicate on one example
    rest = drawn.variance - drawn.interaction - (imaginary / examples) ** 2
    shared = max(0.0, rest) * examples

    def variance_by_examples(n: int, m: int) -> float:
        return (shared + single / n) / m + (imaginary / m) ** 2

    def reach_by_examples(n: int, m: int) -> float:
        return imaginary / m + _NORMAL * math.sqrt(variance_by_examples(n, m))

    observed = seen.difference - seen.example_ci_low
    if not towards_yes:  # the mirror image: an upper end has to fall below -margin
        observed = seen.example_ci_high - seen.difference
    modelled = reach_by_examples(replicates, examples)
    correction = observed / modelled if modelled > 0 else 1.0

    def decides(n: int, m: int) -> bool:
        by_seeds = float(_quantile(n - 1)) * seen.spread / math.sqrt(n)
        by_examples = correction * reach_by_examples(n, m)
        if not towards_yes:
            return min(by_seeds if seen.spread > 0 else math.inf, by_examples) < room
        variance = variance_by_examples(n, m)
        overall = _overall_reach(seen.spread**2 / n, variance, single / n / m, n)
        return max(by_seeds, by_examples, imaginary / m + overall) < room

    more_replicates = _first(lambda n: decides(n, examples), replicates, REPLICATES_BOUND)
    if more_replicates is not None:
        return more_replicates, None
    more_examples = _first(lambda m: decides(replicates, m), examples, EXAMPLES_BOUND)
    if more_examples is not None:
        return None, more_examples
    enough = _first(lambda n: decides(n, EXAMPLES_BOUND), replicates, REPLICATES_BOUND)
    if enough is None:
        return None, None
    return enough, _first(lambda m: decides(enough, m), examples, EXAMPLES_BOUND)


def _first(holds: Callable[[int], bool], known: int, bound: int) -> int | None:
    """Return the first number after ``known`` for which ``holds``, which stays true from there."""
    if known >= bound or not holds(bound):
        return None
    low, high = known, bound
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def pass_rate(margin: float, spread: float, replicates: int) -> float:
    """Return the chance that a truly equal ticket passes the test by seeds (noncentral t)."""
    if spread <= 0:
        return 1.0
    # Beyond 30 the chance is 1 to many digits, and the function loses its accuracy.
    shift = min(margin * math.sqrt(replicates) / spread, 30.0)
    critical = float(_quantile(replicates - 1))
    return min(1.0, max(0.0, 1.0 - float(special.nctdtr(replicates - 1, shift, critical))))
