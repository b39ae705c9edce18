"""What workloads on tokenised texts share: length, model at θ0, batches, and reading a split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ticketry.errors import ConfigError, TrainingError
from ticketry.metrics import METRICS
from ticketry.models.heads import load_task_model
from ticketry.models.loading import (
    BaseRef,
    canonical_tensors,
    length_limit,
    load_backbone,
    load_tokenizer,
)
from ticketry.recipes import Recipe
from ticketry.tasks.base import SPLITS, TaskData
from ticketry.tasks.encoding import BatchPlan, Encoded, check_tokenizer, plan_batches
from ticketry.tasks.folder import attention_for, saved_files
from ticketry.tasks.workload import NOT_INPUTS, Batch, SplitName, precision, training_steps

EVAL_BATCH = 64


class EncodedWorkload:
    """A base with a fresh head on texts of a task; tokenised once, padded to each batch.

    Args:
        base: the base model; its tokenizer is used.
        data: the splits.
        recipe: decides length, precision, and (unless :meth:`batches` is given another) the budget.

    Attributes:
        max_length: most tokens that the model is given at once.
        notes: what the user should know, such as a length that the model caps.

    Raises:
        ModelError: the base or its tokenizer cannot be used.
        DataError: a split is empty.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        self.base = base
        self.data = data
        self.recipe = recipe
        self.tokenizer = load_tokenizer(base)
        check_tokenizer(self.tokenizer, data.objective)
        self.metric = METRICS[data.metric]
        limit = length_limit(base, self.tokenizer)
        self.max_length = recipe.max_length_tokens
        self.notes: tuple[str, ...] = ()
        if limit is not None and limit < recipe.max_length_tokens:
            self.max_length = limit
            self.notes = (
                f"{base.name} reads at most {limit} tokens; --max-length "
                f"{recipe.max_length_tokens} was capped to that",
            )
        self._weights = canonical_tensors(load_backbone(base))
        self._splits = {name: self._encode(name) for name in SPLITS}

    def _encode(self, name: str) -> Encoded:
        """Tokenise a split."""
        raise NotImplementedError

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts that were cut."""
        return {name: encoded.truncated for name, encoded in self._splits.items()}

    @property
    def train_examples(self) -> int:
        """Texts, or windows of them, in the training split."""
        return len(self._splits["train"])

    @property
    def steps(self) -> int:
        """Optimizer steps of the recipe's budget."""
        return training_steps(self.recipe, len(self._splits["train"]))

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh task model at θ0 on ``device``.

        The base's tensors are copied from memory, so a rewind costs no reading and is exact.
        """
        model = load_task_model(
            self.base,
            self.data.objective,
            self.data.labels,
            head_seed,
            weights=self._weights,
            attention=attention_for(device, self.max_length),
        )
        if model.config.pad_token_id is None:
            # GPT-2 reads the class at the last token that is not padding.
            model.config.pad_token_id = self.tokenizer.pad_token_id
        model.to(device)  # type: ignore[arg-type]
        return model

    def batches(self, seed: int, recipe: Recipe | None = None) -> BatchPlan:
        """Return the batches of the whole budget (:func:`plan_batches`)."""
        recipe = recipe or self.recipe
        if recipe.max_length_tokens != self.recipe.max_length_tokens:
            raise ConfigError(
                f"the texts were tokenised for --max-length {self.recipe.max_length_tokens}; a "
                f"recipe with {recipe.max_length_tokens} needs a workload of its own."
            )
        return plan_batches(self._splits["train"], recipe, seed, self.tokenizer.pad_token_id)

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's examples and its tokens without padding."""
        return len(batch["labels"]), int(batch["attention_mask"].sum())

    @contextlib.contextmanager
    def _reading(self, model: nn.Module) -> Iterator[torch.device]:
        """Put a model into eval mode meanwhile, without gradients, in the recipe's precision."""
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), precision(device, self.recipe.dtype):
                yield device
        finally:
            model.train(training)

    def _inputs(
        self, split: SplitName, device: torch.device
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Yield indices of a split's examples, alike in length, and the model's inputs of these."""
        encoded = self._splits[split]
        order = np.argsort(encoded.lengths, kind="stable")
        for start in range(0, len(order), EVAL_BATCH):
            indices = order[start : start + EVAL_BATCH]
            batch = encoded.collate(indices, self.tokenizer.pad_token_id)
            yield indices, {name: tensor.to(device) for name, tensor in inputs_of(batch).items()}

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the model, head, label names and tokenizer."""
        return saved_files(model, self.tokenizer)


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """Return what of a batch a model reads."""
    return {name: tensor for name, tensor in batch.items() if name not in NOT_INPUTS}


def check_finite(outputs: Tensor, split: str) -> None:
    """Refuse outputs that are not finite.

    Raises:
        TrainingError: says what to change.
    """
    if not torch.isfinite(outputs).all():
        raise TrainingError(
            f"the model's outputs on the {split} split are not finite; the training diverged. "
            "Try a lower --learning-rate or --dtype float32."
        )
