"""Sequence classification: a task's texts bound to a base, as the training loop's workload."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ticketry.config import Recipe
from ticketry.errors import ConfigError, DataError, TrainingError
from ticketry.metrics import METRICS
from ticketry.models.heads import load_task_model
from ticketry.models.loading import (
    BaseRef,
    canonical_tensors,
    length_limit,
    load_backbone,
    load_tokenizer,
    quiet,
)
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.workload import Batch, Evaluation, SplitName, precision, training_steps

EVAL_BATCH = 64
_TOKENIZE_AT_ONCE = 4096
_BUCKET_BATCHES = 50
"""Batches among which examples are sorted by length: fewer pad more, more mix less."""
_EAGER_UP_TO_TOKENS = 128


@dataclass(frozen=True)
class Encoded:
    """A tokenised split: all examples end to end.

    Attributes:
        ids: token ids, int32.
        types: token types (which text of a pair), or ``None`` where the model has none.
        starts: example ``i`` is ``ids[starts[i] : starts[i + 1]]``, int64.
        labels: class indices, int64.
        truncated: examples that were cut.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    truncated: int

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return np.diff(self.starts)

    def collate(self, indices: NDArray[np.int64], pad_id: int) -> dict[str, Tensor]:
        """Return examples as one batch, padded on the right to the longest of them."""
        width = int(self.lengths[indices].max())
        real = np.arange(width) < self.lengths[indices, None]
        source = np.concatenate(
            [np.arange(self.starts[i], self.starts[i + 1]) for i in indices.tolist()]
        )
        batch = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        columns = [("input_ids", self.ids, pad_id)]
        if self.types is not None:
            columns.append(("token_type_ids", self.types, 0))
        for name, flat, fill in columns:
            values = np.full(real.shape, fill, dtype=np.int64)
            values[real] = flat[source]
            batch[name] = torch.from_numpy(values)
        batch["labels"] = torch.from_numpy(self.labels[indices])
        return batch


class BatchPlan(Sequence[Batch]):
    """The batches of one training, collated when they are asked for."""

    def __init__(self, encoded: Encoded, order: NDArray[np.int64], pad_id: int) -> None:
        self.encoded = encoded
        self.order = order
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return BatchPlan(self.encoded, self.order[index], self.pad_id)
        return self.encoded.collate(self.order[index], self.pad_id)


class SequenceClassification:
    """Fine-tune a base on a task's texts: the :class:`~ticketry.tasks.workload.Workload` of text.

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
            name: _encode(self.tokenizer, getattr(data, name), name, self.max_length)
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
            attention=self._attention(device),
        )
        if model.config.pad_token_id is None:
            # GPT-2 reads the class at the last token that is not padding.
            model.config.pad_token_id = self.tokenizer.pad_token_id
        model.to(device)  # type: ignore[arg-type]
        return model

    def _attention(self, device: str) -> str | None:
        # On a CPU, dropout inside attention leaves torch's fused kernel unused: its fallback took
        # 20% longer a training step than plain matrices. Long texts need the fused one's memory.
        plain = device == "cpu" and self.max_length <= _EAGER_UP_TO_TOKENS
        return "eager" if plain else None

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
        """Return the batch's mean cross-entropy."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits: Tensor = model(**inputs).logits
        return cross_entropy(logits.float(), batch["labels"])

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
        predictions = np.empty(len(order), dtype=np.int64)
        training = model.training
        model.eval()
        try:
            with precision(device, self.recipe.dtype):
                for start in range(0, len(order), EVAL_BATCH):
                    indices = order[start : start + EVAL_BATCH]
                    batch = encoded.collate(indices, self.tokenizer.pad_token_id)
                    del batch["labels"]
                    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
                    logits = model(**inputs).logits.float()
                    if not torch.isfinite(logits).all():
                        raise TrainingError(
                            f"the model's outputs on the {split} split are not finite; the "
                            "training diverged. Try a lower --learning-rate or --dtype float32."
                        )
                    predictions[indices] = logits.argmax(-1).cpu().numpy()
        finally:
            model.train(training)
        found = tuple(predictions.tolist())
        return Evaluation(float(self.metric.fn(encoded.labels.tolist(), found)), found)

    def model_files(self, model: nn.Module) -> dict[str, bytes]:
        """Return a Hugging Face folder of the model, head, label names and tokenizer.

        Returns:
            Relative file name -> content.
        """
        with tempfile.TemporaryDirectory() as folder, quiet():
            model.save_pretrained(folder)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
            return {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file()
            }


def _encode(tokenizer: Any, split: Split, name: str, max_length: int) -> Encoded:
    """Tokenise a split; texts that are too long are cut and counted."""
    if not split.texts:
        raise DataError(f"the {name} split has no examples; expected at least one.")
    keys = ["input_ids"]
    if "token_type_ids" in tokenizer.model_input_names:
        keys.append("token_type_ids")
    flat: dict[str, list[NDArray[np.int32]]] = {key: [] for key in keys}
    lengths: list[int] = []
    truncated = 0
    with quiet():
        for start in range(0, len(split.texts), _TOKENIZE_AT_ONCE):
            part = slice(start, start + _TOKENIZE_AT_ONCE)
            texts = split.texts[part]
            pairs = None if split.pairs is None else split.pairs[part]
            rows = _tokens(tokenizer, keys, texts, pairs, None)
            long = [i for i, ids in enumerate(rows["input_ids"]) if len(ids) > max_length]
            if long:
                some_pairs = None if pairs is None else [pairs[i] for i in long]
                cut = _tokens(tokenizer, keys, [texts[i] for i in long], some_pairs, max_length)
                for key in keys:
                    for row, i in enumerate(long):
                        rows[key][i] = cut[key][row]
            truncated += len(long)
            lengths += [len(ids) for ids in rows["input_ids"]]
            for key in keys:
                flat[key].append(
                    np.fromiter((token for row in rows[key] for token in row), dtype=np.int32)
                )
    if min(lengths) == 0:
        raise DataError(
            f"text {lengths.index(0)} of the {name} split has no tokens; drop empty texts."
        )
    return Encoded(
        ids=np.concatenate(flat["input_ids"]),
        types=np.concatenate(flat["token_type_ids"]) if len(keys) > 1 else None,
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.asarray(split.labels, dtype=np.int64),
        truncated=truncated,
    )


def _tokens(
    tokenizer: Any,
    keys: Sequence[str],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int | None,
) -> dict[str, list[list[int]]]:
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        # Said outright: a tokenizer.json may carry settings of its own (MiniLM's cuts at 128).
        padding=False,
        truncation=max_length is not None,
        max_length=max_length,
        return_token_type_ids="token_type_ids" in keys,
        return_attention_mask=False,
    )
    return {key: list(encoded[key]) for key in keys}
