"""What a head learns of a text: a class, a number, or a set of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from ticketry.tasks.base import Label


@dataclass(frozen=True)
class Target:
    """How labels, logits and predictions of one objective go together.

    Attributes:
        dtype: of labels and predictions as arrays.
        loss: (logits (batch, outputs) in float32, labels) -> mean over the batch.
        predict: logits -> predictions, shaped like the labels.
    """

    dtype: type[np.generic]
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]

    def array(self, labels: Sequence[Label]) -> NDArray[Any]:
        """Return labels as an array, examples first."""
        return np.asarray(labels, dtype=self.dtype)

    def plain(self, predictions: NDArray[Any]) -> tuple[Any, ...]:
        """Return predictions as records hold them: numbers, or tuples of 0 and 1."""
        if predictions.ndim == 1:
            return tuple(predictions.tolist())
        return tuple(tuple(int(flag) for flag in row) for row in predictions)


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return mse_loss(logits.squeeze(-1), labels)


TARGETS: Mapping[str, Target] = {
    "classification": Target(np.int64, cross_entropy, lambda logits: logits.argmax(-1)),
    "regression": Target(np.float32, _squared_error, lambda logits: logits.squeeze(-1)),
    "multi-label": Target(
        np.float32, binary_cross_entropy_with_logits, lambda logits: (logits > 0).float()
    ),
}
"""Objective -> target. The losses are those of transformers' sequence classifiers."""
