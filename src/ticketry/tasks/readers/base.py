"""What a reader of image data is, whatever layout it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.errors import DataError, nearest

TRAIN = ("train", "training", "trainval")
VALIDATION = ("validation", "val", "valid", "dev")
TEST = ("test", "testing")
SPLIT_NAMES = (*TRAIN, *VALIDATION, *TEST)


@dataclass(frozen=True)
class Examples:
    """Examples of one split, their classes by name.

    Attributes:
        images: as they stand in a split.
        labels: a class name each; boxes of (class name, x0, y0, x1, y1, crowd) each; or a label
            map each.
    """

    images: tuple[str, ...]
    labels: tuple[Any, ...]


@dataclass(frozen=True)
class Found:
    """What a reader found.

    Attributes:
        splits: ``train``, and perhaps ``validation`` and ``test``.
        names: of the classes, in their order; none: those of the training examples, sorted.
        notes: what was unusual, with counts.
    """

    splits: Mapping[str, Examples]
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A way in which folders hold images and what is said of them.

    Attributes:
        name: short, for people.
        what: what lies where, for messages.
        objectives: for which it holds labels.
        holds: says whether a folder is laid out so.
        splits: a folder's splits by their own names; ``train`` where it has none.
        read: (folder, ``train``, ``validation`` and ``test`` -> own name, objective) -> what was
            found.
    """

    name: str
    what: str
    objectives: tuple[str, ...]
    holds: Callable[[Path], bool]
    splits: Callable[[Path], Sequence[str]]
    read: Callable[[Path, Mapping[str, str], str], Found]


def choose_splits(there: Sequence[str], test_split: str | None, source: str) -> dict[str, str]:
    """Return which of a source's splits is trained on, validated and tested on.

    Args:
        there: its splits' own names.
        test_split: that is tested on; then a split of the name ``test`` is left alone.
        source: for messages.

    Returns:
        ``train``, and ``validation`` and ``test`` where there are such -> the own name.

    Raises:
        DataError: there is nothing to train on, or not the split that was named.
    """
    shown = ", ".join(map(repr, there)) or "none"
    found = {
        role: next(name for name in names if name in there)
        for role, names in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
        if any(name in there for name in names)
    }
    if "train" not in found:
        raise DataError(f"{source} has the splits {shown}; expected 'train' among them.")
    if test_split is None:
        return found
    if test_split not in there:
        close = nearest(test_split, there)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise DataError(
            f"{source} has the splits {shown}; expected {test_split!r} among them.{hint}"
        )
    if test_split == found["train"]:
        raise DataError(f"--test-split is {test_split!r}, which is trained on; name another split.")
    if found.get("validation") == test_split:
        del found["validation"]  # a part of train is split off for it
    return {**found, "test": test_split}
