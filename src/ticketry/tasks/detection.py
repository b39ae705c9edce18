"""Boxes around objects: a task bound to a base, as the training loop's workload."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ticketry.errors import DataError, TrainingError
from ticketry.models.dense import STRIDES, build_detector, load_trunk
from ticketry.models.loading import BaseRef
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.dense import DensePrediction
from ticketry.tasks.workload import Batch, Evaluation, SplitName

_DECIMALS = 2, 4
"""Kept of coordinates and of scores in records."""


class Detection(DensePrediction):
    """Fine-tune a detector over a base; only the base is pruned.

    Objects that are marked as too hard to count are not trained on.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        super().__init__(base, data, recipe)
        self._trunk = load_trunk(base, STRIDES)

    def _targets(self, split: Split, name: str) -> dict[str, Tensor]:
        scenes = []
        for number, (boxes, size) in enumerate(zip(split.labels, self.sizes[name], strict=True)):
            check_boxes(boxes, size, len(self.data.labels), f"{name} image {number}")
            scale = self.side / size[1], self.side / size[0]
            scenes.append([
                (kind, x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
                for kind, x0, y0, x1, y1, hard in boxes if not hard
            ])  # fmt: skip
        most = max(1, *map(len, scenes))
        boxes = torch.zeros(len(scenes), most, 4)
        classes = torch.full((len(scenes), most), -1)
        for row, scene in enumerate(scenes):
            for column, (kind, *corners) in enumerate(scene):
                boxes[row, column] = torch.tensor(corners)
                classes[row, column] = kind
        return {"boxes": boxes, "classes": classes}

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh detector at θ0 on ``device``."""
        model = build_detector(
            self._trunk,
            self.recipe.detector,
            len(self.data.labels),
            self.side,
            self.recipe.detections_per_image,
            head_seed,
        )
        return model.to(device).eval()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of the detector's losses."""
        targets = []
        for boxes, classes in zip(batch["boxes"], batch["classes"], strict=True):
            there = classes >= 0
            targets.append({"boxes": boxes[there], "labels": classes[there] + 1})
        losses = model(list(batch["pixel_values"]), targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Find boxes in a split, in the recipe's precision.

        Returns:
            Its predictions are the boxes of each image: class, score, x0, y0, x1, y1 in pixels of
            the image as it was given.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        found: list[tuple[Any, ...]] = []
        for _, images in self._read(model, split):
            for output in model(list(images)):
                height, width = self.sizes[split][len(found)]
                found.append(_boxes_of(output, (width / self.side, height / self.side), split))
        labels = getattr(self.data, split).labels
        return Evaluation(float(self.metric.fn(labels, found)), tuple(found))

    def _about(self) -> dict[str, Any]:
        return {
            **super()._about(),
            "detector": self.recipe.detector,
            "detections_per_image": self.recipe.detections_per_image,
        }


def _boxes_of(output: Any, scale: tuple[float, float], split: str) -> tuple[Any, ...]:
    boxes, scores = output["boxes"].float().tolist(), output["scores"].float().tolist()
    if not all(math.isfinite(value) for row in (scores, *boxes) for value in row):
        raise TrainingError(
            f"the model's outputs on the {split} split are not finite; the training diverged. Try "
            "a lower --learning-rate or --dtype float32."
        )
    return tuple(
        (kind - 1, round(score, _DECIMALS[1]),
         *(round(v * scale[i % 2], _DECIMALS[0]) for i, v in enumerate(box)))
        for kind, score, box in zip(output["labels"].tolist(), scores, boxes, strict=True)
        if kind > 0
    )  # fmt: skip


def check_boxes(boxes: Any, size: tuple[int, int], classes: int, where: str) -> None:
    """Refuse boxes that cannot be an image's.

    Args:
        boxes: class, x0, y0, x1, y1 and whether it is too hard to count, of each object.
        size: height and width of the image.
        classes: how many there are.
        where: for messages.

    Raises:
        DataError: a box outside the image or without an area, or a class that is not there.
    """
    height, width = size
    for kind, x0, y0, x1, y1, _ in boxes:
        if not 0 <= kind < classes:
            raise DataError(
                f"{where}: class {kind}; expected 0 to {classes - 1} (classes count from 0)."
            )
        if not (x1 > x0 and y1 > y0):
            raise DataError(
                f"{where}: the box {x0:g}, {y0:g}, {x1:g}, {y1:g} has no area; expected x0 < x1 "
                "and y0 < y1."
            )
        if not (x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height):
            raise DataError(
                f"{where}: the box {x0:g}, {y0:g}, {x1:g}, {y1:g} lies outside the image of "
                f"{width} × {height} pixels."
            )
