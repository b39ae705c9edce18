"""Learning images without labels: a task bound to a base, as the training loop's workload."""

from __future__ import annotations

import contextlib
import copy
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ticketry.config import derive_seed
from ticketry.errors import DataError
from ticketry.metrics import METRICS
from ticketry.models.contrastive import (
    MoCo,
    SimCLR,
    features,
    need_lightly,
    own_projection,
    projection_head,
    put_projection_,
    save_projection,
)
from ticketry.models.loading import BaseRef, base_model, load_backbone, quiet
from ticketry.models.sources import PROJECTION_FILE
from ticketry.recipes import Recipe
from ticketry.tasks.base import SPLITS, TaskData
from ticketry.tasks.pixels import PROCESSOR_FILE, Decoded, Pixels, Processing, processing_of
from ticketry.tasks.pretraining import check_pretraining
from ticketry.tasks.retrieval import gallery_rows, read_features, retrieve
from ticketry.tasks.workload import Batch, Evaluation, SplitName, training_steps

SMALL = 64
"""Below this many pixels views are neither blurred nor strongly coloured."""
TEMPERATURES = {"simclr": 0.5, "moco": 0.2}
"""Where the recipe names none: those of the papers (of simCLR: on CIFAR)."""

Transform = Callable[[Any], list[Tensor]]


def views_of(objective: str, size: tuple[int, int]) -> Transform:
    """Return lightly's transform: a Pillow image -> two tensors [channels, *size] in [0, 1].

    Source: Chen et al. 2020 (arXiv 2002.05709), Appendix A, and B.9 for small images (half the
        strength of colours, no blur); Chen et al. 2020 (arXiv 2003.04297) for MoCo v2.
    """
    from lightly.transforms import MoCoV2Transform, SimCLRTransform

    made = SimCLRTransform if objective == "simclr" else MoCoV2Transform
    options: dict[str, Any] = {"cj_strength": 0.5, "gaussian_blur": 0.0}
    found: Transform = made(
        input_size=size, normalize=None, **(options if min(size) < SMALL else {})
    )
    return found


@contextlib.contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Seed what lightly's transforms draw from (torch, numpy, random); then go on as before."""
    kept = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])


class ViewBatches(Sequence[Batch]):
    """The batches of one training: two views of each image, drawn when they are asked for.

    Drawing takes as long as a GPU's step, and more: ``costly``.

    Args:
        images: uint8, (height, width, channels) each.
        order: rows of each step, shape (steps, batch).
        transform: :func:`views_of`.
        processing: normalises the views.
        seed: decides the views, by the step's number.
        first: number of the first of these steps in the training.
    """

    costly = True

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        order: NDArray[np.int64],
        transform: Transform,
        processing: Processing,
        seed: int,
        first: int = 0,
    ) -> None:
        self.images, self.order = images, order
        self.transform, self.processing = transform, processing
        self.seed, self.first = seed, first

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            start, _, stride = index.indices(len(self))
            if stride != 1:
                raise IndexError("the steps of a training are taken one after the other")
            return ViewBatches(
                self.images, self.order[index], self.transform, self.processing, self.seed,
                self.first + start,
            )  # fmt: skip
        from PIL import Image

        # By the step's own number, so that a training that goes on sees the same views.
        step = self.first + range(len(self))[index]
        with _drawn_from(derive_seed(self.seed, f"views/{step}")):
            pairs = [
                self.transform(
                    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
                )
                for image in (self.images[row] for row in self.order[index])
            ]
        first, second = (self._normalised([pair[view] for pair in pairs]) for view in (0, 1))
        return {"pixel_values": first, "other_views": second}

    def _normalised(self, views: list[Tensor]) -> Tensor:
        channels = self.processing.channels
        pixels = torch.stack([view.expand(channels, -1, -1) for view in views])
        mean, std = torch.tensor(self.processing.mean), torch.tensor(self.processing.std)
        return (pixels - mean[:, None, None]) / std[:, None, None]


class ContrastiveLearning:
    """Learn images without their labels, over a base: one of the loop's workloads.

    θ0 is the base with its own projection head where it brings one of this objective (as
    ``ticketry pretrain`` writes), else with a fresh one. The score is retrieval
    (:mod:`ticketry.tasks.retrieval`), which alone reads labels.

    Args:
        base: the base model.
        data: the splits.
        recipe: decides precision, budget, temperature, queue and momentum.

    Raises:
        ModelError: the base cannot be used, or lightly is not there.
        DataError: a split is empty, or an example is no image.
        ConfigError: the recipe does not fit.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        need_lightly()
        check_pretraining(data, recipe)
        self.base, self.data, self.recipe = base, data, recipe
        self.metric = METRICS[data.metric]
        self.processing = processing_of(base, recipe.image_size_px)
        self._backbone = load_backbone(base)
        self._head = own_projection(base, data.objective)
        for name in SPLITS:
            if not getattr(data, name).texts:
                raise DataError(f"the {name} split has no images; expected at least one.")
        self._images = Decoded(data.train.texts)
        self._gallery = gallery_rows(len(self._images))
        looked_among = [data.train.texts[row] for row in self._gallery]
        self._read = {
            "train": Pixels(looked_among, self.processing),
            "validation": Pixels(data.validation.texts, self.processing),
            "test": Pixels(data.test.texts, self.processing),
        }
        channels = self.processing.channels
        with torch.no_grad():
            blank = torch.zeros(1, channels, *self.processing.size)
            self._size = features(base_model(self._backbone), blank).shape[1]

    @property
    def truncated(self) -> Mapping[str, int]:
        """Nothing of an image is cut."""
        return dict.fromkeys(SPLITS, 0)

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return the model at θ0 on ``device``, with a queue of its own.

        The seed decides the head, where the base brings none, and what the queue begins with.
        """
        objective, recipe = self.data.objective, self.recipe
        temperature = recipe.temperature or TEMPERATURES[objective]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(head_seed)
            head = projection_head(objective, self._size)
            if self._head:
                put_projection_(head, self._head, self.base)
            backbone = copy.deepcopy(self._backbone)
            model: nn.Module
            if objective == "simclr":
                model = SimCLR(backbone, head, temperature)
            else:
                model = MoCo(backbone, head, temperature, recipe.queue, recipe.key_momentum)
        # Channels last: a step of a small ResNet in bfloat16 took a fifth less time on a CPU.
        laid_out: Any = model.to(device)
        found: nn.Module = laid_out.to(memory_format=torch.channels_last).eval()
        return found

    def batches(self, seed: int, recipe: Recipe | None = None) -> ViewBatches:
        """Return the batches of the whole budget: epochs shuffled, one after the other."""
        recipe = recipe or self.recipe
        count = len(self._images)
        size = min(recipe.batch_size, count)
        steps = training_steps(recipe, count)
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps * size // count)
        order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
        return ViewBatches(
            self._images,
            order[: steps * size].reshape(steps, size).numpy(),
            views_of(self.data.objective, self.processing.size),
            self.processing,
            seed,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss."""
        assert isinstance(model, SimCLR | MoCo)
        return model.loss(batch["pixel_values"], batch["other_views"])

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's images, twice: all are of one size."""
        return len(batch["pixel_values"]), len(batch["pixel_values"])

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model by retrieval: the class of each image's nearest neighbour.

        Raises:
            TrainingError: the model's features are not finite.
        """
        return probe(self, model, split, self._read["train"], self._gallery, self._read[split])

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the base, with the projection head beside it."""
        assert isinstance(model, SimCLR | MoCo)
        base: Any = copy.deepcopy(model.encoder.base)
        base.to(memory_format=torch.contiguous_format)
        with tempfile.TemporaryDirectory() as folder, quiet():
            base.save_pretrained(folder)
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file()
            }
        if (source := self.base.path / PROCESSOR_FILE).is_file():
            files[PROCESSOR_FILE] = source.read_bytes()
        files[PROJECTION_FILE] = save_projection(
            model.encoder.head.state_dict(), self.data.objective
        )
        return files


def probe(
    workload: Any,
    model: nn.Module,
    split: SplitName,
    gallery: Tensor | Pixels,
    rows: Sequence[int],
    images: Tensor | Pixels,
) -> Evaluation:
    """Score a model by retrieval among images that it was trained on.

    Args:
        workload: with data, recipe and metric.
        model: of the workload.
        split: that is read.
        gallery: images that are looked among.
        rows: which of the training split's they are.
        images: of the split.
    """
    data, dtype = workload.data, workload.recipe.dtype
    found = tuple(
        retrieve(
            read_features(model, gallery, dtype, "train"),
            [data.train.labels[row] for row in rows],
            read_features(model, images, dtype, split),
        )
    )
    return Evaluation(float(workload.metric.fn(getattr(data, split).labels, found)), found)
