"""What a metric is, and what it needs to know of the predictions behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ticketry.metrics.resampling import Resampled

    Floats = NDArray[np.float64]


class Outputs(Protocol):
    """What a model says of one example, and how scores follow from what it says of many."""

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Check labels and runs as they were recorded, and return them as arrays.

        Args:
            labels: of the test examples, in test order.
            predictions: who -> one run's, in test order.
        Returns:
            (labels, who -> predictions); the first axis of each is that of the examples.

        Raises:
            InputError: of a wrong length or kind; names the run.
        """

    def scores(self, labels: NDArray[Any], runs: NDArray[Any]) -> Floats:
        """Return the scores of runs (replicates, examples, …), shape (replicates,)."""

    def resample(
        self,
        sign: float,
        labels: NDArray[Any],
        reference: NDArray[Any],
        candidate: NDArray[Any],
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain; see :func:`resample`."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        name: as in tasks and evidence.
        margin: largest loss that still counts as "not worse", in the metric's own unit.
        objectives: what its predictions are learned by.
        direction: ``higher`` or ``lower``: which way is better.
        fn: (labels, predictions) -> score, by scikit-learn or scipy where they have it.
        outputs: the same from saved predictions, for many runs and resamples at once.
        percent: people say it in percent and points.
        unit: of a difference, where it is not points.
        also: what people are told beside a score, such as its perplexity.
    """

    name: str
    margin: float
    fn: Callable[[Any, Any], float]
    outputs: Outputs
    objectives: tuple[str, ...] = ("classification", "image-classification")
    direction: str = "higher"
    percent: bool = True
    unit: str = ""
    also: Callable[[float], str] | None = None

    @property
    def sign(self) -> float:
        """1 where higher is better, -1 where lower is: score differences times it are gains."""
        return 1.0 if self.direction == "higher" else -1.0


def resample(
    metric: Metric,
    labels: NDArray[Any],
    reference: NDArray[Any],
    candidate: NDArray[Any],
    *,
    samples: int,
    seed: int,
) -> Resampled:
    """Bootstrap the mean gain over test examples, all replicates together.

    A draw takes the same examples for every replicate of both arms.

    One imaginary example stands among those drawn from: lost by the candidate for the lower end,
    won for the upper. Without it, arms that happen to agree on a small test set would show no
    doubt at all: with 100 examples and none lost, the loss may still be 3 points (rule of three).

    Args:
        metric: what is compared.
        labels: as :meth:`Outputs.read` gives them, shape (examples, …).
        reference: predictions, shape (replicates, examples, …).
        candidate: the same of the arm whose gain is asked, paired by replicate.
        samples: draws.
        seed: of the draws; equal seeds give equal results.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    return metric.outputs.resample(
        metric.sign, labels, reference, candidate, samples=samples, rng=rng
    )
