"""Blocks and masks: what is cut, what is hidden, and how often."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizerFast, RobertaTokenizerFast

from ticketry.errors import DataError, ModelError
from ticketry.tasks.base import Split
from ticketry.tasks.masking import IGNORED, Vocabulary, cut_blocks, mask_tokens
from tiny_masked import documents

WORDS = Vocabulary((2,), (3,), (3,), 4, frozenset(range(5)), torch.arange(5, 105))
SIGMAS = 6.0
"""A count that is right by chance stays within these: it leaves them twice in 10⁹ tests."""


def split(*texts: str) -> Split:
    return Split(texts, None, ())


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> BertTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_documents_stand_end_to_end_in_framed_blocks(tokenizer: BertTokenizerFast) -> None:
    # [CLS] 2, [SEP] 3, [UNK] 1; good 5, great 6, fine 7, the 17, film 18.
    blocks = cut_blocks(
        tokenizer, split("good great fine", "the strange film", "good good"), "train", 6
    )
    # good great fine [SEP] | the [UNK] film [SEP] | good good [SEP]: the last is too short.
    assert blocks.ids.tolist() == [[2, 5, 6, 7, 3, 3], [2, 17, 1, 18, 3, 3]]
    assert blocks.ordinary.tolist() == [
        [False, True, True, True, False, False],
        [False, True, False, True, False, False],
    ]
    assert (len(blocks), blocks.chosen) == (2, 1)
    # 15% of 32 - 2 tokens are 4.5, rounded to even.
    assert cut_blocks(tokenizer, split(*documents(30)), "train", 32).chosen == 4


def test_another_tokenizers_frame(tmp_path: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "Ġa", "Ġb"]
    tokenizer = RobertaTokenizerFast(vocab={w: i for i, w in enumerate(words)}, merges=[])
    found = Vocabulary.of(tokenizer)
    assert (found.before, found.after, found.between, found.mask) == ((0,), (2,), (2,), 4)
    assert found.special == {0, 1, 2, 3, 4}
    assert found.ordinary.tolist() == [5, 6, 7, 8]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    rows=st.integers(1, 5),
    width=st.integers(1, 30),
    data=st.data(),
)
def test_of_each_block_so_many_ordinary_tokens_are_hidden(
    seed: int, rows: int, width: int, data: st.DataObject
) -> None:
    draw = np.random.default_rng(seed)
    ordinary = torch.from_numpy(draw.random((rows, width)) < 0.7)
    ordinary[:, data.draw(st.integers(0, width - 1))] = True
    ids = torch.where(
        ordinary,
        torch.from_numpy(draw.integers(5, 105, (rows, width))),
        torch.from_numpy(draw.integers(0, 5, (rows, width))),
    )
    chosen = data.draw(st.integers(1, int(ordinary.sum(1).min())))
    found = mask_tokens(ids, ordinary, chosen, WORDS, seed)
    hidden = found["labels"] != IGNORED
    assert hidden.sum(1).tolist() == [chosen] * rows
    assert not (hidden & ~ordinary).any()
    assert torch.equal(found["labels"][hidden], ids[hidden])
    assert torch.equal(found["input_ids"][~hidden], ids[~hidden])
    shown = found["input_ids"][hidden]
    assert ((shown == WORDS.mask) | (shown >= 5)).all()
    again = mask_tokens(ids, ordinary, chosen, WORDS, seed)
    assert all(torch.equal(again[name], found[name]) for name in found)


def within(count: int, share: float, of: int) -> bool:
    """Say whether a binomial count lies within so many standard deviations of its mean."""
    return abs(count - share * of) <= SIGMAS * math.sqrt(of * share * (1 - share))


def test_shares_of_mask_random_and_unchanged() -> None:
    rows, width, chosen = 4000, 100, 15
    ids = torch.randint(5, 105, (rows, width), generator=torch.Generator().manual_seed(0))
    ordinary = torch.ones_like(ids, dtype=torch.bool)
    ordinary[:, ::10] = False
    found = mask_tokens(ids, ordinary, chosen, WORDS, 1)
    hidden = found["labels"] != IGNORED
    shown, truth = found["input_ids"][hidden], ids[hidden]
    total = rows * chosen
    assert within(int((shown == WORDS.mask).sum()), 0.8, total)
    # A random token is the right one once in a hundred.
    assert within(int((shown == truth).sum()), 0.1 + 0.1 / 100, total)
    changed = shown[(shown != WORDS.mask) & (shown != truth)]
    assert within(len(changed), 0.1 * 99 / 100, total)
    for token in range(5, 105):  # any token as often as another
        assert within(int((changed == token).sum()), 1 / 100, len(changed))
    for place in range(width):  # any place as often as another
        share = 0.0 if place % 10 == 0 else chosen / 90
        assert within(int(hidden[:, place].sum()), share, rows)


def test_text_that_cannot_be_cut_is_refused(tokenizer: BertTokenizerFast) -> None:
    with pytest.raises(
        DataError,
        match=r"the test split has 3 tokens in 1 documents, fewer than one block of 14 tokens and "
        r"2 special ones; give more text, or a smaller --max-length\.",
    ):
        cut_blocks(tokenizer, split("good film"), "test", 16)
    with pytest.raises(DataError, match="the train split has 0 tokens in 0 documents"):
        cut_blocks(tokenizer, split(), "train", 16)
    with pytest.raises(DataError, match="blocks of 2 tokens leave no room for text between the"):
        cut_blocks(tokenizer, split("good film"), "train", 2)
    with pytest.raises(DataError, match="no block of the train split has 1 tokens to predict"):
        cut_blocks(tokenizer, split("xylophone zebra " * 9), "train", 8)


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    from tiny_language import tiny_tokenizer

    tiny_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="the tokenizer has no mask token to put in place of a wo"):
        Vocabulary.of(AutoTokenizer.from_pretrained(tmp_path))
