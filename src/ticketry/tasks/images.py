"""Classes of images: a task bound to a base, as the training loop's workload."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ticketry.config import derive_seed
from ticketry.errors import DataError, TrainingError
from ticketry.metrics import METRICS
from ticketry.models.heads import load_task_model
from ticketry.models.loading import BaseRef, canonical_tensors, load_backbone, quiet
from ticketry.recipes import Recipe
from ticketry.tasks.ahead import in_order, is_costly
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.pixels import PROCESSOR_FILE, Pixels, processing_of
from ticketry.tasks.workload import Batch, Evaluation, SplitName, precision, training_steps

EVAL_BATCH = 64


class ImageBatches(Sequence[Batch]):
    """The batches of one training, made when they are asked for.

    Args:
        images: [images, channels, height, width], prepared or to be.
        labels: one each.
        order: rows of each step, shape (steps, batch).
        augment: a key of :data:`ticketry.config.AUGMENTATIONS`.
        seed: decides what is augmented how.
        first: number of the first of these steps in the training.
    """

    def __init__(
        self,
        images: Tensor | Pixels,
        labels: Tensor,
        order: NDArray[np.int64],
        augment: str = "none",
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self.images, self.labels, self.order = images, labels, order
        self.augment, self.seed, self.first = augment, seed, first

    def __len__(self) -> int:
        return len(self.order)

    @property
    def costly(self) -> bool:
        """Whether a GPU would wait for one (:func:`ticketry.tasks.ahead.in_order`)."""
        return self.augment != "none" or is_costly(self.images)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            start, _, stride = index.indices(len(self))
            if stride != 1:
                raise IndexError("the steps of a training are taken one after the other")
            return ImageBatches(
                self.images, self.labels, self.order[index], self.augment, self.seed,
                self.first + start,
            )  # fmt: skip
        rows = torch.from_numpy(self.order[index])
        images = self.images[rows]
        if self.augment != "none":
            # By the step's own number, so that a training that goes on sees the same images.
            step = self.first + range(len(self))[index]
            seed = derive_seed(self.seed, f"augment/{step}")
            images = augmented(images, torch.Generator().manual_seed(seed), self.augment)
        return {"pixel_values": images, "labels": self.labels[rows]}


def augmented(images: Tensor, generator: torch.Generator, how: str) -> Tensor:
    """Shift each image by up to an eighth of its size, and perhaps mirror it.

    Args:
        images: [images, channels, height, width]; what comes in from outside is 0, the mean.
        generator: decides.
        how: ``crop``, or ``crop-flip``, which also mirrors half of them.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2: images of 32 pixels, padded by 4.
    """
    count, _, height, width = images.shape
    most = max(1, min(height, width) // 8)
    padded = pad(images, (most, most, most, most))
    shifts = torch.randint(0, 2 * most + 1, (count, 2), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    found = torch.empty_like(images)
    for row, (down, right) in enumerate(shifts.tolist()):
        found[row] = padded[row, :, down : down + height, right : right + width]
    if how == "crop-flip":
        found[mirrored] = found[mirrored].flip(-1)
    return found


class ImageClassification:
    """Fine-tune a base with a head on images: one of the loop's workloads.

    Images are resized and normalised once; the recipe says how those to train on are augmented.

    Args:
        base: the base model; its ``preprocessor_config.json`` is used.
        data: the splits.
        recipe: decides precision and budget; its length in tokens has no meaning here.

    Raises:
        ModelError: the base cannot be used.
        DataError: a split is empty, or an example is no image.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        self.base = base
        self.data = data
        self.recipe = recipe
        self.metric = METRICS[data.metric]
        self.processing = processing_of(base, recipe.image_size_px)
        self._weights = canonical_tensors(load_backbone(base))
        self._head: Mapping[str, Tensor] = {}
        self._splits = {
            name: self._tensors(getattr(data, name), name)
            for name in ("train", "validation", "test")
        }

    def _tensors(self, split: Split, name: str) -> tuple[Pixels, Tensor]:
        if not split.texts:
            raise DataError(f"the {name} split has no examples; expected at least one.")
        return Pixels(split.texts, self.processing), torch.tensor(split.labels)

    @property
    def truncated(self) -> Mapping[str, int]:
        """Nothing of an image is cut."""
        return dict.fromkeys(self._splits, 0)

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh classifier at θ0 on ``device``."""
        model: nn.Module = load_task_model(
            self.base,
            self.data.objective,
            self.data.labels,
            head_seed,
            weights=self._weights,
            head_weights=self._head,
        )
        return model.to(device)

    def batches(self, seed: int, recipe: Recipe | None = None) -> ImageBatches:
        """Return the batches of the whole budget: epochs shuffled, one after the other."""
        recipe = recipe or self.recipe
        images, labels = self._splits["train"]
        size = min(recipe.batch_size, len(labels))
        steps = training_steps(recipe, len(labels))
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps * size // len(labels))
        stream = torch.cat(
            [torch.randperm(len(labels), generator=generator) for _ in range(epochs)]
        )[: steps * size]
        return ImageBatches(
            images, labels, stream.reshape(steps, size).numpy(), recipe.augment, seed
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean cross-entropy."""
        logits: Tensor = model(pixel_values=batch["pixel_values"]).logits
        return cross_entropy(logits.float(), batch["labels"])

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's images, twice: all are of one size."""
        return len(batch["labels"]), len(batch["labels"])

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model on a split, in the recipe's precision and without dropout.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        images, labels = self._splits[split]
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        found: list[int] = []
        try:
            with precision(device, self.recipe.dtype):
                for part in in_order(images.split(EVAL_BATCH), device):
                    logits = model(pixel_values=part.to(device)).logits.float()
                    if not torch.isfinite(logits).all():
                        raise TrainingError(
                            f"the model's outputs on the {split} split are not finite; the "
                            "training diverged. Try a lower --learning-rate or --dtype float32."
                        )
                    found += logits.argmax(-1).tolist()
        finally:
            model.train(training)
        return Evaluation(float(self.metric.fn(labels.tolist(), found)), tuple(found))

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the model, its head and how it wants its images."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            model.save_pretrained(folder)  # type: ignore[operator]
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file()
            }
        if (source := Path(self.base.path) / PROCESSOR_FILE).is_file():
            files[PROCESSOR_FILE] = source.read_bytes()
        return files
