"""Pre-training with labels: classes are learned, and features are read as those of the others."""

from __future__ import annotations

from torch import nn

from ticketry.models.heads import pretrained_head
from ticketry.models.loading import BaseRef
from ticketry.recipes import Recipe
from ticketry.tasks.base import TaskData
from ticketry.tasks.contrastive import probe
from ticketry.tasks.images import ImageClassification
from ticketry.tasks.pixels import Pixels
from ticketry.tasks.retrieval import gallery_rows
from ticketry.tasks.workload import Evaluation, SplitName


class SupervisedPretraining(ImageClassification):
    """Learn the classes of images; the score is retrieval, as that of the unsupervised ones.

    Where the base brings a classifier of the same classes, that is part of θ0.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        super().__init__(base, data, recipe)
        self._head = pretrained_head(base, data.objective, data.labels)
        self._gallery = gallery_rows(len(data.train))
        looked_among = [data.train.texts[row] for row in self._gallery]
        self._among = Pixels(looked_among, self.processing)

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model by retrieval.

        Raises:
            TrainingError: the model's features are not finite.
        """
        return probe(self, model, split, self._among, self._gallery, self._splits[split][0])
