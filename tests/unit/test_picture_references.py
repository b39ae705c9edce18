"""Pictures that are too many to keep stay in their files and are read when they are used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from little_images import class_folders, cut, odd_pictures, pixels, png, voc_folder
from ticketry.errors import DataError
from ticketry.store import Store
from ticketry.tasks import pictures
from ticketry.tasks.base import TaskData, is_referred
from ticketry.tasks.imagedata import load_images
from ticketry.tasks.pictures import PictureReader, by_reference
from ticketry.tasks.pixels import Decoded, Pixels, Processing, decode_image

PROCESSING = Processing((6, 6), 3, (0.5,) * 3, (0.5,) * 3, stated=True)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "pets", {"cat": 30, "dog": 30})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a few pictures are kept."""
    monkeypatch.setattr(pictures, "MOST_KEPT", 1000)


def referred(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: str) -> TaskData:
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "MOST_KEPT", 1000)
        return load_images(str(folder), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", odd_pictures())
def test_every_odd_picture_is_the_same_either_way(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(odd_pictures()[kind])
    kept, left = PictureReader(4), PictureReader(4)
    here = kept.read(file, kind)
    with by_reference():
        there = left.read(file, kind)
    assert here is not None
    assert there is not None
    assert is_referred(there)
    assert not is_referred(here)
    assert there.partition(":")[0] == here.partition(":")[0]
    assert np.array_equal(decode_image(there), decode_image(here))
    if kind != "moving":  # a header of it is read without looking for a second frame
        assert left.notes() == kept.notes()


def test_a_folder_is_the_same_data_either_way(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, left = load_images(str(pets)), referred(pets, monkeypatch)
    assert not any(map(is_referred, whole.train.texts))
    assert all(map(is_referred, (*left.train.texts, *left.validation.texts, *left.test.texts)))
    for part in ("train", "validation", "test"):
        one, other = getattr(whole, part), getattr(left, part)
        assert one.labels == other.labels
        assert all(
            np.array_equal(decode_image(a), decode_image(b))
            for a, b in zip(one.texts, other.texts, strict=True)
        )
    assert TaskData.from_json(left.to_json()) == left


def test_its_hash_is_of_the_files_wherever_they_lie(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = referred(pets, monkeypatch)
    shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    moved = referred(tmp_path / "elsewhere" / "pets", monkeypatch)
    assert moved.sha256 == left.sha256
    assert moved.train.texts != left.train.texts
    (pets / "cat" / "000.png").write_bytes(png(pixels(2, 5)))
    assert referred(pets, monkeypatch).sha256 != left.sha256


def test_copies_are_found(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / "cat" / "again.png").write_bytes((pets / "cat" / "000.png").read_bytes())
    (pets / "dog" / "cat.png").write_bytes((pets / "cat" / "001.png").read_bytes())
    whole, left = load_images(str(pets)), referred(pets, monkeypatch)
    assert left.notes == whole.notes
    assert "2 images that stand in two classes were left out" in " ".join(left.notes)


def test_copies_in_a_small_folder_to_test_on_are_found_too(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = class_folders(tmp_path / "small", {"cat": 2, "dog": 2}, first=90)
    (small / "cat" / "copy.png").write_bytes((pets / "cat" / "003.png").read_bytes())
    one = len(PictureReader().read(pets / "cat" / "000.png", "one") or "")
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "MOST_KEPT", 10 * one)  # those to test on would be kept
        left = load_images(str(pets), test_data=str(small))
    assert all(map(is_referred, (*left.train.texts, *left.test.texts)))
    assert left.notes == load_images(str(pets), test_data=str(small)).notes
    assert "1 train images that also stand in the held-out data" in " ".join(left.notes)


def test_a_store_learns_where_pictures_lie_now(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    before = referred(pets, monkeypatch)
    store.write_data(before.sha256, before.to_json())
    pets.rename(tmp_path / "moved")
    after = referred(tmp_path / "moved", monkeypatch)
    assert after.sha256 == before.sha256
    store.write_data(after.sha256, after.to_json())
    found = TaskData.read(store.data_file(after.sha256), after.sha256)
    assert len(decode_image(found.train.texts[0])) == 8


@pytest.mark.parametrize("objective", ["detection", "segmentation"])
def test_boxes_and_maps_too(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voc = voc_folder(tmp_path / "voc")
    whole = load_images(str(voc), objective=objective)
    left = referred(voc, monkeypatch, objective=objective)
    assert all(map(is_referred, left.train.texts))
    assert left.train.labels == whole.train.labels
    sizes = {text.partition(":")[0] for text in left.train.texts}
    assert sizes == {text.partition(":")[0] for text in whole.train.texts} == {"8x12x3"}


@pytest.mark.usefixtures("few")
def test_they_are_read_in_batches_as_if_they_were_kept(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = load_images(str(pets)).train.texts
    arrays = [decode_image(text) for text in left]
    expected = PROCESSING.apply(arrays)
    for most in (1 << 30, 0):
        monkeypatch.setattr("ticketry.tasks.pixels.MOST_PREPARED", most)
        assert torch.equal(Pixels(left, PROCESSING)[[3, 1, 3]], expected[[3, 1, 3]])
    decoded = Decoded(left)
    assert len(decoded) == len(left)
    assert np.array_equal(decoded[4], arrays[4])
    assert np.array_equal(np.stack(decoded[2:5]), np.stack(arrays[2:5]))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), r"000\.png cannot be read: No such file or directory\. Put"),
        (lambda file: file.write_bytes(png(pixels(2, 9))), r"000\.png is another file than when"),
    ],
)
def test_a_file_that_changed_is_said(spoil: object, message: str, pets: Path) -> None:
    file = pets / "cat" / "000.png"
    with by_reference():
        text = PictureReader().read(file, "000.png")
    assert text is not None
    spoil(file)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        decode_image(text)


def test_what_is_cut_short_is_found_when_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    file.write_bytes(cut(png(pixels(0, 0, 64))))
    reader = PictureReader()
    with by_reference():
        text = reader.read(file, "cut.png")
        assert reader.read(tmp_path / "none.png", "none.png") is None
    assert text is not None
    with pytest.raises(DataError, match=r"cut\.png is damaged or cut short .* Mend or remove"):
        decode_image(text)
    assert reader.faults == ["none.png cannot be read: No such file or directory"]


def test_a_text_that_only_looks_like_one_is_no_reference() -> None:
    for text in ("8x8x3:@abc:/etc/passwd", "3:@" + 64 * "0" + ":x", "8x8x3:" + 64 * "0"):
        assert not is_referred(text)
