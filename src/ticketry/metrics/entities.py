"""The metric of named entities: F1 over entities, as ``conlleval`` and seqeval count them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import check_length
from ticketry.metrics.flags import f1_of_sums, right_and_missed
from ticketry.metrics.resampling import Resampled, extremes, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def need_seqeval() -> None:
    """Refuse to go on without seqeval.

    Raises:
        InputError: says how to get it.
    """
    try:
        import seqeval  # noqa: F401
    except ImportError as error:
        raise InputError(
            "F1 over entities needs seqeval; install it with: pip install 'ticketry[tags]'"
        ) from error


def entity_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Return micro-averaged F1 over entities; 0 where there are none.

    An entity counts when its first word, its last word and its type are right. Tags are read as
    IOB1 or IOB2: I- after O, or after another type, begins an entity as B- does.

    Args:
        labels: a sentence's tags, separated by spaces.
        predictions: the same.

    Source: Tjong Kim Sang & De Meulder 2003 (arXiv cs/0306050), section 2.4; seqeval's default
        mode, which is that of their ``conlleval``.
    """
    need_seqeval()
    from seqeval.metrics import f1_score

    check_length("the run", predictions, len(labels))
    truth, found = ([tags.split(" ") for tags in side] for side in (labels, predictions))
    if all(tag == "O" for side in (truth, found) for tags in side for tag in tags):
        return 0.0
    return float(f1_score(truth, found, zero_division=0))


def entities_of(tags: str) -> set[tuple[str, int, int]]:
    """Return the entities of one sentence: type, first and last word."""
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(tags.split(" ")))


class EntityCounts:
    """Outputs that are the tags of each sentence; sentences are drawn anew."""

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[NDArray[Any], dict[str, Floats]]:
        """Return entities a sentence, and runs' (hits, entities + predicted ones) (examples, 2)."""
        import numpy as np

        need_seqeval()
        if not labels or not all(isinstance(tags, str) and tags for tags in labels):
            raise InputError("the test labels are empty or not tags separated by spaces.")
        truth = [entities_of(tags) for tags in labels]
        runs = {}
        for who, values in predictions.items():
            check_length(who, values, len(labels))
            for tags, value in zip(labels, values, strict=True):
                if not isinstance(value, str) or value.count(" ") != tags.count(" "):
                    raise InputError(
                        f"{who} has predictions of another kind; expected a tag for each word of "
                        "each sentence, separated by spaces."
                    )
            found = [entities_of(value) for value in values]
            runs[who] = np.array(
                [
                    (len(own & said), len(own) + len(said))
                    for own, said in zip(truth, found, strict=True)
                ],
                dtype=np.float64,
            )
        return np.array([len(own) for own in truth]), runs

    def scores(self, labels: NDArray[Any], runs: Floats) -> Floats:
        """Return the scores of runs."""
        return f1_of_sums(runs.sum(-2))

    def resample(
        self,
        sign: float,
        labels: NDArray[Any],
        reference: Floats,
        candidate: Floats,
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain over sentences."""
        import numpy as np

        features = np.concatenate([reference, candidate]).swapaxes(0, 1)
        table = features.reshape(len(features), -1)

        def scores(weights: Floats) -> Floats:
            return f1_of_sums((weights @ table).reshape(len(weights), -1, 2))

        extra = right_and_missed(labels, len(reference))
        return resample_weighted(
            scores,
            extremes(f1_of_sums, features, extra, sign),
            sign=sign,
            examples=len(labels),
            samples=samples,
            rng=rng,
        )
