"""Images of a split, prepared at once or batch by batch: the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from architectures import ARCHITECTURES
from ticketry.errors import DataError
from ticketry.models.loading import resolve
from ticketry.recipes import Recipe
from ticketry.tasks import ahead, pixels
from ticketry.tasks.images import ImageClassification
from ticketry.tasks.pixels import Pixels, Processing, encode_image
from tiny_images import image_task

PROCESSING = Processing((6, 6), 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), stated=True)


def texts(count: int) -> list[str]:
    draw = np.random.default_rng(0)
    sizes = draw.integers(4, 12, (count, 2))  # grey and coloured ones of different sizes
    shapes = [(h, w, 3) if number % 2 else (h, w) for number, (h, w) in enumerate(sizes)]
    return [encode_image(draw.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


@pytest.fixture
def sparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MOST_PREPARED", 0)


@pytest.mark.usefixtures("sparing")
def test_what_is_not_held_is_prepared_when_it_is_asked_for() -> None:
    given = texts(7)
    lazy = Pixels(given, PROCESSING)
    assert lazy._whole is None
    whole = PROCESSING.apply([pixels.decode_image(text) for text in given])
    rows = [5, 0, 0, 6]
    assert len(lazy) == 7
    assert torch.equal(lazy[rows], whole[rows])
    assert torch.equal(lazy[torch.tensor(rows)], whole[rows])
    parts = list(lazy.split(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), whole)


def test_what_fits_is_held() -> None:
    given = texts(7)
    held = Pixels(given, PROCESSING)
    assert held._whole is not None
    assert torch.equal(torch.cat(list(held.split(3))), held._whole)
    assert torch.equal(held[[1, 4]], held._whole[[1, 4]])


@pytest.mark.usefixtures("sparing")
def test_no_image_is_found_at_its_batch() -> None:
    lazy = Pixels([*texts(2), "no image"], PROCESSING)
    assert len(lazy[[0, 1]]) == 2
    with pytest.raises(DataError, match="an example is no image: it begins with 'no image'"):
        lazy[[2]]


def test_a_training_is_the_same_either_way_and_with_images_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModel

    from ticketry.models.weights import take_weights
    from ticketry.training import train

    AutoModel.from_config(ARCHITECTURES["vit"].build_config()).save_pretrained(tmp_path / "vit")
    base, recipe = resolve(str(tmp_path / "vit")), Recipe(epochs=1, batch_size=8, augment="crop")
    found = []
    for most, readers in ((1 << 30, 0), (0, 0), (0, 2)):
        monkeypatch.setattr(pixels, "MOST_PREPARED", most)
        monkeypatch.setattr(ahead, "readers_beside", lambda device, readers=readers: readers)
        work = ImageClassification(base, image_task(24), recipe)
        outcome = train(work, recipe, seed=1)
        found.append((take_weights(outcome.model), work.evaluate(outcome.model, "test")))
    (one, scored), *others = found
    for other, again in others:
        assert scored == again
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
