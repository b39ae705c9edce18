"""Metrics of class indices: accuracy, F1 and Matthews' correlation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.resampling import CHUNK_FLOATS, Resampled, ends

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What a score needs to know of one or many sets of predictions.

    Attributes:
        right: examples of each class that were predicted right, shape (..., classes).
        predicted: predictions of each class, same shape.
        actual: examples of each class, same shape.
        binary: whether the task's labels are 0 and 1 (a resample may hold fewer).
    """

    right: Floats
    predicted: Floats
    actual: Floats
    binary: bool


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of examples that are right."""
    import numpy as np

    # sklearn's accuracy_score is the same number, after a second of importing in each worker.
    y, p = _checked(labels, predictions)
    return float(np.mean(y == p))


def accuracy_from_counts(counts: Counts) -> Floats:
    """Return accuracies, shape (...)."""
    accuracy: Floats = counts.right.sum(-1) / counts.actual.sum(-1)
    return accuracy


def f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return F1 of class 1 when the labels are 0 and 1, else the macro average."""
    from sklearn.metrics import f1_score

    y, p = _checked(labels, predictions)
    # `labels=[1]` is sklearn's binary F1, and also takes predictions outside 0 and 1.
    classes = [1] if _is_binary(y) else None
    return float(f1_score(y, p, labels=classes, average="macro", zero_division=0.0))


def f1_from_counts(counts: Counts) -> Floats:
    """Return F1s, shape (...)."""
    import numpy as np

    total = counts.predicted + counts.actual
    present = total > 0
    f1 = np.divide(2.0 * counts.right, total, out=np.zeros(total.shape), where=present)
    if counts.binary:
        positive: Floats = f1[..., 1]
        return positive
    # Like scikit-learn: the mean over the classes that occur in labels or predictions.
    macro: Floats = f1.sum(-1) / present.sum(-1)
    return macro


def mcc(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return Matthews' correlation; 0 where it is not defined."""
    from sklearn.metrics import matthews_corrcoef

    y, p = _checked(labels, predictions)
    if (y == y[0]).all() and (p == y[0]).all():
        return 0.0  # scikit-learn's answer, without its warning
    return float(matthews_corrcoef(y, p))


def mcc_from_counts(counts: Counts) -> Floats:
    """Return Matthews' correlations, shape (...)."""
    import numpy as np

    n = counts.actual.sum(-1)
    covariance = counts.right.sum(-1) * n - (counts.predicted * counts.actual).sum(-1)
    spread = (n * n - (counts.predicted**2).sum(-1)) * (n * n - (counts.actual**2).sum(-1))
    root = np.sqrt(np.maximum(spread, 0.0))
    mcc: Floats = np.divide(covariance, root, out=np.zeros(np.shape(covariance)), where=root > 0)
    return mcc


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[Ints, Ints]:
    import numpy as np

    y, p = np.asarray(labels), np.asarray(predictions)
    if y.ndim != 1 or y.shape != p.shape or not len(y):
        raise InputError(
            f"{p.size} predictions for {y.size} labels; expected one class index per label, "
            "and at least one."
        )
    return y, p


def _is_binary(labels: Ints) -> bool:
    return bool(labels.max() <= 1)


def count(labels: Ints, predictions: Ints, classes: int) -> Counts:
    """Count one or many runs' predictions on the same labels.

    Args:
        labels: class indices, shape (examples,).
        predictions: class indices, shape (..., examples).
        classes: more than any index, at least 2.
    """
    import numpy as np

    eye = np.eye(classes)
    actual = eye[labels]
    predicted = eye[predictions]
    return Counts(
        right=(predicted * actual).sum(-2),
        predicted=predicted.sum(-2),
        actual=np.broadcast_to(actual.sum(0), (*predictions.shape[:-1], classes)),
        binary=_is_binary(labels),
    )


def check_length(who: str, values: Sequence[Any], examples: int) -> None:
    """Refuse a run that has not one prediction for each test example."""
    if len(values) != examples:
        raise InputError(
            f"{who}: {len(values):,} predictions for {examples:,} test examples; expected one "
            "each, in test order."
        )


def as_array(values: Sequence[Any]) -> NDArray[Any]:
    """Return values as an array; of objects, when they are of several lengths."""
    import numpy as np

    try:
        return np.asarray(values)
    except ValueError:
        return np.asarray([None] * len(values), dtype=object)


MOST_CLASSES = 4096
"""A matrix of their square is made."""


@dataclass(frozen=True)
class ClassCounts:
    """Outputs that are class indices.

    Attributes:
        from_counts: counts -> scores, for many resamples at once; shape (...).
        right_or_wrong: the score is the mean over examples of 1 (right) or 0 (wrong).
    """

    from_counts: Callable[[Counts], Floats]
    right_or_wrong: bool = False

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[Ints, dict[str, Ints]]:
        """Return labels and runs, shape (examples,) each."""
        import numpy as np

        truth = as_array(labels)
        if truth.ndim != 1 or not len(truth) or truth.dtype.kind not in "iu" or truth.min() < 0:
            raise InputError("the test labels are empty or not class indices from 0 up.")
        runs = {}
        for who, values in predictions.items():
            check_length(who, values, len(truth))
            runs[who] = as_array(values)
            if runs[who].ndim != 1 or runs[who].dtype.kind not in "iu":
                raise InputError(f"{who} has predictions of another kind; expected class indices.")
            if runs[who].min() < 0 or runs[who].max() >= MOST_CLASSES:
                raise InputError(
                    f"{who} has predictions below 0 or from {MOST_CLASSES:,} on; expected class "
                    "indices."
                )
        return truth.astype(np.int64), {w: run.astype(np.int64) for w, run in runs.items()}

    def scores(self, labels: Ints, runs: Ints) -> Floats:
        """Return the scores of runs."""
        classes = max(2, int(max(labels.max(), runs.max())) + 1)
        return self.from_counts(count(labels, runs, classes))

    def resample(
        self,
        sign: float,
        labels: Ints,
        reference: Ints,
        candidate: Ints,
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain.

        Examples with equal labels and predictions are exchangeable, so draws are multinomial
        counts of kinds of examples.
        """
        if self.right_or_wrong:
            return resample_right(
                sign, reference == labels, candidate == labels, samples=samples, rng=rng
            )
        return self._resample_counts(sign, labels, reference, candidate, samples, rng)

    def _resample_counts(
        self,
        sign: float,
        labels: Ints,
        reference: Ints,
        candidate: Ints,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Scores of resampled counts: kinds of examples times what each kind adds to the counts."""
        import numpy as np

        replicates, examples = reference.shape
        classes = max(2, int(max(labels.max(), reference.max(), candidate.max())) + 1)
        binary = _is_binary(labels)
        runs = np.concatenate([reference, candidate])
        kinds, tally = np.unique(np.vstack([labels, runs]).T, axis=0, return_counts=True)
        lost = _imaginary(labels, replicates, classes)
        won = lost[:, [0, *range(replicates + 1, 2 * replicates + 1), *range(1, replicates + 1)]]

        def adds(table: Ints) -> Floats:
            """Return (kinds, classes + runs * 2 * classes): actual, then right and predicted."""
            eye = np.eye(classes)
            actual, predicted = eye[table[:, 0]], eye[table[:, 1:]]
            both = np.stack([predicted * actual[:, None], predicted], axis=2)
            return np.hstack([actual, both.reshape(len(table), -1)])

        def gains(counted: Floats) -> Floats:
            """Return (draws, replicates) from counts as ``adds`` lays them out."""
            each = counted[:, classes:].reshape(len(counted), 2 * replicates, 2, classes)
            actual = np.broadcast_to(counted[:, None, :classes], each[:, :, 0].shape)
            scores = self.from_counts(Counts(each[:, :, 0], each[:, :, 1], actual, binary))
            return sign * (scores[:, replicates:] - scores[:, :replicates])

        features = adds(kinds)
        whole = tally @ features
        lost_adds, won_adds = adds(lost), adds(won)
        # The imaginary example is the one that moves the score most.
        lost_add = lost_adds[gains(whole + lost_adds).mean(1).argmin()]
        won_add = won_adds[gains(whole + won_adds).mean(1).argmax()]
        shares = np.append(tally, 1.0) / (examples + 1)
        size = max(1, min(samples, CHUNK_FLOATS // (len(kinds) + 4 * features.shape[1])))
        lows, highs = [], []
        for start in range(0, samples, size):
            drawn = rng.multinomial(examples, shares, size=min(size, samples - start)) * 1.0
            rest = drawn[:, :-1] @ features
            lows.append(gains(rest + drawn[:, -1:] * lost_add))
            highs.append(gains(rest + drawn[:, -1:] * won_add).mean(1))
        each = np.concatenate(lows)
        low = each.mean(1)
        return ends(low, np.concatenate(highs), each.var(axis=0).mean() - low.var(), replicates)


def resample_right(
    sign: float,
    reference: NDArray[np.bool_],
    candidate: NDArray[np.bool_],
    *,
    samples: int,
    rng: np.random.Generator,
) -> Resampled:
    """Bootstrap a share of examples that are right.

    Each example adds its own share: a whole number of replicates gained, from -R to R.

    Args:
        sign: of the metric.
        reference: what is right, shape (replicates, examples).
        candidate: the same, paired by replicate.
        samples: draws.
        rng: of the draws.
    """
    import numpy as np

    replicates, examples = reference.shape
    gains = sign * (candidate * 1.0 - reference)
    summed = gains.sum(0)
    tally = np.bincount((summed + replicates).astype(np.int64), minlength=2 * replicates + 1)
    shares = np.append(tally, 1.0) / (examples + 1)
    drawn = rng.multinomial(examples, shares, size=samples) / examples
    value = np.arange(-replicates, replicates + 1) / replicates
    rest = drawn[:, :-1] @ value
    low, high = rest - drawn[:, -1], rest + drawn[:, -1]
    together = summed.var() / replicates**2 / examples
    alone = gains.var(axis=1).mean() / examples
    return ends(low, high, alone - together, replicates)


def _imaginary(labels: Ints, replicates: int, classes: int) -> Ints:
    """Return rows (label, reference right, candidate wrong), one for each class that occurs."""
    import numpy as np

    frequency = np.bincount(labels, minlength=classes)
    rows = []
    for label in np.flatnonzero(frequency):
        others = frequency.copy()
        others[label] = -1
        wrong = int(others.argmax())
        rows.append([label, *[label] * replicates, *[wrong] * replicates])
    return np.array(rows, dtype=np.int64)
