"""The metrics of language modelling: nats per token, and hidden tokens that were predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import as_array
from ticketry.metrics.resampling import Resampled, extremes, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


def nats_per_token(labels: object, predictions: ArrayLike) -> float:
    """Return the mean negative log-likelihood of a token.

    Args:
        labels: not looked at; the texts are their own labels.
        predictions: of each document, nats and tokens, shape (documents, 2).
    """
    return _per_token(predictions, "nats and tokens of each document")


def share_right(labels: object, predictions: ArrayLike) -> float:
    """Return the share of hidden tokens that were predicted.

    Args:
        labels: not looked at; the texts are their own labels.
        predictions: of each block, tokens that were predicted right, and tokens that were hidden,
            shape (blocks, 2).
    """
    return _per_token(predictions, "predicted and hidden tokens of each block")


def _per_token(predictions: ArrayLike, expected: str) -> float:
    import numpy as np

    found = np.asarray(predictions, dtype=np.float64)
    if found.ndim != 2 or found.shape[-1] != 2 or not len(found):
        raise InputError(f"{len(found)} predictions; expected {expected}, and at least one.")
    return math.fsum(found[:, 0]) / math.fsum(found[:, 1])


def perplexity(nats: float) -> str:
    """Say a loss in nats per token as a perplexity."""
    return f"perplexity {math.exp(nats):,.4g}" if nats < 100 else "perplexity above 1e43"


def _ratio_of_sums(sums: Floats) -> Floats:
    import numpy as np

    nats, tokens = sums[..., 0], sums[..., 1]
    ratio: Floats = np.divide(nats, tokens, out=np.zeros(nats.shape), where=tokens > 0)
    return ratio


class TokenLoss:
    """Outputs that are the nats and the number of tokens of each document (or masked block).

    Documents, not tokens or blocks, are drawn anew: tokens of one document resemble each other.
    """

    what = "nats and tokens of each test document"

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Return the documents' tokens (examples,), and runs (examples, 2).

        Args:
            labels: none; the texts are their own labels.
            predictions: who -> nats and tokens of each test document.
        """
        import numpy as np

        runs: dict[str, Floats] = {}
        first = None
        for who, values in predictions.items():
            found = as_array(values)
            if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iuf":
                raise InputError(f"{who} has predictions of another kind; expected {self.what}.")
            runs[who] = found.astype(np.float64)
            if not np.isfinite(runs[who]).all() or (runs[who][:, 1] < 1).any():
                raise InputError(
                    f"{who} has predictions that are not finite nats and at least one token."
                )
            self.check(who, runs[who])
            first = first or who
            if not np.array_equal(runs[who][:, 1], runs[first][:, 1]):
                raise InputError(
                    f"{who} was read on other test documents than {first}: their numbers of "
                    "tokens differ."
                )
        if first is None:
            raise InputError("there are no predictions; expected those of at least one run.")
        return runs[first][:, 1], runs

    def check(self, who: str, run: Floats) -> None:
        """Refuse a run's predictions that no model can have made."""

    def scores(self, labels: Floats, runs: Floats) -> Floats:
        """Return the scores of runs."""
        return _ratio_of_sums(runs.sum(-2))

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
        """Bootstrap the mean gain over documents."""
        import numpy as np

        features = np.concatenate([reference, candidate]).swapaxes(0, 1)
        table = features.reshape(len(features), -1)

        def scores(weights: Floats) -> Floats:
            return _ratio_of_sums((weights @ table).reshape(len(weights), -1, 2))

        return resample_weighted(
            scores,
            extremes(_ratio_of_sums, features, None, sign),
            sign=sign,
            examples=len(labels),
            samples=samples,
            rng=rng,
        )


class TokensRight(TokenLoss):
    """Outputs that are, of each block, the tokens that were predicted right and those hidden.

    Blocks, not tokens, are drawn anew: tokens of one text resemble each other.
    """

    what = "predicted and hidden tokens of each test block"

    def check(self, who: str, run: Floats) -> None:
        """Refuse shares outside [0, 1].

        Raises:
            InputError: names the run.
        """
        if (run[:, 0] < 0).any() or (run[:, 0] > run[:, 1]).any():
            raise InputError(f"{who} predicts fewer tokens than none, or more than were hidden.")
