"""Tags of words: a task bound to a base, as the training loop's workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ticketry.errors import DataError
from ticketry.models.loading import quiet
from ticketry.tasks.base import Split
from ticketry.tasks.conll import OUTSIDE, TAGS, WORDS
from ticketry.tasks.encoded import EncodedWorkload, check_finite, inputs_of
from ticketry.tasks.encoding import Encoded
from ticketry.tasks.workload import Batch, Evaluation, SplitName

IGNORED = -100
_TOKENIZE_AT_ONCE = 2048


@dataclass(frozen=True)
class EncodedTags(Encoded):
    """A tokenised split; ``labels`` are of each token, end to end.

    Attributes:
        words: of each token that is a word's first, which word of its sentence; else -1. int32.
    """

    words: NDArray[np.int32]

    def collate(self, indices: NDArray[np.int64], pad_id: int) -> dict[str, Tensor]:
        """Return sentences as one batch.

        ``scale`` is what a row's losses are multiplied by, so that the mean over rows, of the
        batch or of any share of it, is in proportion to labelled tokens.
        """
        batch = self._padded(indices, pad_id, [("labels", self.labels, IGNORED)])
        labelled = int((batch["labels"] != IGNORED).sum())
        batch["scale"] = torch.full((len(indices),), len(indices) / max(labelled, 1))
        return batch


def encode_tags(
    tokenizer: Any, split: Split, name: str, max_length: int, tags: Sequence[str]
) -> EncodedTags:
    """Tokenise sentences; a word's tag lies on its first token, and other tokens have none.

    Sentences that are too long are cut and counted.

    Args:
        tokenizer: a fast one.
        split: words on lines, tags separated by spaces.
        name: of the split, for messages.
        max_length: most tokens of a sentence, special ones included.
        tags: names, in the order of their indices.

    Source: Devlin et al. 2019 (arXiv 1810.04805), section 5.3: the first sub-token's
        representation. Differs: none of a document's other sentences is read along.
    """
    if not split.texts:
        raise DataError(f"the {name} split has no sentences; expected at least one.")
    index = {tag: number for number, tag in enumerate(tags)}
    ids, types, labels, words = [], [], [], []
    truncated = 0
    for start in range(0, len(split.texts), _TOKENIZE_AT_ONCE):
        part = slice(start, start + _TOKENIZE_AT_ONCE)
        sentences = [text.split(WORDS) for text in split.texts[part]]
        with quiet():
            encoded = tokenizer(
                [" ".join(sentence) for sentence in sentences],
                # Said outright: a tokenizer.json may carry settings of its own.
                padding=False,
                truncation=True,
                max_length=max_length,
            )
        for sentence, said, encoding in zip(
            sentences, split.labels[part], encoded.encodings, strict=True
        ):
            first = first_tokens(encoding, sentence)
            own = np.array([index[tag] for tag in said.split(TAGS)], dtype=np.int64)
            ids.append(np.array(encoding.ids, dtype=np.int32))
            types.append(np.array(encoding.type_ids, dtype=np.int32))
            words.append(first)
            labels.append(np.where(first >= 0, own[first], IGNORED))
            truncated += bool(encoding.overflowing)
    if not any((first >= 0).any() for first in words):
        raise DataError(
            f"no word of the {name} split has a token; does the tokenizer fit the texts' language, "
            "and the base?"
        )
    return EncodedTags(
        ids=np.concatenate(ids),
        types=np.concatenate(types) if "token_type_ids" in tokenizer.model_input_names else None,
        starts=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        labels=np.concatenate(labels),
        truncated=truncated,
        words=np.concatenate(words),
    )


def first_tokens(encoding: Any, sentence: Sequence[str]) -> NDArray[np.int32]:
    """Return, of each token that is a word's first one, the word's index; of others -1.

    Args:
        encoding: of the words, joined by spaces.
        sentence: the words.
    """
    lengths = np.array([len(word) for word in sentence])
    begins = np.cumsum([0, *(lengths[:-1] + 1)])
    places = np.array(encoding.offsets)
    inside = np.array([which is not None for which in encoding.sequence_ids])
    # A token may begin with the space before its word, so what counts is its last character.
    last = places[:, 1] - 1
    word = np.searchsorted(begins, last, side="right") - 1
    holds = inside & (places[:, 1] > places[:, 0]) & (last < (begins + lengths)[word])
    found = np.full(len(places), -1, dtype=np.int32)
    tokens = np.flatnonzero(holds)
    _, first = np.unique(word[tokens], return_index=True)
    found[tokens[first]] = word[tokens[first]]
    return found


class TokenClassification(EncodedWorkload):
    """Fine-tune a base with a head on each word's first token.

    A word without a token, in the part of a sentence that was cut off or of characters that the
    tokenizer drops, is tagged O and counts as such.
    """

    def _encode(self, name: str) -> EncodedTags:
        split = getattr(self.data, name)
        return encode_tags(self.tokenizer, split, name, self.max_length, self.data.labels)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the batch's labelled tokens."""
        logits = model(**inputs_of(batch)).logits.float()
        losses = cross_entropy(
            logits.transpose(1, 2), batch["labels"], ignore_index=IGNORED, reduction="none"
        )
        return (losses.sum(1) * batch["scale"]).mean()

    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Tag a split, in the recipe's precision and without dropout.

        Returns:
            Its predictions are the tags of each sentence, separated by spaces.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        encoded = self._splits[split]
        assert isinstance(encoded, EncodedTags)
        labels = getattr(self.data, split).labels
        names = self.data.labels
        found = [[OUTSIDE] * (said.count(TAGS) + 1) for said in labels]
        with self._reading(model) as device:
            for indices, inputs in self._inputs(split, device):
                logits = model(**inputs).logits.float()
                check_finite(logits[inputs["attention_mask"] == 1], split)
                best = logits.argmax(-1).cpu().numpy()
                for row, index in enumerate(indices.tolist()):
                    words = encoded.words[encoded.starts[index] : encoded.starts[index + 1]]
                    for token in np.flatnonzero(words >= 0):
                        found[index][words[token]] = names[best[row, token]]
        tags = tuple(TAGS.join(sentence) for sentence in found)
        return Evaluation(float(self.metric.fn(labels, tags)), tags)
