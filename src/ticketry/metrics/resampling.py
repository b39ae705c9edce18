"""Draws of test examples, and the ends they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CHUNK_FLOATS = 8_000_000
"""How many floats the resampling of count metrics holds at once (64 MB)."""

_WEIGHTS_AT_ONCE = 60_000
"""Weights of drawn examples held at once; half a megabyte stays in a core's cache."""


@dataclass(frozen=True)
class Resampled:
    """Gains of a candidate over a reference when test examples are drawn anew.

    Attributes:
        low, high: 5% and 95% quantiles of the mean gain (one-sided 95% ends).
        low_mean, high_mean: centres of the draws behind either end.
        variance: of the mean gain, as behind the lower end.
        interaction: the part of ``variance`` that is noise of single replicates on single
            examples; it also shows in the spread between replicates.
    """

    low: float
    high: float
    low_mean: float
    high_mean: float
    variance: float
    interaction: float


def ends(low: Floats, high: Floats, excess: float, replicates: int) -> Resampled:
    """Put draws together.

    Args:
        low: mean gains behind the lower end.
        high: mean gains behind the upper end.
        excess: variance of one replicate's gain less that of the mean over replicates; their
            difference is interaction * (replicates - 1).
        replicates: how many.
    """
    import numpy as np

    return Resampled(
        low=float(np.quantile(low, 0.05, method="lower")),
        high=float(np.quantile(high, 0.95, method="higher")),
        low_mean=float(low.mean()),
        high_mean=float(high.mean()),
        variance=float(low.var()),
        interaction=max(0.0, float(excess)) / max(replicates - 1, 1),
    )


def draws(examples: int, samples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each example was drawn, shape (draws, examples), a cacheful at a time."""
    import numpy as np

    size = max(1, min(samples, _WEIGHTS_AT_ONCE // examples))
    for start in range(0, samples, size):
        rows = min(size, samples - start)
        drawn = rng.integers(0, examples, size=(rows, examples - 1))
        drawn += np.arange(rows)[:, None] * examples
        counted = np.bincount(drawn.ravel(), minlength=rows * examples)
        yield counted.reshape(rows, examples).astype(np.float64)


def resample_weighted(
    scores: Callable[[Floats], Floats],
    influence: tuple[Floats, Floats],
    *,
    sign: float,
    examples: int,
    samples: int,
    rng: np.random.Generator,
) -> Resampled:
    """Bootstrap the gain of a score that follows from how often each example was drawn.

    Args:
        scores: weights (draws, examples) -> scores (draws, runs), the reference's replicates
            first, then the candidate's.
        influence: what the imaginary example, once lost and once won, adds to the gain of each
            replicate: two of shape (replicates,). A draw that takes it k times is moved by k
            times that, so the scores themselves are those of the real examples drawn.
        sign: of the metric.
        examples: real ones.
        samples: draws.
        rng: of the draws.
    """
    import numpy as np

    lost, won = influence
    replicates = len(lost)
    lows, highs = [], []
    for weights in draws(examples + 1, samples, rng):
        found = scores(weights[:, :-1])
        gains = sign * (found[:, replicates:] - found[:, :replicates])
        lows.append(gains + weights[:, -1:] * lost)
        highs.append((gains + weights[:, -1:] * won).mean(1))
    each = np.concatenate(lows)
    low = each.mean(1)
    return ends(low, np.concatenate(highs), each.var(axis=0).mean() - low.var(), replicates)


def extremes(
    sums: Callable[[Floats], Floats], features: Floats, extra: Floats | None, sign: float
) -> tuple[Floats, Floats]:
    """Return what one more example may add to the gain, at worst and at best.

    It is like one of those there are, or like one with reference and candidate exchanged: the
    largest loss that either arm had on any example is the one imagined.

    Args:
        sums: summed features (…, runs, k) -> scores (…, runs).
        features: of each example and run, shape (examples, runs, k).
        extra: of further examples that can be imagined, same shape; None for none.
        sign: of the metric.
    Returns:
        (lost, won): added to each replicate's gain, shape (replicates,) each.
    """
    import numpy as np

    replicates = features.shape[1] // 2

    def gains(total: Floats) -> Floats:
        found = sums(total)
        gained: Floats = sign * (found[..., replicates:] - found[..., :replicates])
        return gained

    whole = features.sum(0)
    rows = features if extra is None else np.concatenate([features, extra])
    turned = np.roll(rows, replicates, axis=1)
    moved = np.concatenate([gains(whole + rows), gains(whole + turned)]) - gains(whole)
    mean = moved.mean(1)
    return moved[mean.argmin()], moved[mean.argmax()]
