"""What the training loop asks of a workload, whatever the objective behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ticketry.models.lean_convolution import LeanConvolutions
from ticketry.models.rounded import RoundedProducts, native
from ticketry.recipes import Recipe

Batch = Mapping[str, Tensor]
SplitName = Literal["validation", "test"]
NOT_INPUTS = ("labels", "scale")
"""What of a batch the loss reads, and not the model: labels, and what a row's losses count."""


@dataclass(frozen=True)
class Evaluation:
    """A model read on one split.

    Attributes:
        score: of the data's metric.
        predictions: one for each example, in the split's order, as the metric reads them
            (:class:`ticketry.records.Replicate`).
    """

    score: float
    predictions: tuple[Any, ...]


class Workload(Protocol):
    """A model to train, ready batches, a loss and a score."""

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts cut to the model's or the recipe's length."""

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh model at θ0: the base's weights bit for bit, a head from ``head_seed``."""

    def batches(self, seed: int, recipe: Recipe) -> Sequence[Batch]:
        """Return the batches of the whole budget, one an optimizer step; decided by ``seed``."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch (a scalar)."""

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's examples and its tokens without padding."""

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model on a split."""


def training_steps(recipe: Recipe, examples: int) -> int:
    """Return the optimizer steps of a recipe's budget; at least one.

    Every step takes a full batch (all examples, where there are fewer than a batch), so epochs
    may be fractions: half the epochs are half the steps, with a full decay of their own.
    """
    return max(1, round(recipe.epochs * examples / min(recipe.batch_size, examples)))


@contextlib.contextmanager
def precision(device: torch.device, dtype: str) -> Iterator[None]:
    """Compute in a recipe's ``dtype``; weights, gradients and optimizer state stay fp32."""
    half = dtype == "bfloat16"
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=half))
        if device.type == "cpu":
            stack.enter_context(LeanConvolutions())
            if half and not native():
                stack.enter_context(RoundedProducts())  # the inner one sees a call first
        yield
