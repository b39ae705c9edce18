"""Which tokens of a text are to be predicted, and what a model reads in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ticketry.errors import DataError, ModelError
from ticketry.models.loading import quiet
from ticketry.tasks.base import Split

SHARE = 0.15
"""Of a block's tokens that are predicted."""
AS_MASK, AS_RANDOM = 0.8, 0.1
"""Shares of these that the model reads as the mask token, and as another token; the rest stays."""
IGNORED = -100
"""Label of a token that is not predicted."""

_TOKENIZE_AT_ONCE = 512
_PROBE = "a"


@dataclass(frozen=True)
class Vocabulary:
    """What of a tokenizer decides blocks and masks.

    Attributes:
        before, after: the special tokens that frame a sequence.
        between: stands after each document; empty where the tokenizer has no separator.
        mask: id of the mask token.
        special: ids that are never predicted.
        ordinary: all others, sorted; a random token is one of these.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]
    mask: int
    special: frozenset[int]
    ordinary: Tensor

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Read a tokenizer.

        Raises:
            ModelError: it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "the tokenizer has no mask token to put in place of a word; set mask_token in its "
                "tokenizer_config.json, or give an encoder that was pre-trained with one."
            )
        with quiet():
            plain = list(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
            framed = list(tokenizer(_PROBE, add_special_tokens=True)["input_ids"])
        start = next(
            (i for i in range(len(framed)) if framed[i : i + len(plain)] == plain), len(framed)
        )
        special = frozenset(int(i) for i in tokenizer.all_special_ids)
        end = tokenizer.sep_token_id
        end = tokenizer.eos_token_id if end is None else end
        others = sorted(set(tokenizer.get_vocab().values()) - special)
        return cls(
            before=tuple(framed[:start]),
            after=tuple(framed[start + len(plain) :]),
            between=() if end is None else (int(end),),
            mask=int(tokenizer.mask_token_id),
            special=special,
            ordinary=torch.tensor(others),
        )

    def room(self, length: int) -> int:
        """Return the tokens of a block of ``length`` that are text.

        Raises:
            DataError: none.
        """
        room = length - len(self.before) - len(self.after)
        if room < 1:
            raise DataError(
                f"blocks of {length} tokens leave no room for text between the special tokens "
                f"({len(self.before) + len(self.after)}); give a larger --max-length."
            )
        return room


@dataclass(frozen=True)
class Blocks:
    """A split's documents end to end, cut into blocks, each framed as a sequence.

    The last tokens, too few for a block, are left out, and so is a block with fewer ordinary tokens
    than are to be predicted: each has as many of these as any other.

    Attributes:
        ids: token ids, int32, shape (blocks, tokens).
        ordinary: tokens that may be predicted, the same shape.
        chosen: tokens that are predicted, of each block.
    """

    ids: NDArray[np.int32]
    ordinary: NDArray[np.bool_]
    chosen: int

    def __len__(self) -> int:
        return len(self.ids)


def cut_blocks(tokenizer: Any, split: Split, name: str, length: int) -> Blocks:
    """Tokenise a split and cut it.

    Documents follow one another with a separator after each, and a block may begin within one.

    Args:
        tokenizer: the base's.
        split: its texts are the documents.
        name: of the split, for messages.
        length: tokens of a block, with its special ones.

    Raises:
        ModelError: the tokenizer has no mask token.
        DataError: the split has fewer tokens than a block.

    Source: Liu et al. 2019, arXiv 1907.11692, §4.2 (full sentences, a separator between documents;
        no next-sentence loss).
    """
    words = Vocabulary.of(tokenizer)
    room = words.room(length)
    parts: list[NDArray[np.int32]] = []
    with quiet():
        for start in range(0, len(split.texts), _TOKENIZE_AT_ONCE):
            texts = list(split.texts[start : start + _TOKENIZE_AT_ONCE])
            encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)
            parts += [np.array([*ids, *words.between], np.int32) for ids in encoded["input_ids"]]
    flat = np.concatenate(parts) if parts else np.empty(0, np.int32)
    count = len(flat) // room
    if not count:
        raise DataError(
            f"the {name} split has {len(flat):,} tokens in {len(split.texts):,} documents, fewer "
            f"than one block of {room} tokens and {length - room} special ones; give more text, "
            "or a smaller --max-length."
        )
    body = flat[: count * room].reshape(count, room)
    ordinary = ~np.isin(body, np.fromiter(words.special, np.int32))
    chosen = max(1, round(SHARE * room))
    kept = ordinary.sum(1) >= chosen
    if not kept.any():
        raise DataError(
            f"no block of the {name} split has {chosen} tokens to predict: nearly all are special "
            "or unknown to the tokenizer. Give text in a language that the model reads."
        )
    ids = np.empty((count, length), np.int32)
    ids[:, : len(words.before)] = words.before
    ids[:, len(words.before) : len(words.before) + room] = body
    ids[:, len(words.before) + room :] = words.after
    framed = np.zeros((count, length), bool)
    framed[:, len(words.before) : len(words.before) + room] = ordinary
    return Blocks(ids[kept], framed[kept], chosen)


def mask_tokens(
    ids: Tensor, ordinary: Tensor, chosen: int, words: Vocabulary, seed: int
) -> dict[str, Tensor]:
    """Choose tokens to predict, and hide most of them.

    Args:
        ids: (blocks, tokens).
        ordinary: which may be chosen, the same shape; at least ``chosen`` in each block.
        chosen: tokens of each block to predict.
        words: the tokenizer's.
        seed: decides all.
    Returns:
        ``input_ids``, and ``labels``: the tokens to predict, :data:`IGNORED` elsewhere.

    Source: Devlin et al. 2018, arXiv 1810.04805, §3.1 and appendix A.1: 15% of the tokens; of
        these 80% are replaced by the mask token, 10% by a random token, 10% stay. The count is the
        same in each block, as in the released code; a random token is never a special one.
    """
    generator = torch.Generator().manual_seed(seed)
    lots = torch.rand(ids.shape, generator=generator, dtype=torch.float64)
    places = lots.masked_fill_(~ordinary, 2.0).topk(chosen, dim=1, largest=False).indices
    labels = torch.full_like(ids, IGNORED)
    originals = ids.gather(1, places)
    labels.scatter_(1, places, originals)
    fate = torch.rand(places.shape, generator=generator, dtype=torch.float64)
    draw = torch.randint(len(words.ordinary), places.shape, generator=generator)
    shown = torch.where(fate < AS_MASK + AS_RANDOM, words.ordinary[draw], originals)
    shown = shown.masked_fill(fate < AS_MASK, words.mask)
    return {"input_ids": ids.scatter(1, places, shown), "labels": labels}
