"""Causal language modelling: documents end to end, in blocks, with the base's own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ticketry.errors import ConfigError, DataError, ModelError, TrainingError
from ticketry.metrics import METRICS
from ticketry.models.heads import load_task_model, pretrained_head
from ticketry.models.loading import (
    BaseRef,
    canonical_tensors,
    length_limit,
    load_backbone,
    load_tokenizer,
    quiet,
)
from ticketry.recipes import Recipe
from ticketry.tasks.base import SPLITS, Split, TaskData
from ticketry.tasks.folder import attention_for, saved_files
from ticketry.tasks.workload import Batch, Evaluation, SplitName, precision, training_steps

_TOKENIZE_AT_ONCE = 512
_EVAL_TOKENS = 2048
"""Tokens of one evaluation batch; their logits over 50,000 words take 400 MB."""


@dataclass(frozen=True)
class Stream:
    """A split's documents end to end, an end-of-text token before the first and after each.

    Attributes:
        ids: token ids, int32.
        documents: document of each token, int64; that of the first token is not looked at.
        count: documents.
    """

    ids: NDArray[np.int32]
    documents: NDArray[np.int64]
    count: int

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all but the first."""
        return len(self.ids) - 1

    def blocks(self, length: int) -> int:
        """Return the number of full blocks of ``length`` predicted tokens, at least one."""
        return max(1, self.targets // length)

    def block(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs and the tokens after each, for the predicted tokens start to stop."""
        return self.ids[start:stop].astype(np.int64), self.ids[start + 1 : stop + 1].astype(
            np.int64
        )


def stream(tokenizer: Any, split: Split, name: str) -> Stream:
    """Tokenise a split.

    Raises:
        ModelError: the tokenizer has no end-of-text token to stand between documents.
        DataError: the split is empty.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ModelError(
            "the tokenizer has no end-of-text token to stand between documents; set eos_token in "
            "its tokenizer_config.json."
        )
    if not split.texts:
        raise DataError(f"the {name} split has no documents; expected at least one.")
    parts = [np.array([end], dtype=np.int32)]
    lengths = []
    with quiet():
        for start in range(0, len(split.texts), _TOKENIZE_AT_ONCE):
            texts = list(split.texts[start : start + _TOKENIZE_AT_ONCE])
            encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)
            for ids in encoded["input_ids"]:
                parts.append(np.array([*ids, end], dtype=np.int32))
                lengths.append(len(ids) + 1)
    documents = np.repeat(np.arange(len(lengths)), lengths)
    return Stream(np.concatenate(parts), np.append([0], documents), len(lengths))


def block_counts(tokenizer: Any, data: TaskData, length: int) -> tuple[int, int, int]:
    """Return how many blocks each split has; of train the last part-filled one is left out."""
    train, *others = (stream(tokenizer, getattr(data, name), name) for name in SPLITS)
    validation, test = (-(-other.targets // length) for other in others)
    return train.blocks(length), validation, test


class BlockPlan(Sequence[Batch]):
    """The batches of one training, cut out of the stream when they are asked for."""

    def __init__(self, source: Stream, order: NDArray[np.int64], length: int) -> None:
        self.source = source
        self.order = order
        self.length = length

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return BlockPlan(self.source, self.order[index], self.length)
        width = min(self.length, self.source.targets)
        starts = self.order[index] * self.length
        return _batch([self.source.block(start, start + width) for start in starts.tolist()])


def _batch(blocks: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> dict[str, Tensor]:
    inputs, targets = zip(*blocks, strict=True)
    return {
        "input_ids": torch.from_numpy(np.stack(inputs)),
        "labels": torch.from_numpy(np.stack(targets)),
    }


class CausalLM:
    """Go on training a language model on a task's documents: one of the loop's workloads.

    θ0 is the whole pre-trained model, its head included. Every token but the stream's first is
    predicted once, from those before it in its block; nothing is padded.

    Args:
        base: a causal language model; its tokenizer is used.
        data: the splits; they have no labels.
        recipe: ``max_length_tokens`` is the length of a block.

    Attributes:
        max_length: tokens of a block.
        notes: what the user should know, such as a length that the model caps.

    Raises:
        ModelError: the base is no language model, or lacks its head.
        DataError: a split is empty.
    """

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        self.base = base
        self.data = data
        self.recipe = recipe
        self.tokenizer = load_tokenizer(base)
        self.metric = METRICS[data.metric]
        limit = length_limit(base, self.tokenizer)
        self.max_length = min(recipe.max_length_tokens, limit or recipe.max_length_tokens)
        self.notes: tuple[str, ...] = ()
        if self.max_length < recipe.max_length_tokens:
            self.notes = (
                f"{base.name} reads at most {limit} tokens; --max-length "
                f"{recipe.max_length_tokens} was capped to that",
            )
        self._weights = canonical_tensors(load_backbone(base))
        self._head = pretrained_head(base, data.objective)
        self._streams = {name: stream(self.tokenizer, getattr(data, name), name) for name in SPLITS}

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts that were cut: none, long ones fill several blocks."""
        return dict.fromkeys(SPLITS, 0)

    @property
    def steps(self) -> int:
        """Optimizer steps of the recipe's budget."""
        return training_steps(self.recipe, self._streams["train"].blocks(self.max_length))

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return the model at θ0 on ``device``; there is no fresh head, so no seed is used."""
        model = load_task_model(
            self.base,
            self.data.objective,
            (),
            head_seed,
            weights=self._weights,
            head_weights=self._head,
            attention=attention_for(device, self.max_length),
        )
        model.to(device)  # type: ignore[arg-type]
        return model

    def batches(self, seed: int, recipe: Recipe | None = None) -> BlockPlan:
        """Return the batches of the whole budget: blocks, shuffled anew each epoch."""
        recipe = recipe or self.recipe
        if recipe.max_length_tokens != self.recipe.max_length_tokens:
            raise ConfigError(
                f"the texts were cut into blocks for --max-length {self.recipe.max_length_tokens}; "
                f"a recipe with {recipe.max_length_tokens} needs a workload of its own."
            )
        source = self._streams["train"]
        blocks = source.blocks(self.max_length)
        size = min(recipe.batch_size, blocks)
        steps = training_steps(recipe, blocks)
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps * size // blocks)
        order = np.concatenate(
            [torch.randperm(blocks, generator=generator).numpy() for _ in range(epochs)]
        )
        return BlockPlan(source, order[: steps * size].reshape(steps, size), self.max_length)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss in nats per token."""
        logits: Tensor = model(input_ids=batch["input_ids"]).logits
        return cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten())

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's blocks and its tokens."""
        return len(batch["labels"]), batch["labels"].numel()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Read a model on a split, in the recipe's precision and without dropout.

        Returns:
            Its predictions are the nats and the tokens of each document.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        source = self._streams[split]
        device = next(model.parameters()).device
        nats = np.empty(source.targets)
        length = self.max_length
        full = source.targets // length * length
        at_once = length * max(1, _EVAL_TOKENS // length)
        # Full blocks together, then the rest of the split as a shorter block of its own.
        parts = [(start, min(start + at_once, full), length) for start in range(0, full, at_once)]
        if full < source.targets:
            parts.append((full, source.targets, source.targets - full))
        training = model.training
        model.eval()
        try:
            with precision(device, self.recipe.dtype):
                for start, stop, width in parts:
                    inputs, targets = (
                        torch.from_numpy(ids.reshape(-1, width)).to(device)
                        for ids in source.block(start, stop)
                    )
                    logits = model(input_ids=inputs).logits.float()
                    losses = cross_entropy(
                        logits.flatten(0, 1), targets.flatten(), reduction="none"
                    )
                    nats[start:stop] = losses.double().cpu().numpy()
        finally:
            model.train(training)
        if not np.isfinite(nats).all():
            raise TrainingError(
                f"the model's outputs on the {split} split are not finite; the training "
                "diverged. Try a lower --learning-rate or --dtype float32."
            )
        documents = source.documents[1:]
        sums = np.bincount(documents, weights=nats, minlength=source.count)
        tokens = np.bincount(documents, minlength=source.count)
        found = tuple(zip(sums.tolist(), tokens.tolist(), strict=True))
        return Evaluation(float(self.metric.fn((), found)), found)

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the model, head and tokenizer."""
        return saved_files(model, self.tokenizer)
