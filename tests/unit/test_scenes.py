"""Composed scenes: boxes and masks are those of the pixels, and everything is the seed's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ticketry.tasks.base import Split
from ticketry.tasks.pixels import encode_image
from ticketry.tasks.scenes import EDGES, SEEN, compose, scaled, scenes, silhouette

GREY = [np.full((120, 150), value, dtype=np.uint8) for value in (90, 160)]


def ring() -> np.ndarray:
    """An object with a hole, on black."""
    image = np.zeros((28, 28), dtype=np.uint8)
    image[4:24, 8:20] = 250
    image[10:16, 11:17] = 0
    return image


def test_a_hole_belongs_to_the_object_and_the_ground_does_not() -> None:
    inside = silhouette(ring())
    assert inside.sum() == 20 * 12
    assert inside[12, 13]
    assert not inside[0, 0]


def test_a_scaled_image_has_the_edge_and_the_values() -> None:
    image = scaled(ring(), 56)
    assert image.shape == (56, 56)
    assert (image.min(), image.max()) == (0, 250)
    # Bilinear: half a pixel more on every side.
    assert 1 <= silhouette(image).sum() / (4 * 20 * 12) < 1.2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), kinds=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_boxes_hold_what_is_seen_and_nothing_is_lost(seed: int, kinds: list[int]) -> None:
    scene = compose(random.Random(seed), [(kind, ring()) for kind in kinds], GREY)
    assert scene.pixels.shape == scene.classes.shape == (96, 96)
    assert 1 <= len(scene.boxes) <= len(kinds)
    assert {box[0] + 1 for box in scene.boxes} == set(np.unique(scene.classes)) - {0}
    covered = np.zeros((96, 96), dtype=bool)
    for kind, x0, y0, x1, y1, hard in scene.boxes:
        assert 0 <= x0 < x1 <= 96
        assert 0 <= y0 < y1 <= 96
        assert max(x1 - x0, y1 - y0) <= EDGES[1]
        assert hard == 0
        inside = np.zeros((96, 96), dtype=bool)
        inside[int(y0) : int(y1), int(x0) : int(x1)] = True
        covered |= inside
        # No row or column of the box's rim is without the object's own class.
        own = (scene.classes == kind + 1)[int(y0) : int(y1), int(x0) : int(x1)]
        assert own[0].any()
        assert own[-1].any()
        assert own[:, 0].any()
        assert own[:, -1].any()
    assert not (scene.classes.astype(bool) & ~covered).any()


def test_an_object_stays_in_sight() -> None:
    sizes = {}
    for seed in range(60):
        scene = compose(random.Random(seed), [(k, ring()) for k in range(4)], GREY)
        for kind, *_ in scene.boxes:
            sizes.setdefault(kind, []).append(int((scene.classes == kind + 1).sum()))
    smallest = int(silhouette(scaled(ring(), EDGES[0])).sum())
    assert min(min(found) for found in sizes.values()) >= SEEN * smallest


def test_scenes_are_the_seeds() -> None:
    split = Split((encode_image(ring()), encode_image(ring().T.copy())), None, (0, 1))
    one, same = (scenes(split, 3, GREY, seed=5) for _ in range(2))
    assert [s.boxes for s in one] == [s.boxes for s in same]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].pixels, scenes(split, 1, GREY, seed=6)[0].pixels)
    # More scenes leave the first ones as they are.
    assert scenes(split, 5, GREY, seed=5)[2].boxes == one[2].boxes


def test_a_background_that_is_too_small_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty range"):
        compose(random.Random(0), [(0, ring())], [GREY[0][:50]])
