"""Metrics: the margin of each, how a score follows from counts, and resampling of test examples.

Torch-free. numpy and scikit-learn are imported inside functions, so that the command line, which
only needs the names, starts fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError, unknown_name

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


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        name: as in tasks and evidence.
        margin: largest loss that still counts as "not worse", in the metric's own unit.
        direction: ``higher`` or ``lower``: which way is better.
        fn: (labels, predictions) -> score, by scikit-learn.
        from_counts: the same from counts, for many resamples at once; shape (...).
        per_example: the score is the mean over examples of 1 (right) or 0 (wrong).
        percent: people say it in percent and points.
    """

    name: str
    margin: float
    fn: Callable[[ArrayLike, ArrayLike], float]
    from_counts: Callable[[Counts], Floats]
    direction: str = "higher"
    per_example: bool = False
    percent: bool = True

    @property
    def sign(self) -> float:
        """1 where higher is better, -1 where lower is: score differences times it are gains."""
        return 1.0 if self.direction == "higher" else -1.0


def get_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        UnknownNameError: shows the nearest names.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def _accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*_checked(labels, predictions)))


def _accuracy_from_counts(counts: Counts) -> Floats:
    accuracy: Floats = counts.right.sum(-1) / counts.actual.sum(-1)
    return accuracy


def _f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    from sklearn.metrics import f1_score

    y, p = _checked(labels, predictions)
    # `labels=[1]` is sklearn's binary F1, and also takes predictions outside 0 and 1.
    classes = [1] if _is_binary(y) else None
    return float(f1_score(y, p, labels=classes, average="macro", zero_division=0.0))


def _f1_from_counts(counts: Counts) -> Floats:
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


def _mcc(labels: ArrayLike, predictions: ArrayLike) -> float:
    from sklearn.metrics import matthews_corrcoef

    y, p = _checked(labels, predictions)
    if (y == y[0]).all() and (p == y[0]).all():
        return 0.0  # scikit-learn's answer, without its warning
    return float(matthews_corrcoef(y, p))


def _mcc_from_counts(counts: Counts) -> Floats:
    import numpy as np

    n = counts.actual.sum(-1)
    covariance = counts.right.sum(-1) * n - (counts.predicted * counts.actual).sum(-1)
    spread = (n * n - (counts.predicted**2).sum(-1)) * (n * n - (counts.actual**2).sum(-1))
    root = np.sqrt(np.maximum(spread, 0.0))
    mcc: Floats = np.divide(covariance, root, out=np.zeros(np.shape(covariance)), where=root > 0)
    return mcc


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(
        name="accuracy",
        margin=0.01,
        fn=_accuracy,
        from_counts=_accuracy_from_counts,
        per_example=True,
    ),
    "f1": Metric(name="f1", margin=0.01, fn=_f1, from_counts=_f1_from_counts),
    "mcc": Metric(name="mcc", margin=0.01, fn=_mcc, from_counts=_mcc_from_counts, percent=False),
}
"""F1 is that of class 1 when the labels are 0 and 1, else the macro average; mcc is Matthews'
correlation. Margins: statistics.md, written before any run."""


def say_score(metric: str, value: float) -> str:
    """Say a score as people do: ``84.9%``, or ``0.849`` where percent make no sense."""
    return f"{100 * value:.1f}%" if _percent(metric) else f"{value:.3f}"


def say_difference(metric: str, value: float, *, decimals: int = 1, sign: bool = False) -> str:
    """Say a difference of scores, in points (or plain), without a unit.

    Args:
        metric: its name.
        value: the difference in the metric's own unit.
        decimals: of a point; plain numbers get two more.
        sign: also show a plus.
    """
    scaled, places = (100 * value, decimals) if _percent(metric) else (value, decimals + 2)
    rounded = round(scaled, places) + 0.0  # no "-0.0"
    return f"{rounded:+.{places}f}" if sign and rounded > 0 else f"{rounded:.{places}f}"


def unit_of(metric: str) -> str:
    """Return the unit of a difference with a space before it: `` points``, or nothing."""
    return " points" if _percent(metric) else ""


def _percent(metric: str) -> bool:
    known = METRICS.get(metric)
    return known.percent if known else False


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


CHUNK_FLOATS = 8_000_000
"""How many floats the resampling of count metrics holds at once (64 MB)."""


def resample(
    metric: Metric,
    labels: Ints,
    reference: Ints,
    candidate: Ints,
    *,
    samples: int,
    seed: int,
) -> Resampled:
    """Bootstrap the mean gain over test examples, all replicates together.

    A draw takes the same examples for every replicate of both arms. Examples with equal labels
    and predictions are exchangeable, so draws are multinomial counts of kinds of examples.

    One imaginary example stands among those drawn from: lost by the candidate for the lower end,
    won for the upper. Without it, arms that happen to agree on a small test set would show no
    doubt at all: with 100 examples and none lost, the loss may still be 3 points (rule of three).

    Args:
        metric: what is compared.
        labels: class indices, shape (examples,).
        reference: class indices, shape (replicates, examples).
        candidate: the same of the arm whose gain is asked, paired by replicate.
        samples: draws.
        seed: of the draws; equal seeds give equal results.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    if metric.per_example:
        return _resample_examples(metric, labels, reference, candidate, samples, rng)
    return _resample_counts(metric, labels, reference, candidate, samples, rng)


def _resample_examples(
    metric: Metric, labels: Ints, reference: Ints, candidate: Ints, samples: int, rng: Any
) -> Resampled:
    """Each example adds its own share: a whole number of replicates gained, from -R to R."""
    import numpy as np

    replicates, examples = reference.shape
    gains = metric.sign * ((candidate == labels) * 1.0 - (reference == labels))
    summed = gains.sum(0)
    tally = np.bincount((summed + replicates).astype(np.int64), minlength=2 * replicates + 1)
    shares = np.append(tally, 1.0) / (examples + 1)
    drawn = rng.multinomial(examples, shares, size=samples) / examples
    value = np.arange(-replicates, replicates + 1) / replicates
    rest = drawn[:, :-1] @ value
    low, high = rest - drawn[:, -1], rest + drawn[:, -1]
    together = summed.var() / replicates**2 / examples
    alone = gains.var(axis=1).mean() / examples
    return _ends(low, high, alone - together, replicates)


def _resample_counts(
    metric: Metric, labels: Ints, reference: Ints, candidate: Ints, samples: int, rng: Any
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
        scores = metric.from_counts(Counts(each[:, :, 0], each[:, :, 1], actual, binary))
        return metric.sign * (scores[:, replicates:] - scores[:, :replicates])

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
    return _ends(low, np.concatenate(highs), each.var(axis=0).mean() - low.var(), replicates)


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


def _ends(low: Floats, high: Floats, excess: float, replicates: int) -> Resampled:
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
