"""Questions and long contexts as windows of tokens, and the best span of a window's scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ticketry.errors import ConfigError, DataError
from ticketry.models.loading import quiet
from ticketry.tasks.base import SPLITS, Split, TaskData
from ticketry.tasks.encoding import Encoded

MOST_QUESTION_TOKENS = 64
MOST_ANSWER_TOKENS = 30
N_BEST = 20
FEWEST_TOKENS = 16
"""A window of fewer has no room for a question beside its context."""
_AT_ONCE = 256
_ALL_AT_ONCE = 2048


@dataclass(frozen=True)
class Windows(Encoded):
    """A tokenised split, cut into windows; ``labels`` are their first and last answer token.

    Attributes:
        example: the question of each window; those of one question stand together, in order.
        places: first character and the one after the last, in the context, of each token, int32
            of shape (tokens, 2); -1 outside the context. None where they are not needed.
    """

    example: NDArray[np.int64]
    places: NDArray[np.int32] | None

    def places_of(self, indices: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Return the places of some windows' tokens."""
        assert self.places is not None
        return [self.places[self.starts[i] : self.starts[i + 1]] for i in indices.tolist()]


def question_limit(max_length: int) -> int:
    """Return the most tokens of a question: 64, or a third of a window where that is less."""
    return min(MOST_QUESTION_TOKENS, max_length // 3)


def step_of(max_length: int, room: int) -> int:
    """Return how many tokens apart windows begin: a third of a window, at most all its room."""
    return min(max_length // 3, room)


def encode_windows(
    tokenizer: Any, split: Split, name: str, max_length: int, *, places: bool
) -> Windows:
    """Tokenise questions and contexts, cut into windows of at most ``max_length`` tokens.

    A window's label is the first and last token of the answer, or the first token (twice) where
    the window does not hold the whole of it, or where there is none. Of several answers the first
    is learned.

    Args:
        tokenizer: a fast one.
        split: questions, contexts and answers.
        name: of the split, for messages.
        max_length: tokens of a window, special ones and the question's included.
        places: also keep where each token stands.

    Source: Devlin et al. 2019 (arXiv 1810.04805), section 4.2, and its run_squad.py: windows of
        384 tokens that begin 128 apart, questions of at most 64. Differs: a shorter window has
        thirds of its own length; windows are as long as they are, not padded to the longest.
    """
    if not split.texts:
        raise DataError(f"the {name} split has no questions; expected at least one.")
    assert split.pairs is not None
    questions, lengths, cut = _questions(tokenizer, split.texts, max_length)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    found: list[tuple[int, list[_Window]]] = []
    with quiet():
        for length in sorted(by_length):
            room = max_length - special - length
            for some in _parts(by_length[length]):
                encoded = tokenizer(
                    [questions[i] for i in some],
                    [split.pairs[i] for i in some],
                    # Said outright: a tokenizer.json may carry settings of its own.
                    padding=False,
                    truncation="only_second",
                    max_length=max_length,
                    stride=room - step_of(max_length, room),
                    return_overflowing_tokens=True,
                )
                windows: dict[int, list[_Window]] = {i: [] for i in some}
                of = encoded["overflow_to_sample_mapping"]
                for at, encoding in zip(of, encoded.encodings, strict=True):
                    answers = split.labels[some[at]] if split.labels else ()
                    windows[some[at]].append(_window(encoding, answers, places=places))
                found += windows.items()
    found.sort(key=lambda pair: pair[0])
    flat = [window for _, windows in found for window in windows]
    if not any(window.inside for window in flat):
        raise DataError(
            f"no context of the {name} split has a token; does the tokenizer fit the texts' "
            "language, and the base?"
        )
    types = "token_type_ids" in tokenizer.model_input_names
    return Windows(
        ids=np.concatenate([window.ids for window in flat]),
        types=np.concatenate([window.types for window in flat]) if types else None,
        starts=np.cumsum([0, *(len(window.ids) for window in flat)], dtype=np.int64),
        labels=np.array([window.label for window in flat], dtype=np.int64),
        truncated=cut,
        example=np.repeat(np.arange(len(found)), [len(windows) for _, windows in found]),
        places=np.concatenate([window.places for window in flat]) if places else None,
    )


@dataclass(frozen=True)
class _Window:
    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    label: tuple[int, int]
    places: NDArray[np.int32]
    inside: bool


def _window(encoding: Any, answers: Sequence[tuple[str, int]], *, places: bool) -> _Window:
    spans = np.array(encoding.offsets, dtype=np.int32)
    inside = np.array([which == 1 for which in encoding.sequence_ids])
    spans[~inside] = -1
    return _Window(
        np.array(encoding.ids, dtype=np.int32),
        np.array(encoding.type_ids, dtype=np.int32),
        answer_tokens(spans, answers[0]) if answers else (0, 0),
        spans if places else spans[:0],
        bool(inside.any()),
    )


def answer_tokens(places: NDArray[np.int32], answer: tuple[str, int]) -> tuple[int, int]:
    """Return the first and last token of an answer; (0, 0) where a window has not the whole of it.

    Args:
        places: of the window's tokens in the context, (tokens, 2); -1 outside it.
        answer: text, and where it begins.
    """
    text, start = answer
    first = start + len(text) - len(text.lstrip())
    end = start + len(text.rstrip())
    tokens = np.flatnonzero(places[:, 1] > places[:, 0])
    if not len(tokens) or places[tokens[0], 0] > first or places[tokens[-1], 1] < end:
        return 0, 0
    begins, ends = places[tokens, 0], places[tokens, 1]
    # Several tokens may stand for one character: the first and the last of them count.
    left = int(np.searchsorted(ends, first, side="right"))
    right = int(np.searchsorted(begins, end, side="left")) - 1
    return (int(tokens[left]), int(tokens[right])) if left <= right else (0, 0)


def _questions(
    tokenizer: Any, texts: Sequence[str], max_length: int
) -> tuple[list[str], list[int], int]:
    """Return questions cut to what a window has room for, their tokens, and how many were cut."""
    if max_length < FEWEST_TOKENS:
        raise ConfigError(
            f"windows of {max_length} tokens have no room for a context beside its question; "
            f"expected --max-length of at least {FEWEST_TOKENS} (the paper's is 384)."
        )
    limit = question_limit(max_length)
    questions = list(texts)
    lengths: list[int] = []
    cut: list[int] = []
    for some in _parts(range(len(texts)), _ALL_AT_ONCE):
        encoded = _plain(tokenizer, [questions[i] for i in some])
        for index, encoding in zip(some, encoded, strict=True):
            if len(encoding.ids) > limit:
                questions[index] = questions[index][: encoding.offsets[limit - 1][1]]
                cut.append(index)
            lengths.append(len(encoding.ids))
    for index, encoding in zip(cut, _plain(tokenizer, [questions[i] for i in cut]), strict=True):
        # What is cut within a word may have other tokens than before.
        lengths[index] = len(encoding.ids)
    return questions, lengths, len(cut)


def _plain(tokenizer: Any, texts: list[str]) -> Sequence[Any]:
    """Tokenise texts by themselves."""
    if not texts:
        return ()
    with quiet():
        encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)
    encodings: Sequence[Any] = encoded.encodings
    return encodings


def _parts(indices: Sequence[int], size: int = _AT_ONCE) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def window_counts(tokenizer: Any, data: TaskData, max_length: int) -> tuple[int, int, int]:
    """Return how many windows each split is cut into, without cutting it.

    Args:
        tokenizer: a fast one.
        data: questions and contexts.
        max_length: tokens of a window.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    tokens: dict[str, int] = {}
    counts = []
    for name in SPLITS:
        split = getattr(data, name)
        new = [context for context in dict.fromkeys(split.pairs) if context not in tokens]
        for some in _parts(range(len(new)), _ALL_AT_ONCE):
            texts = [new[i] for i in some]
            lengths = [len(encoding.ids) for encoding in _plain(tokenizer, texts)]
            tokens.update(zip(texts, lengths, strict=True))
        total = 0
        _, asked, _ = _questions(tokenizer, split.texts, max_length)
        for length, context in zip(asked, split.pairs, strict=True):
            room = max_length - special - length
            total += 1 + max(0, -(-(tokens[context] - room) // step_of(max_length, room)))
        counts.append(total)
    return counts[0], counts[1], counts[2]


def best_spans(
    starts: Tensor, ends: Tensor, real: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best span of each window: of the 20 best starts and ends, one that is possible.

    Args:
        starts: scores of each token as an answer's first, (windows, tokens).
        ends: the same as its last.
        real: bool, False where padded.
        inside: bool, True in the context.
    Returns:
        (score, first token, last token) of each window; the score is -inf where the best starts
        and ends do not go together.

    Source: as run_squad.py of arXiv 1810.04805 and its successors: 20 best, at most 30 tokens.
        Differs: an answer may begin in any window that holds it, not only in the one with most
        context around it.
    """
    windows, tokens = starts.shape
    kept = min(N_BEST, tokens)
    lowest = float("-inf")
    first_scores, firsts = starts.masked_fill(~real, lowest).topk(kept)
    last_scores, lasts = ends.masked_fill(~real, lowest).topk(kept)
    length = lasts[:, None, :] - firsts[:, :, None]
    possible = (length >= 0) & (length < MOST_ANSWER_TOKENS)
    possible &= inside.gather(1, firsts)[:, :, None] & inside.gather(1, lasts)[:, None, :]
    scores = (first_scores[:, :, None] + last_scores[:, None, :]).masked_fill(~possible, lowest)
    best, at = scores.reshape(windows, -1).max(1)
    rows = torch.arange(windows, device=starts.device)
    return best, firsts[rows, at // kept], lasts[rows, at % kept]
