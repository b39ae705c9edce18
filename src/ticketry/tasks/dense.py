"""What detection and segmentation share: images of one size, their batches, reading a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ticketry.errors import ConfigError, DataError
from ticketry.files import pretty_json
from ticketry.metrics import METRICS
from ticketry.models.dense import OUTPUT_STRIDE, STRIDES
from ticketry.models.loading import BaseRef
from ticketry.models.sources import CONFIG_FILE
from ticketry.recipes import Recipe
from ticketry.tasks.ahead import in_order, is_costly
from ticketry.tasks.base import SPLITS, Split, TaskData
from ticketry.tasks.pixels import Pixels, decode_image, processing_of
from ticketry.tasks.workload import Batch, SplitName, precision, training_steps

EVAL_BATCH = 32


class DenseBatches(Sequence[Batch]):
    """The batches of one training: rows of tensors, made when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor | Pixels], order: NDArray[np.int64]) -> None:
        self.tensors, self.order = tensors, order

    def __len__(self) -> int:
        return len(self.order)

    @property
    def costly(self) -> bool:
        """Whether a GPU would wait for one (:func:`ticketry.tasks.ahead.in_order`)."""
        return any(map(is_costly, self.tensors.values()))

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return DenseBatches(self.tensors, self.order[index])
        rows = torch.from_numpy(self.order[index])
        return {name: tensor[rows] for name, tensor in self.tensors.items()}


class DensePrediction:
    """Something said of places in an image, over a pre-trained backbone.

    All images have one size: the recipe's, or that of the first one. Nothing augments them.

    Args:
        base: the base model; a convolutional one of timm.
        data: the splits.
        recipe: decides precision, size and budget.

    Raises:
        ModelError: the base cannot be used.
        DataError: a split is empty, or an example is no image or not labelled as it should be.
        ConfigError: the recipe asks for what is not done here, or images are too small.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        if recipe.augment != "none":
            raise ConfigError(
                f"--augment {recipe.augment} is for image classification; {data.objective} takes "
                "images as they are."
            )
        if recipe.batch_size < 2:
            raise ConfigError(
                f"--batch-size is 1; {data.objective} needs 2 at least, for the statistics of "
                "batch normalisation."
            )
        self.base = base
        self.data = data
        self.recipe = recipe
        self.metric = METRICS[data.metric]
        self.sizes = {name: _sizes(getattr(data, name), name) for name in SPLITS}
        first = self.sizes["train"][0]
        self.side = side_of(data.objective, recipe, first)
        self.processing = processing_of(base, self.side)
        self._splits = {name: self._tensors(name) for name in SPLITS}

    def _tensors(self, name: str) -> dict[str, Tensor | Pixels]:
        split = getattr(self.data, name)
        images = Pixels(split.texts, self.processing)
        return {"pixel_values": images, **self._targets(split, name)}

    def _targets(self, split: Split, name: str) -> dict[str, Tensor]:
        raise NotImplementedError

    @property
    def truncated(self) -> Mapping[str, int]:
        """Nothing of an image is cut."""
        return dict.fromkeys(self._splits, 0)

    def batches(self, seed: int, recipe: Recipe | None = None) -> DenseBatches:
        """Return the batches of the whole budget: epochs shuffled, one after the other."""
        recipe = recipe or self.recipe
        tensors = self._splits["train"]
        count = len(tensors["pixel_values"])
        size = min(recipe.batch_size, count)
        steps = training_steps(recipe, count)
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps * size // count)
        order = [torch.randperm(count, generator=generator) for _ in range(epochs)]
        return DenseBatches(tensors, torch.cat(order)[: steps * size].reshape(steps, size).numpy())

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's images, twice: all are of one size."""
        return len(batch["pixel_values"]), len(batch["pixel_values"])

    def _read(self, model: nn.Module, split: SplitName) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, images) of a split, with the model in eval mode meanwhile.

        Whoever reads them turns gradients off: what is set in here does not hold out there.
        """
        images = self._splits[split]["pixel_values"]
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        try:
            with precision(device, self.recipe.dtype):
                for number, part in enumerate(in_order(images.split(EVAL_BATCH), device)):
                    yield number * EVAL_BATCH, part.to(device)
        finally:
            model.train(training)

    def _about(self) -> dict[str, Any]:
        return {"objective": self.data.objective, "labels": list(self.data.labels)}

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return what :func:`ticketry.models.dense.load_dense` reads."""
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        about = {**self._about(), "base": self.base.name, "image_size_px": self.side}
        return {
            "model.safetensors": safetensors.torch.save(state),
            "model.json": pretty_json(about),
            CONFIG_FILE: (self.base.path / CONFIG_FILE).read_bytes(),
        }


def side_of(objective: str, recipe: Recipe, size: tuple[int, int]) -> int:
    """Return the side of the images that a model reads, in pixels.

    Args:
        objective: detection or segmentation.
        recipe: may state it.
        size: height and width of the first image, whose longer side it is otherwise.

    Raises:
        ConfigError: a detector's coarsest features would be none, or a segmenter's a single one,
            which gives all pixels the same class.
    """
    side = recipe.image_size_px or max(size)
    stride, count = {"detection": (STRIDES[-1], 1), "segmentation": (OUTPUT_STRIDE, 2)}[objective]
    least = stride * count
    if side < least:
        raise ConfigError(
            f"images are read at {side} × {side} pixels, and {objective} reads features that "
            f"stand for {stride} × {stride} pixels each, at least {count} a side; give "
            f"--image-size {least} or more."
        )
    return side


def _sizes(split: Split, name: str) -> list[tuple[int, int]]:
    if not split.texts:
        raise DataError(f"the {name} split has no images; expected at least one.")
    shapes = [text.partition(":")[0].split("x") for text in split.texts]
    try:
        return [(int(shape[0]), int(shape[1])) for shape in shapes]
    except (ValueError, IndexError):
        decode_image(next(t for t, s in zip(split.texts, shapes, strict=True) if len(s) != 3))
        raise
