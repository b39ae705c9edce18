"""Texts as token ids, padded no more than a batch needs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ticketry.errors import DataError, ModelError
from ticketry.models.loading import quiet
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split
from ticketry.tasks.targets import Target
from ticketry.tasks.workload import Batch, training_steps

_TOKENIZE_AT_ONCE = 4096
_BUCKET_BATCHES = 50
"""Batches among which examples are sorted by length: fewer pad more, more mix less."""


NEEDS_PLACES = ("extractive-qa", "extractive-qa-v2", "token-classification")
"""Objectives whose labels lie at places within a text."""


def check_tokenizer(tokenizer: Any, objective: str) -> None:
    """Refuse a tokenizer that cannot say where in a text its tokens stand, where that is needed.

    Raises:
        ModelError: says what is needed.
    """
    if objective in NEEDS_PLACES and not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer ({type(tokenizer).__name__}) cannot say where in a text its tokens "
            f"stand, which --objective {objective} needs; expected a fast one, with a "
            "tokenizer.json."
        )


@dataclass(frozen=True)
class Encoded:
    """A tokenised split: all examples end to end.

    Attributes:
        ids: token ids, int32.
        types: token types (which text of a pair), or ``None`` where the model has none.
        starts: example ``i`` is ``ids[starts[i] : starts[i + 1]]``, int64.
        labels: as the objective's target has them, examples first.
        truncated: examples that were cut.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None
    starts: NDArray[np.int64]
    labels: NDArray[Any]
    truncated: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return np.diff(self.starts)

    def collate(self, indices: NDArray[np.int64], pad_id: int) -> dict[str, Tensor]:
        """Return examples as one batch, padded on the right to the longest of them."""
        batch = self._padded(indices, pad_id)
        batch["labels"] = torch.from_numpy(self.labels[indices])
        return batch

    def _padded(
        self,
        indices: NDArray[np.int64],
        pad_id: int,
        more: Sequence[tuple[str, NDArray[Any], int]] = (),
    ) -> dict[str, Tensor]:
        """Return what there is of each token; ``more`` is (name, values of all tokens, padding)."""
        width = int(self.lengths[indices].max())
        real = np.arange(width) < self.lengths[indices, None]
        source = np.concatenate(
            [np.arange(self.starts[i], self.starts[i + 1]) for i in indices.tolist()]
        )
        batch = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        columns = [("input_ids", self.ids, pad_id)]
        if self.types is not None:
            columns.append(("token_type_ids", self.types, 0))
        for name, flat, fill in (*columns, *more):
            values = np.full(real.shape, fill, dtype=np.int64)
            values[real] = flat[source]
            batch[name] = torch.from_numpy(values)
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


def plan_batches(encoded: Encoded, recipe: Recipe, seed: int, pad_id: int) -> BatchPlan:
    """Return the batches of a recipe's whole budget.

    Epochs are shuffled one after the other and cut into full batches. Within each stretch of
    batches examples are sorted by length, so that little is padded, and batches are shuffled.
    """
    examples = len(encoded)
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
    return BatchPlan(encoded, np.concatenate(order), pad_id)


def encode(tokenizer: Any, split: Split, name: str, max_length: int, target: Target) -> Encoded:
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
        labels=target.array(split.labels),
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
