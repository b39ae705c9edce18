"""Several tasks learned at once on one base: a source of masks, searched on and never verified."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, overload

import torch
from torch import Tensor, nn

from ticketry.errors import ConfigError
from ticketry.models.joining import share_base
from ticketry.models.loading import BaseRef
from ticketry.parallel import team
from ticketry.recipes import Recipe
from ticketry.tasks.base import SPLITS, TaskData
from ticketry.tasks.encoded import inputs_of
from ticketry.tasks.masked import HeadOnly, MaskedLM
from ticketry.tasks.objectives import workload_for
from ticketry.tasks.workload import Batch, Evaluation, SplitName, training_steps


def join(name: str, parts: Sequence[TaskData]) -> TaskData:
    """Return several tasks' data as one joint task's.

    Its splits, metric and margin are those of the first part: the metric says nothing of a joint
    score, which is a mean over the parts and is compared with nothing.

    Args:
        name: of the joint task.
        parts: the tasks, checked by :func:`ticketry.tasks.registry.task_faults`.
    """
    first = parts[0]
    return TaskData(
        name=name,
        source=" + ".join(part.source for part in parts),
        labels=(),
        metric=first.metric,
        margin=first.margin,
        train=first.train,
        validation=first.validation,
        test=first.test,
        notes=tuple(f"{part.name}: {note}" for part in parts for note in part.notes),
        objective="joint",
        parts=tuple(parts),
    )


class JointModel(nn.Module):
    """Task models whose base is one and the same module.

    Args:
        parts: task models on one base, at the same weights; changed, so that they share it.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        share_base(parts)
        self.parts = nn.ModuleList(parts)

    def forward(self, **batch: Tensor) -> Any:
        """Return every part's outputs of its own inputs, end to end, as ``logits``."""
        found = []
        for number, part in enumerate(self.parts):
            outputs = part(**inputs_of(part_of(batch, number)))
            names = [n for n in ("logits", "start_logits", "end_logits") if n in outputs]
            found += [outputs[name].flatten() for name in names]
        return SimpleNamespace(logits=torch.cat(found))


def part_of(batch: Batch, number: int) -> dict[str, Tensor]:
    """Return what a joint batch holds for one part, by that part's own names."""
    prefix = f"{number}/"
    return {n.removeprefix(prefix): t for n, t in batch.items() if n.startswith(prefix)}


class JointPlan(Sequence[Batch]):
    """The steps of a joint training: at each, one batch of every part."""

    def __init__(self, plans: Sequence[Sequence[Batch]]) -> None:
        self.plans = plans

    def __len__(self) -> int:
        return len(self.plans[0])

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return JointPlan([plan[index] for plan in self.plans])
        return {
            f"{number}/{name}": tensor
            for number, plan in enumerate(self.plans)
            for name, tensor in plan[index].items()
        }


class Joint:
    """Learn several tasks at once on one base: one of the loop's workloads, for searches alone.

    A step takes a batch of every part, and its loss is the mean of theirs. There are as many steps
    as the recipe's budget on the first part has; the others go round their examples as long as
    that lasts. Each part has its head: masked language modelling the checkpoint's, or one that was
    warmed up once by itself (γ0), the others a fresh one. A pooler that the checkpoint lacks is
    fresh too, and one for all parts.

    Args:
        base: the base model; its tokenizer is used.
        data: a joint task's.
        recipe: for all parts; its epochs are those of the first.

    Raises:
        ModelError: the base or its tokenizer cannot be used for a part.
        DataError: a split of a part is empty, or shorter than a block.

    Source: Chen et al. 2020, arXiv 2007.12223, section 4 (masks found on MLM and a task jointly);
        how losses and batches are mixed is not said there.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        self.recipe = recipe
        self.parts = [workload_for(base, part, recipe) for part in data.parts]
        self.notes = tuple(dict.fromkeys(note for part in self.parts for note in part.notes))

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts that were cut, of all parts."""
        return {name: sum(part.truncated[name] for part in self.parts) for name in SPLITS}

    @property
    def train_examples(self) -> int:
        """Examples of the first part's training split, which sets the budget."""
        found: int = self.parts[0].train_examples
        return found

    @property
    def steps(self) -> int:
        """Optimizer steps of the recipe's budget."""
        return training_steps(self.recipe, self.train_examples)

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh model at θ0; every part's fresh head is the one of a training by itself.

        Only a pooler that the checkpoint lacks is one part's alone.
        """
        return JointModel([part.build(head_seed, device) for part in self.parts])

    def batches(self, seed: int, recipe: Recipe | None = None) -> JointPlan:
        """Return the steps of the whole budget; every part's order is drawn from ``seed``.

        Raises:
            ConfigError: several processes, and parts whose batches are not of one size.
        """
        recipe = recipe or self.recipe
        steps = training_steps(recipe, self.train_examples)
        sizes = [min(recipe.batch_size, part.train_examples) for part in self.parts]
        if len(set(sizes)) > 1 and not team().alone:
            raise ConfigError(
                f"the parts' batches have {' and '.join(map(str, sizes))} examples, which several "
                "processes cannot share; give a smaller --batch-size, or train in one process."
            )
        plans = []
        for part, size in zip(self.parts, sizes, strict=True):
            epochs = steps * size / part.train_examples  # the same steps, whatever its size
            plans.append(part.batches(seed, dataclasses.replace(recipe, epochs=epochs)))
        return JointPlan(plans)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean of the parts' losses."""
        losses = [
            part.loss(own, part_of(batch, number))
            for number, (part, own) in enumerate(zip(self.parts, _models(model), strict=True))
        ]
        return torch.stack(losses).mean()

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's examples and its tokens without padding, of all parts."""
        counts = [part.count(part_of(batch, number)) for number, part in enumerate(self.parts)]
        return sum(examples for examples, _ in counts), sum(tokens for _, tokens in counts)

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Return the mean of the parts' scores, each of its own metric; for the record alone.

        Returns:
            Its predictions are the parts' scores.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        pairs = zip(self.parts, _models(model), strict=True)
        scores = tuple(part.evaluate(own, split).score for part, own in pairs)
        return Evaluation(statistics.fmean(scores), scores)

    def head_only(self) -> HeadOnly:
        """Return the workload that warms up the head of masked language modelling, by itself."""
        number = next(i for i, part in enumerate(self.parts) if isinstance(part, MaskedLM))
        return HeadOnly(self.parts[number], f"parts.{number}.")


def _models(model: nn.Module) -> list[nn.Module]:
    assert isinstance(model, JointModel)
    return list(model.parts)
