"""SVHN's cropped digits: ``train_32x32.mat`` and ``test_32x32.mat``.

Source: Netzer et al. 2011, "Reading digits in natural images with unsupervised feature learning".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ticketry.errors import DataError
from ticketry.tasks.pixels import encode_image
from ticketry.tasks.readers.base import Examples, Found, Layout

_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
_CLASSES = 10


def _splits(folder: Path) -> list[str]:
    return [split for split, file in _FILES.items() if (folder / file).is_file()]


def _read(folder: Path, wanted: Mapping[str, str], objective: str) -> Found:
    splits = {role: _examples(folder / _FILES[own]) for role, own in wanted.items()}
    return Found(splits, tuple(str(digit) for digit in range(_CLASSES)))


def _examples(file: Path) -> Examples:
    from scipy.io import loadmat

    try:
        found = loadmat(str(file), variable_names=("X", "y"))
        pixels, numbers = found["X"], found["y"].ravel()
        whole = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[2] == 3
        if not whole or pixels.shape[3] != len(numbers):
            raise ValueError(f"X is {pixels.dtype} of shape {pixels.shape}, y {numbers.shape}")
    except Exception as error:  # scipy raises a dozen kinds
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{file} is no file of SVHN's ({line[:120]}); expected MATLAB's X, uint8 of (height, "
            "width, 3, images), and y, a number for each."
        ) from error
    if len(numbers) and not (numbers.min() >= 1 and numbers.max() <= _CLASSES):
        raise DataError(
            f"{file} has the labels {numbers.min()} to {numbers.max()}; expected SVHN's own 1 to "
            f"{_CLASSES}, where {_CLASSES} stands for the digit 0."
        )
    return Examples(
        tuple(encode_image(np.ascontiguousarray(pixels[..., i])) for i in range(len(numbers))),
        tuple(str(int(number) % _CLASSES) for number in numbers),
    )


SVHN = Layout(
    "SVHN",
    "train_32x32.mat and test_32x32.mat",
    ("image-classification",),
    lambda folder: bool(_splits(folder)),
    _splits,
    _read,
)
