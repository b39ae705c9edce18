"""Classes, numbers or label sets of texts: a task bound to a base, as the loop's workload."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from ticketry.models.lean import logits_of
from ticketry.models.loading import BaseRef
from ticketry.recipes import Recipe
from ticketry.tasks.base import TaskData
from ticketry.tasks.encoded import EncodedWorkload, check_finite, inputs_of
from ticketry.tasks.encoding import Encoded, encode
from ticketry.tasks.targets import TARGETS
from ticketry.tasks.workload import Batch, Evaluation, SplitName


class SequenceClassification(EncodedWorkload):
    """Fine-tune a base with a head on texts or pairs of them: one of the loop's workloads.

    Args:
        base: the base model; its tokenizer is used.
        data: the splits.
        recipe: decides length, precision, and (unless :meth:`batches` is given another) the budget.

    Attributes:
        target: how labels, logits and predictions go together.

    Raises:
        ModelError: the base or its tokenizer cannot be used.
        DataError: a split is empty.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        self.target = TARGETS[data.objective]
        super().__init__(base, data, recipe)

    def _encode(self, name: str) -> Encoded:
        split = getattr(self.data, name)
        return encode(self.tokenizer, split, name, self.max_length, self.target)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss: the objective's."""
        return self.target.loss(logits_of(model, inputs_of(batch)).float(), batch["labels"])

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model on a split, in the recipe's precision and without dropout.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        labels = self._splits[split].labels
        predictions = np.empty(labels.shape, dtype=labels.dtype)
        with self._reading(model) as device:
            for indices, inputs in self._inputs(split, device):
                logits = logits_of(model, inputs).float()
                check_finite(logits, split)
                predictions[indices] = self.target.predict(logits).cpu().numpy()
        found = self.target.plain(predictions)
        return Evaluation(float(self.metric.fn(getattr(self.data, split).labels, found)), found)
