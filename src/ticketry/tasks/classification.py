"""Classes, numbers or label sets of texts: a task bound to a base, as the loop's workload."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ticketry.config import Recipe
from ticketry.errors import ConfigError, TrainingError
from ticketry.metrics import METRICS
from ticketry.models.heads import load_task_model
from ticketry.models.lean import logits_of
from ticketry.models.loading import (
    BaseRef,
    canonical_tensors,
    length_limit,
    load_backbone,
    load_tokenizer,
)
from ticketry.tasks.base import TaskData
from ticketry.tasks.encoding import BatchPlan, encode
from ticketry.tasks.folder import attention_for, saved_files
from ticketry.tasks.targets import TARGETS
from ticketry.tasks.workload import Batch, Evaluation, SplitName, precision, training_steps

EVAL_BATCH = 64
_BUCKET_BATCHES = 50
"""Batches among which examples are sorted by length: fewer pad more, more mix less."""


class SequenceClassification:
    """Fine-tune a base with a head on texts or pairs of them: one of the loop's workloads.

    Args:
        base: the base model; its tokenizer is used.
        data: the splits.
        recipe: decides length, precision, and (unless :meth:`batches` is given another) the budget.

    Attributes:
        max_length: most tokens of a text.
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
        self.metric = METRICS[data.metric]
        self.target = TARGETS[data.objective]
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
        self._splits = {
            name: encode(self.tokenizer, getattr(data, name), name, self.max_length, self.target)
            for name in ("train", "validation", "test")
        }

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts that were cut to :attr:`max_length`."""
        return {name: encoded.truncated for name, encoded in self._splits.items()}

    @property
    def steps(self) -> int:
        """Optimizer steps of the recipe's budget."""
        return training_steps(self.recipe, len(self._splits["train"].labels))

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh classifier at θ0 on ``device``.

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
        """Return the batches of the whole budget.

        Epochs are shuffled one after the other and cut into full batches. Within each stretch of
        batches examples are sorted by length, so that little is padded, and batches are shuffled.
        """
        recipe = recipe or self.recipe
        if recipe.max_length_tokens != self.recipe.max_length_tokens:
            raise ConfigError(
                f"the texts were tokenised for --max-length {self.recipe.max_length_tokens}; a "
                f"recipe with {recipe.max_length_tokens} needs a workload of its own."
            )
        encoded = self._splits["train"]
        examples = len(encoded.labels)
        size = min(recipe.batch_size, examples)
        steps = training_steps(recipe, examples)
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps * size // examples)
        stream = np.concatenate(
            [torch.randperm(examples, generator=generator).numpy() for _ in range(epochs)]
        )[: steps * size]
        order = []
        for start in range(0, len(stream), _BUCKET_BATCHES * size):
            bucket = stream[start : start + _BUCKET_BATCHES * size]
            bucket = bucket[np.argsort(encoded.lengths[bucket], kind="stable")]
            batches = bucket.reshape(-1, size)
            order.append(batches[torch.randperm(len(batches), generator=generator).numpy()])
        return BatchPlan(encoded, np.concatenate(order), self.tokenizer.pad_token_id)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss: the objective's."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = logits_of(model, inputs)
        return self.target.loss(logits.float(), batch["labels"])

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's examples and its tokens without padding."""
        return len(batch["labels"]), int(batch["attention_mask"].sum())

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model on a split, in the recipe's precision and without dropout.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        encoded = self._splits[split]
        device = next(model.parameters()).device
        order = np.argsort(encoded.lengths, kind="stable")
        predictions = np.empty(encoded.labels.shape, dtype=encoded.labels.dtype)
        training = model.training
        model.eval()
        try:
            with precision(device, self.recipe.dtype):
                for start in range(0, len(order), EVAL_BATCH):
                    indices = order[start : start + EVAL_BATCH]
                    batch = encoded.collate(indices, self.tokenizer.pad_token_id)
                    del batch["labels"]
                    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
                    logits = logits_of(model, inputs).float()
                    if not torch.isfinite(logits).all():
                        raise TrainingError(
                            f"the model's outputs on the {split} split are not finite; the "
                            "training diverged. Try a lower --learning-rate or --dtype float32."
                        )
                    predictions[indices] = self.target.predict(logits).cpu().numpy()
        finally:
            model.train(training)
        found = self.target.plain(predictions)
        return Evaluation(float(self.metric.fn(getattr(self.data, split).labels, found)), found)

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the model, head, label names and tokenizer."""
        return saved_files(model, self.tokenizer)
