"""CIFAR-10 and CIFAR-100 in their binary version; the Python version is pickles, and is refused.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ticketry.errors import DataError
from ticketry.tasks.pixels import encode_image
from ticketry.tasks.readers.base import Examples, Found, Layout
from ticketry.tasks.tables import decode_file

_SIDE, _CHANNELS = 32, 3
_PIXELS = _SIDE * _SIDE * _CHANNELS


@dataclass(frozen=True)
class _Version:
    """One of the two sets.

    Attributes:
        inner: the folder in its archive.
        classes: the file of class names.
        numbers: bytes before the pixels; the last is the class.
        files: split -> pattern of its files.
    """

    inner: str
    classes: str
    numbers: int
    files: Mapping[str, str]


_VERSIONS = (
    _Version(
        "cifar-10-batches-bin",
        "batches.meta.txt",
        1,
        {"train": "data_batch_[1-5].bin", "test": "test_batch.bin"},
    ),
    _Version(
        "cifar-100-binary",
        "fine_label_names.txt",
        2,
        {"train": "train.bin", "test": "test.bin"},
    ),
)
_PICKLES = (
    ("cifar-10-batches-py", "data_batch_1", "batches.meta", "cifar-10-binary.tar.gz",
     "uoft-cs/cifar10"),
    ("cifar-100-python", "train", "meta", "cifar-100-binary.tar.gz", "uoft-cs/cifar100"),
)  # fmt: skip


def _version(folder: Path) -> tuple[_Version, Path] | None:
    for version in _VERSIONS:
        for place in (folder, folder / version.inner):
            if (place / version.classes).is_file() and list(place.glob(version.files["train"])):
                return version, place
    return None


def _pickled(folder: Path) -> tuple[str, str] | None:
    """Return the archive and the hub id to take instead, where a folder holds pickles."""
    for inner, batch, meta, archive, hub in _PICKLES:
        for place in (folder, folder / inner):
            if (place / batch).is_file() and (place / meta).is_file():
                return archive, hub
    return None


def _splits(folder: Path) -> list[str]:
    if pickled := _pickled(folder):
        raise DataError(
            f"{folder} holds CIFAR's Python version, which is pickles: reading them could run "
            f"code, so nothing was opened. Take the binary version ({pickled[0]}) from the same "
            f"page, or the hub's copy: --data {pickled[1]} --objective image-classification."
        )
    found = _version(folder)
    assert found is not None
    version, place = found
    return [split for split, files in version.files.items() if list(place.glob(files))]


def _read(folder: Path, wanted: Mapping[str, str], objective: str) -> Found:
    found = _version(folder)
    assert found is not None
    version, place = found
    names = tuple(name for name in decode_file(place / version.classes).split("\n") if name.strip())
    splits = {}
    for role, own in wanted.items():
        images: list[str] = []
        labels: list[str] = []
        for file in sorted(place.glob(version.files[own])):
            rows = _rows(file, version.numbers)
            classes = rows[:, version.numbers - 1]
            if len(classes) and classes.max() >= len(names):
                raise DataError(
                    f"{file} has the class {classes.max()}; expected 0 to {len(names) - 1}, as "
                    f"{version.classes} has {len(names)} names."
                )
            pixels = rows[:, version.numbers :].reshape(-1, _CHANNELS, _SIDE, _SIDE)
            images += [encode_image(image) for image in pixels.transpose(0, 2, 3, 1)]
            labels += [names[number] for number in classes]
        splits[role] = Examples(tuple(images), tuple(labels))
    return Found(splits, names)


def _rows(file: Path, numbers: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    data = file.read_bytes()
    width = numbers + _PIXELS
    if len(data) % width or not data:
        raise DataError(
            f"{file} has {len(data):,} bytes; expected a multiple of {width:,}: {numbers} for the "
            f"class and {_PIXELS:,} pixels an image. It is cut short or no file of CIFAR's."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)


CIFAR = Layout(
    "CIFAR",
    "data_batch_1.bin … and batches.meta.txt, or train.bin and fine_label_names.txt",
    ("image-classification",),
    lambda folder: _version(folder) is not None or _pickled(folder) is not None,
    _splits,
    _read,
)
