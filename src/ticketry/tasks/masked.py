"""Masked language modelling: documents end to end, in blocks, some of whose tokens are hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ticketry.config import derive_seed, fingerprint
from ticketry.errors import ConfigError, TrainingError
from ticketry.metrics import METRICS
from ticketry.models.filling import logits_at
from ticketry.models.heads import load_task_model, pretrained_head
from ticketry.models.loading import (
    BaseRef,
    base_model,
    canonical_tensors,
    length_limit,
    load_backbone,
    load_tokenizer,
)
from ticketry.models.weights import HEAD, head_of
from ticketry.recipes import Recipe
from ticketry.tasks.base import SPLITS, Split, TaskData
from ticketry.tasks.folder import attention_for, saved_files
from ticketry.tasks.masking import IGNORED, Blocks, Vocabulary, cut_blocks, mask_tokens
from ticketry.tasks.workload import Batch, Evaluation, SplitName, precision, training_steps

_EVAL_TOKENS = 4096


def block_counts(tokenizer: Any, data: TaskData, length: int) -> tuple[int, int, int]:
    """Return how many blocks each split has."""
    train, validation, test = (
        len(cut_blocks(tokenizer, getattr(data, name), name, length)) for name in SPLITS
    )
    return train, validation, test


class MaskedPlan(Sequence[Batch]):
    """The batches of one training; each is cut out, and its mask drawn, when it is asked for."""

    def __init__(
        self,
        blocks: Blocks,
        words: Vocabulary,
        order: NDArray[np.int64],
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.blocks = blocks
        self.words = words
        self.order = order
        self.seed = seed
        self.numbers = range(len(order)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return MaskedPlan(
                self.blocks, self.words, self.order[index], self.seed, self.numbers[index]
            )
        # By the batch's number, so that a training that goes on in its middle draws the same.
        seed = derive_seed(self.seed, f"masking/{self.numbers[index]}")
        return _masked(self.blocks, self.order[index], self.words, seed)


def _masked(
    blocks: Blocks, rows: NDArray[np.int64], words: Vocabulary, seed: int
) -> dict[str, Tensor]:
    ids = torch.from_numpy(blocks.ids[rows].astype(np.int64))
    return mask_tokens(ids, torch.from_numpy(blocks.ordinary[rows]), blocks.chosen, words, seed)


def _fixed(blocks: Blocks, split: Split, words: Vocabulary) -> dict[str, Tensor]:
    """Mask a held-out split once: its own texts decide how, so every arm and run reads the same."""
    seed = derive_seed(0, f"masking/{fingerprint(list(split.texts))}")
    return _masked(blocks, np.arange(len(blocks)), words, seed)


class MaskedLM:
    """Go on pre-training an encoder on a task's documents: one of the loop's workloads.

    θ0 is the pre-trained model with the checkpoint's head; where it brings none, with a fresh one,
    which is warmed up once before anything is searched (:class:`HeadOnly`).

    Args:
        base: an encoder that transformers has a masked language model of; its tokenizer is used.
        data: the splits; they have no labels.
        recipe: ``max_length_tokens`` is the length of a block, special tokens included.

    Attributes:
        max_length: tokens of a block.
        notes: what the user should know, such as a length that the model caps.

    Raises:
        ModelError: the base is no such encoder, or its tokenizer has no mask token.
        DataError: a split has fewer tokens than a block.
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
        self._head = pretrained_head(base, data.objective)
        self._weights = canonical_tensors(load_backbone(base))
        self._words = Vocabulary.of(self.tokenizer)
        self._blocks = {
            name: cut_blocks(self.tokenizer, getattr(data, name), name, self.max_length)
            for name in SPLITS
        }
        self._held_out = {
            name: _fixed(self._blocks[name], getattr(data, name), self._words)
            for name in ("validation", "test")
        }

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts that were cut: none, long ones fill several blocks."""
        return dict.fromkeys(SPLITS, 0)

    @property
    def train_examples(self) -> int:
        """Blocks in the training split."""
        return len(self._blocks["train"])

    @property
    def steps(self) -> int:
        """Optimizer steps of the recipe's budget."""
        return training_steps(self.recipe, len(self._blocks["train"]))

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return the model at θ0 on ``device``; the seed counts where the head is fresh."""
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

    def batches(self, seed: int, recipe: Recipe | None = None) -> MaskedPlan:
        """Return the batches of the whole budget: blocks, shuffled and masked anew each epoch."""
        recipe = recipe or self.recipe
        if recipe.max_length_tokens != self.recipe.max_length_tokens:
            raise ConfigError(
                f"the texts were cut into blocks for --max-length {self.recipe.max_length_tokens}; "
                f"a recipe with {recipe.max_length_tokens} needs a workload of its own."
            )
        blocks = self._blocks["train"]
        size = min(recipe.batch_size, len(blocks))
        steps = training_steps(recipe, len(blocks))
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-steps * size // len(blocks))
        order = np.concatenate(
            [torch.randperm(len(blocks), generator=generator).numpy() for _ in range(epochs)]
        )
        return MaskedPlan(blocks, self._words, order[: steps * size].reshape(steps, size), seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss in nats per predicted token."""
        logits, labels = _predict(model, batch)
        return cross_entropy(logits, labels)

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's blocks and its tokens."""
        return len(batch["labels"]), batch["labels"].numel()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Read a model on a split, in the recipe's precision and without dropout.

        Returns:
            Its predictions are, of each block, what the metric counts (tokens that were predicted
            right, or nats) and the tokens that were to be predicted.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        masked = self._held_out[split]
        device = next(model.parameters()).device
        chosen = self._blocks[split].chosen
        at_once = max(1, _EVAL_TOKENS // self.max_length)
        found: list[tuple[float, int]] = []
        training = model.training
        model.eval()
        try:
            with precision(device, self.recipe.dtype):
                for start in range(0, len(masked["labels"]), at_once):
                    batch = {n: t[start : start + at_once].to(device) for n, t in masked.items()}
                    logits, labels = _predict(model, batch)
                    nats = cross_entropy(logits, labels, reduction="none").double()
                    if not torch.isfinite(nats).all():
                        raise TrainingError(
                            f"the model's outputs on the {split} split are not finite; the "
                            "training diverged. Try a lower --learning-rate or --dtype float32."
                        )
                    counted = nats if self.metric.name == "loss" else logits.argmax(-1) == labels
                    sums = counted.view(-1, chosen).sum(1).cpu().tolist()
                    found += [(value, chosen) for value in sums]
        finally:
            model.train(training)
        return Evaluation(float(self.metric.fn((), found)), tuple(found))

    def head_only(self) -> HeadOnly:
        """Return the workload that warms up the head."""
        return HeadOnly(self)

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the model, head and tokenizer."""
        return saved_files(model, self.tokenizer)


def _predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits (float32) and labels of the tokens to predict, in order."""
    chosen = batch["labels"] != IGNORED
    logits = logits_at(model, {"input_ids": batch["input_ids"]}, chosen)
    return logits.float(), batch["labels"][chosen]


class HeadOnly:
    """The same workload, but only the head learns: the warm-up of a head that is fresh.

    The base stays at θ0 in eval mode: it does not learn, so its dropout would only blur what the
    head is shown.

    Args:
        workload: whose model, batches and loss these are.
        place: where that model stands within a joint one, as a prefix of its tensors' names.
    """

    def __init__(self, workload: MaskedLM, place: str = "") -> None:
        self.workload = workload
        self.place = place

    def head(self, model: nn.Module) -> dict[str, Tensor]:
        """Return γ0: the head of a trained model, by the names of the model that starts from it."""
        found = head_of(model)
        return {f"{HEAD}{self.place}{n.removeprefix(HEAD)}": t for n, t in found.items()}

    @property
    def truncated(self) -> Mapping[str, int]:
        """Split -> texts that were cut."""
        return self.workload.truncated

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return the model at θ0 with a fresh head, its base frozen."""
        model = self.workload.build(head_seed, device)
        base_model(model).requires_grad_(False)
        return model

    def batches(self, seed: int, recipe: Recipe) -> Sequence[Batch]:
        """Return the batches of the whole budget."""
        return self.workload.batches(seed, recipe)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean loss."""
        base_model(model).eval()
        return self.workload.loss(model, batch)

    def count(self, batch: Batch) -> tuple[int, int]:
        """Return a batch's blocks and its tokens."""
        return self.workload.count(batch)

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Score a model on a split."""
        return self.workload.evaluate(model, split)
