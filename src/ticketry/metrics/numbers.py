"""Metrics of numbers: Pearson's and Spearman's correlation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import as_array, check_length
from ticketry.metrics.resampling import Resampled, extremes, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_NO_SPREAD = 1e-12
"""Variances below this, of values whose variance was 1, are rounding noise."""


def pearson(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return Pearson's correlation; 0 where one side has no spread."""
    from scipy.stats import pearsonr

    y, p = _checked(labels, predictions)
    if _is_flat(y) or _is_flat(p):
        return 0.0  # scipy says NaN; a model that says one thing of all tells nothing apart
    return float(pearsonr(y, p).statistic)


def spearman(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return Spearman's rank correlation; 0 where one side has no spread."""
    from scipy.stats import rankdata

    y, p = _checked(labels, predictions)
    return pearson(rankdata(y), rankdata(p))


def _is_flat(values: Floats) -> bool:
    return bool((_standard(values) == 0).all())


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[Floats, Floats]:
    import numpy as np

    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape or not len(y):
        raise InputError(
            f"{p.size} predictions for {y.size} labels; expected one number per label, and at "
            "least one."
        )
    return y, p


def _standard(values: Floats) -> Floats:
    """Return values of mean 0 and variance 1 along the last axis; zeros where there is no spread.

    Correlations do not change by it, and sums of squares keep their digits.
    """
    import numpy as np

    centred = values - values.mean(-1, keepdims=True)
    spread = centred.std(-1, keepdims=True)
    # Equal values may leave rounding noise of their mean.
    real = spread > 1e-12 * np.abs(values).max(-1, keepdims=True)
    standard: Floats = np.divide(centred, spread, out=np.zeros(values.shape), where=real)
    return standard


def _ratio(covariance: Floats, one: Floats, other: Floats) -> Floats:
    """Return covariance / sqrt(one * other); 0 where a variance is none."""
    import numpy as np

    real = (one > _NO_SPREAD) & (other > _NO_SPREAD)
    root = np.sqrt(np.where(real, one * other, 1.0))
    ratio: Floats = np.where(real, covariance / root, 0.0)
    return ratio


def _pearson_features(labels: Floats, runs: Floats) -> Floats:
    """Return what an example adds, shape (examples, runs, 6): 1, x, y, x², y² and xy."""
    import numpy as np

    x, y = np.broadcast_arrays(_standard(labels), _standard(runs))
    return np.stack([np.ones(x.shape), x, y, x * x, y * y, x * y], axis=-1).swapaxes(0, 1)


def _pearson_of_sums(sums: Floats) -> Floats:
    """Return correlations (…,) from summed features (…, 6)."""
    n, x, y, xx, yy, xy = (sums[..., i] for i in range(6))
    return _ratio(xy - x * y / n, (xx - x * x / n) / n, (yy - y * y / n) / n) / n


class Ranked:
    """Values of one run in order, so that mid-ranks follow from how often each was drawn."""

    def __init__(self, values: Floats) -> None:
        import numpy as np

        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        new = np.append(True, ordered[1:] != ordered[:-1])
        self.starts = np.flatnonzero(new)
        self.group = np.empty(len(values), dtype=np.int64)
        self.group[self.order] = np.cumsum(new) - 1

    def grouped(self, weights: Floats) -> Floats:
        """Return the sums of weights (examples, draws) over equal values, in order."""
        import numpy as np

        ordered = weights[self.order]
        if len(self.starts) == len(ordered):
            return ordered
        summed: Floats = np.add.reduceat(ordered, self.starts, axis=0)
        return summed

    def ranks(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return mid-ranks less their mean (groups, draws), and their variances (draws,)."""
        import numpy as np

        drawn = self.grouped(weights)
        total = weights.sum(0)
        ranks = np.cumsum(drawn, axis=0)
        cubes = np.einsum("gd,gd,gd->d", drawn, drawn, drawn)
        drawn += total
        drawn *= 0.5
        ranks -= drawn
        ties = cubes - total
        return ranks, ((total**3 - total) - ties) / 12.0 / total**3


def _spearman_weighted(labels: Floats, runs: Floats) -> Callable[[Floats], Floats]:
    """Return weights (draws, examples) -> rank correlations (draws, runs)."""
    import numpy as np

    truth, ranked = Ranked(labels), [Ranked(run) for run in runs]

    def scores(weights: Floats) -> Floats:
        turned = np.ascontiguousarray(weights.T)
        total = turned.sum(0)
        true_ranks, true_variance = truth.ranks(turned)
        weighted = turned * true_ranks[truth.group]
        found = np.empty((len(ranked), len(weights)))
        for row, run in enumerate(ranked):
            ranks, variance = run.ranks(turned)
            covariance = np.einsum("gd,gd->d", ranks, run.grouped(weighted)) / total**3
            found[row] = _ratio(covariance, true_variance, variance)
        return found.T

    return scores


@dataclass(frozen=True)
class Correlation:
    """Outputs that are numbers, scored by their correlation with the labels.

    Attributes:
        ranks: Spearman's, of mid-ranks; else Pearson's.
    """

    ranks: bool

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Return labels and runs, shape (examples,) each."""
        truth = _numbers(labels)
        if truth is None or not len(truth):
            raise InputError("the test labels are empty or not finite numbers.")
        runs = {}
        for who, values in predictions.items():
            check_length(who, values, len(truth))
            found = _numbers(values)
            if found is None:
                raise InputError(f"{who} has predictions that are not finite numbers.")
            runs[who] = found
        return truth, runs

    def scores(self, labels: Floats, runs: Floats) -> Floats:
        """Return the scores of runs."""
        import numpy as np

        if self.ranks:
            rho: Floats = _spearman_weighted(labels, runs)(np.ones((1, len(labels))))[0]
            return rho
        return _pearson_of_sums(_pearson_features(labels, runs).sum(0))

    def resample(
        self,
        sign: float,
        labels: Floats,
        reference: Floats,
        candidate: Floats,
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain; ranks are those among the examples drawn.

        What the imaginary example moves is worked out for ranks over all examples.
        """
        import numpy as np
        from scipy.stats import rankdata

        runs = np.concatenate([reference, candidate])
        if self.ranks:
            values = rankdata(labels), rankdata(runs, axis=-1)
            scores = _spearman_weighted(labels, runs)
            features = _pearson_features(*values)
        else:
            features = _pearson_features(labels, runs)
            table = features.reshape(len(features), -1)

            def scores(weights: Floats) -> Floats:
                return _pearson_of_sums((weights @ table).reshape(len(weights), len(runs), -1))

        return resample_weighted(
            scores,
            extremes(_pearson_of_sums, features, None, sign),
            sign=sign,
            examples=len(labels),
            samples=samples,
            rng=rng,
        )


def _numbers(values: Sequence[Any]) -> Floats | None:
    import numpy as np

    found = as_array(values)
    if found.ndim != 1 or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        return None
    return found.astype(np.float64)
