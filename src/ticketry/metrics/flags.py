"""Metrics of several labels an example: micro-averaged F1, and the share that is right in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import as_array, check_length, resample_right
from ticketry.metrics.resampling import Resampled, extremes, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.int64]


def micro_f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return F1 over all pairs of an example and a label; 0 where none is set or predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(*_checked(labels, predictions), average="micro", zero_division=0.0))


def exact_match(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of examples of which every label is right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*_checked(labels, predictions)))


def _checked(labels: ArrayLike, predictions: ArrayLike) -> tuple[Flags, Flags]:
    import numpy as np

    y, p = np.asarray(labels), np.asarray(predictions)
    if y.ndim != 2 or y.shape != p.shape or not y.size:
        raise InputError(
            f"{len(p)} predictions for {len(y)} examples; expected a 0 or 1 for each label of "
            "each example, and at least one."
        )
    return y, p


def _features(labels: Flags, runs: Flags) -> Floats:
    """Return what an example adds, shape (examples, runs, 2): hits, and set + predicted."""
    import numpy as np

    hits = (labels * runs).sum(-1)
    both = labels.sum(-1) + runs.sum(-1)
    return np.stack([hits, both], axis=-1).swapaxes(0, 1).astype(np.float64)


def f1_of_sums(sums: Floats) -> Floats:
    """Return F1 from sums (…, 2) of hits, and of set + predicted; 0 where these are none."""
    import numpy as np

    hits, both = sums[..., 0], sums[..., 1]
    f1: Floats = np.divide(2 * hits, both, out=np.zeros(hits.shape), where=both > 0)
    return f1


@dataclass(frozen=True)
class FlagCounts:
    """Outputs that are a 0 or 1 for each label.

    Attributes:
        whole: an example counts when all its labels are right; else F1 over single labels.
    """

    whole: bool

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[Flags, dict[str, Flags]]:
        """Return labels and runs, shape (examples, labels) each."""
        truth = _flags(labels)
        if truth is None or not truth.size:
            raise InputError("the test labels are empty or not a 0 or 1 for each label.")
        runs = {}
        for who, values in predictions.items():
            check_length(who, values, len(truth))
            found = _flags(values)
            if found is None or found.shape != truth.shape:
                raise InputError(
                    f"{who} has predictions of another kind; expected a 0 or 1 for each of "
                    f"{truth.shape[1]} labels."
                )
            runs[who] = found
        return truth, runs

    def scores(self, labels: Flags, runs: Flags) -> Floats:
        """Return the scores of runs."""
        if self.whole:
            share: Floats = (runs == labels).all(-1).mean(-1)
            return share
        return f1_of_sums(_features(labels, runs).sum(0))

    def resample(
        self,
        sign: float,
        labels: Flags,
        reference: Flags,
        candidate: Flags,
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain."""
        import numpy as np

        if self.whole:
            right = [(runs == labels).all(-1) for runs in (reference, candidate)]
            return resample_right(sign, right[0], right[1], samples=samples, rng=rng)
        runs = np.concatenate([reference, candidate])
        features = _features(labels, runs)
        table = features.reshape(len(features), -1)

        def scores(weights: Floats) -> Floats:
            return f1_of_sums((weights @ table).reshape(len(weights), len(runs), -1))

        return resample_weighted(
            scores,
            extremes(f1_of_sums, features, right_and_missed(labels.sum(-1), len(reference)), sign),
            sign=sign,
            examples=len(labels),
            samples=samples,
            rng=rng,
        )


def right_and_missed(counts: NDArray[Any], replicates: int) -> Floats:
    """Return features of examples that one arm has all right and the other has all missed.

    Args:
        counts: labels (or entities) of each example; one is imagined for each number of them.
        replicates: of either arm.
    """
    import numpy as np

    sets = np.unique(counts).astype(np.float64)
    right = np.stack([sets, 2 * sets], axis=-1)
    missed = np.stack([np.zeros(len(sets)), sets], axis=-1)
    both = [np.repeat(side[:, None], replicates, axis=1) for side in (right, missed)]
    return np.concatenate(both, axis=1)


def _flags(values: Sequence[Any]) -> Flags | None:
    import numpy as np

    found = as_array(values)
    if found.ndim != 2 or found.dtype.kind not in "iu" or not np.isin(found, (0, 1)).all():
        return None
    return found.astype(np.int64)
