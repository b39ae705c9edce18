"""The course of a training: where it starts, its stretch of the schedule, its optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ticketry.recipes import Recipe

_FUSED_ON = ("cpu", "cuda")
DROP = 0.1
"""What a ``steps`` schedule multiplies the rate by."""


@dataclass(frozen=True, eq=False)
class Course:
    """From which weights a training starts, and which stretch of the schedule it runs.

    Attributes:
        weights: to start from (:func:`ticketry.models.weights.take_weights`), instead of θ0's or
            the fresh head's where named.
        first_step: of the schedule; batches and learning rates before it are skipped.
        rounds_before: whole trainings of this length that came before on one schedule.
        rounds: trainings of this length that share one schedule; 1: the rate ends at zero here.
        end_step: of the schedule, the first that is no longer done; None: it is done to its end.
    """

    weights: Mapping[str, Tensor] | None = None
    first_step: int = 0
    rounds_before: int = 0
    rounds: int = 1
    end_step: int | None = None

    def place(self, step: int, steps: int) -> tuple[int, int]:
        """Return where a step stands in its schedule: (step, steps)."""
        return self.rounds_before * steps + step, self.rounds * steps


WHOLE = Course()
"""θ0 and the whole schedule."""


def make_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """Return a fresh optimizer of the trainable parameters; biases and norms are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            fused=device.type in _FUSED_ON,
        )
    # Unfused, the update of an embedding table alone costs as much as a forward pass on a CPU.
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        eps=recipe.adam_eps,
        fused=device.type in _FUSED_ON,
    )


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the rate of optimizer step ``step`` (from 0) of ``steps``: warm-up, then its course.

    Source: transformers' ``get_linear_schedule_with_warmup`` and its kin.
    """
    warmup = round(recipe.warmup_fraction * steps)
    if step < warmup:
        return recipe.learning_rate * step / warmup
    if recipe.schedule == "steps":
        passed = sum(step >= round(share * steps) for share in recipe.drops)
        return recipe.learning_rate * DROP**passed
    if recipe.schedule == "constant":
        return recipe.learning_rate
    left = (steps - step) / max(1, steps - warmup)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 - math.cos(math.pi * left)) / 2
    return recipe.learning_rate * left


def set_learning_rate(
    optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int
) -> float:
    """Set the rate of a step, and return it."""
    rate = learning_rate(recipe, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
