"""Predictions in a study's records: small, and scored as what was predicted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticketry.errors import RunError
from ticketry.metrics.maps import decode_map, encode_map
from ticketry.steps import Step
from ticketry.studies.ledger import Ledger
from ticketry.studies.predictions import pack, unpack

_NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 2**40)
_BOXES = st.lists(st.lists(st.lists(_NUMBERS, min_size=6, max_size=6), max_size=3), min_size=1)


def stored(predictions: list[Any]) -> Any:
    """Return predictions as they come back from a file."""
    return json.loads(json.dumps(pack(predictions)))


@given(
    st.lists(st.integers(0, 9), min_size=1)
    | st.lists(st.integers(0, 99), min_size=1)
    | st.lists(_NUMBERS, min_size=1)
    | st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=2), min_size=1)
    | st.lists(st.text(), min_size=1)
    | _BOXES
)
def test_what_is_packed_comes_back(predictions: list[Any]) -> None:
    found = unpack(stored(predictions))
    assert found == predictions
    assert [type(value) for value in found] == [type(value) for value in predictions]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 255)), min_size=1))
def test_maps_come_back_pixel_by_pixel(shapes: list[tuple[int, int, int]]) -> None:
    maps = [np.full((h, w), value, np.uint8) for h, w, value in shapes]
    for one in maps:
        one[0, 0] = 7
    texts = [encode_map(one) for one in maps]
    packed = stored(texts)
    assert packed.startswith("maps:")
    assert all(np.array_equal(decode_map(a), b) for a, b in zip(unpack(packed), maps, strict=True))


def test_boxes_take_under_half() -> None:
    source = random.Random(0)
    image = [
        [source.randrange(10), round(source.random(), 4)]
        + [round(source.random() * 96, 2) for _ in range(4)]
        for _ in range(200)
    ]
    boxes = [image[start : start + 20] for start in range(0, 200, 20)]
    assert len(pack(boxes)) < 0.5 * len(json.dumps(boxes))


@pytest.mark.parametrize(
    "damaged",
    [
        "json:",
        "json:####",
        "json:AAAA",
        "maps:AAAA",
        "12x",
        pack([[[1, 0.5, 1.0, 2.0, 3.0, 4.0]]])[:-8],
        pack([encode_map(np.zeros((4, 4), np.uint8))])[:40],
    ],
)
def test_damage_is_said(damaged: str) -> None:
    with pytest.raises(ValueError, match=r"^it is "):
        unpack(damaged)


def _record(predictions: list[Any]) -> dict[str, Any]:
    return {
        "seed": 1,
        "steps": 1,
        "train_examples": 1,
        "train_tokens": 1,
        "mean_loss": 0.5,
        "final_loss": 0.5,
        "truncated": {},
        "mask_digest": None,
        "validation_score": 0.5,
        "test_score": 0.5,
        "predictions": predictions,
    }


def test_a_ledger_gives_boxes_back_and_says_which_line_cannot_be_read(tmp_path: Path) -> None:
    boxes = [[[1, 0.5, 1.0, 2.0, 3.0, 4.0]], []]
    step = Step("boxes, seed 1", "replicate", {"seed": 1}, "context")
    Ledger(tmp_path).add(step, _record(boxes), 1.0, {})
    read = Ledger(tmp_path)
    assert not read.damaged
    assert read.predictions(step.key) == boxes
    # A line whose hash fits was written so: by another version, or by hand.
    other = Step("boxes, seed 2", "replicate", {"seed": 1, "other": 2}, "context")
    read.add(other, {**_record([]), "predictions": "zip:AAAA"}, 1.0, {})
    with pytest.raises(RunError, match=r"'boxes, seed 2' cannot be read .* delete its line in"):
        Ledger(tmp_path).predictions(other.key)
