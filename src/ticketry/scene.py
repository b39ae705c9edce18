"""What a run works on, brought together once: base model, data, scope, context, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from ticketry.bench import axes_for, units_for
from ticketry.config import PRETRAINING, DataSpec, fingerprint
from ticketry.core.pattern import Unit
from ticketry.errors import ConfigError
from ticketry.parallel import check_launch, launched
from ticketry.recipes import Recipe
from ticketry.search import Sizes, warm_head_step
from ticketry.steps import Context, Step
from ticketry.tasks.base import TaskData
from ticketry.tasks.dealing import joined_texts
from ticketry.tasks.objectives import BLOCKS, ON_IMAGES, READS_TEXT
from ticketry.tasks.pretraining import check_pretraining
from ticketry.ticket import Base, Ticket

if TYPE_CHECKING:
    from torch import nn

    from ticketry.models.loading import BaseRef

MEAN_TOKENS_PER_WORD = 1.35
"""Word pieces a word in English text; only the estimate printed beforehand rests on it."""


@dataclass(frozen=True)
class Scene:
    """Everything that the plan needs to know and the workers are told.

    Attributes:
        base: the base model's identity.
        data: the prepared splits.
        context: what goes into every step's key.
        inputs: files whose change makes a finished run stale.
        shapes: of the tensors in scope, by canonical name.
        notes: what the user is told before the run.
        units: the heads or neurons in scope, for a pattern of these.
        input_axes: of the tensors in scope, for a pattern that looks at them.
        blocks: of each split's texts, where these are cut into blocks (language modelling) or
            windows (question answering).
        warms_head: the checkpoint lacks a head that the task warms up before anything starts from
            it (masked language modelling).
        image_flops: of a forward and a backward pass of one image, where examples are images.
    """

    base: Base
    data: TaskData
    recipe: Recipe
    context: Context
    inputs: Sequence[Path]
    shapes: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
    units: tuple[Unit, ...] | None = None
    input_axes: Mapping[str, int] | None = None
    blocks: tuple[int, int, int] | None = None
    warms_head: bool = False
    image_flops: float | None = None

    @property
    def context_key(self) -> str:
        """The context's fingerprint."""
        return self.context.key

    @property
    def sizes(self) -> Sizes:
        """Examples per split: texts, or blocks of them."""
        if self.blocks is not None:
            return Sizes(*self.blocks)
        data = self.data
        return Sizes(len(data.train), len(data.validation), len(data.test))

    @property
    def head(self) -> Step | None:
        """The step that warms up the head, where one is."""
        if not self.warms_head:
            return None
        return warm_head_step(self.recipe, self.sizes, self.context_key)

    @property
    def head_key(self) -> str | None:
        """Its key: what plans of searches and verifications ask for."""
        return None if self.head is None else self.head.key

    @property
    def prunable(self) -> int:
        """Weights in scope."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def flops_per_pass(self) -> float:
        """About the FLOPs of one forward and backward pass of an average example."""
        if self.image_flops is not None:
            return self.image_flops
        return 6.0 * self.prunable * sum(map(self._tokens, self.data.each))

    def _tokens(self, data: TaskData) -> float:
        """About the tokens of an average example; a joint task's pass has one of each part."""
        if data.objective in BLOCKS:
            return self.recipe.max_length_tokens
        sample = joined_texts(data.train.take(range(min(500, len(data.train)))))
        words = sum(len(text.split()) for text in sample) / max(len(sample), 1)
        return min(words * MEAN_TOKENS_PER_WORD + 2, self.recipe.max_length_tokens)

    def describe_data(self) -> dict[str, Any]:
        """Return the data's part of the evidence."""
        data = self.data
        return {
            "source": data.source,
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "labels": list(data.labels),
            "objective": data.objective,
            "notes": list(data.notes),
        }


def prepare(
    model: str,
    revision: str | None,
    data_spec: DataSpec,
    recipe: Recipe,
    scope: Sequence[str],
    *,
    device: str,
    threads: int,
    say: Callable[[str], None],
    ticket: Ticket | None = None,
    pattern: str = "unstructured",
) -> Scene:
    """Load, check and identify the base model and the data.

    Args:
        model: packaged name, folder or hub id.
        revision: of the hub id.
        data_spec: which data.
        recipe: how trainings go.
        scope: a scope's name, or patterns.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: torch threads of one training.
        say: given a line about each download.
        ticket: refuse a base that is not this ticket's.
        pattern: of heads or neurons: the scope is narrowed to the tensors that these lie in.

    Raises:
        InputError: the model or the data cannot be used, or the device is absent.
    """
    check_launch(choose_device(device))
    from ticketry.models.heads import check_task_model, pretrained_head, warms_head
    from ticketry.models.loading import (
        base_sha256,
        canonical_tensors,
        length_limit,
        load_backbone,
        load_tokenizer,
        prunable,
        resolve,
        source_files,
        tensor_hashes,
    )
    from ticketry.tasks.objectives import block_counts
    from ticketry.tasks.sources import data_files, load_data

    data = load_data(data_spec, say)
    notes = list(data.notes)
    wanted = recipe.train_samples
    if wanted is not None and wanted > max(len(part.train) for part in data.each):
        notes.append(
            f"--train-samples {wanted:,} is more than the {len(data.train):,} training "
            "examples there are; all are used"
        )
    if wanted is not None:
        data = data.limited(wanted, data_spec.split_seed)
    reference = resolve(model, revision, say=say)
    if data.objective in PRETRAINING:
        check_pretraining(data, recipe)
    for part in data.each:
        check_task_model(reference, part.objective, part.labels)
    tokenizer = load_tokenizer(reference) if data.objective in READS_TEXT else None
    limit = None if tokenizer is None else length_limit(reference, tokenizer)
    if limit is not None and limit < recipe.max_length_tokens:
        notes.append(
            f"{model} reads at most {limit} tokens; --max-length {recipe.max_length_tokens} is "
            "capped to that"
        )
    blocks = block_counts(data, tokenizer, min(limit or math.inf, recipe.max_length_tokens))
    backbone = load_backbone(reference)
    heads = [pretrained_head(reference, part.objective, part.labels) for part in data.each]
    if data.objective == "supervised" and not heads[0]:
        notes.append(
            f"{model} has no classifier of these {len(data.labels)} classes; trainings begin with "
            "a fresh one"
        )
    head = tensor_hashes({name: tensor for own in heads for name, tensor in own.items()})
    if ticket is not None:
        ticket.validate(backbone)
    tensors = canonical_tensors(backbone)
    hashes = tensor_hashes(tensors)
    names = tuple(ticket.mask) if ticket is not None else prunable(backbone, scope)
    units = units_for(backbone, pattern, names)
    if units is not None and ticket is None:
        lie_in = {part.tensor for unit in units for part in unit.parts}
        if left := len(names) - len(lie_in):
            notes.append(
                f"{left} of {len(names)} tensors in scope hold no {pattern}s; they stay dense"
            )
        names = tuple(name for name in names if name in lie_in)
    base = Base(
        name=model,
        revision=reference.revision,
        sha256=base_sha256(hashes),
        tensors=hashes,
        model_type=backbone.config.model_type,
        total_parameters=sum(p.numel() for p in backbone.parameters()),
    )
    context = Context(
        base_name=model,
        base_revision=reference.revision,
        # A pre-trained head is part of θ0, but not of the ticket's base.
        base_sha256=fingerprint([base.sha256, head]) if head else base.sha256,
        data_sha256=data.sha256,
        scope=names,
        recipe=recipe.to_json(),
        device=choose_device(device),
        threads=threads,
        versions={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **_anchors(data, recipe),
        },
        processes=launched(),
    )
    return Scene(
        base=base,
        data=data,
        recipe=recipe,
        context=context,
        inputs=[*source_files(reference), *data_files(data_spec)],
        shapes={name: tuple(tensors[name].shape) for name in names},
        notes=tuple(notes),
        units=units,
        input_axes=axes_for(backbone, pattern, names),
        blocks=blocks,
        warms_head=any(warms_head(reference, p.objective) for p in data.each),
        image_flops=_image_flops(reference, backbone, data, recipe),
    )


def _anchors(data: TaskData, recipe: Recipe) -> dict[str, str]:
    """Tell detectors whose anchors grow with the image from those of earlier versions."""
    anchored = data.objective == "detection" and recipe.detector != "fcos"
    return {"anchors": "of the image's size"} if anchored else {}


def _image_flops(
    reference: BaseRef, backbone: nn.Module, data: TaskData, recipe: Recipe
) -> float | None:
    if data.objective not in ON_IMAGES:
        return None
    from ticketry.tasks.passes import image_flops

    return image_flops(reference, backbone, data, recipe)


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; refuse a device that is not here."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda, but torch sees no GPU here; use cpu or auto.")
    return device
