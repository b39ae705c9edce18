"""VisDA-2017: a folder for each split, with ``image_list.txt``: a path and a class number a line.

Source: Peng et al. 2017 (arXiv 1710.06924), the classification challenge.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ticketry.errors import DataError
from ticketry.tasks.pictures import SHORT, PictureReader, refuse_all
from ticketry.tasks.readers.base import SPLIT_NAMES, Examples, Found, Layout
from ticketry.tasks.tables import decode_file

LIST = "image_list.txt"


def _splits(folder: Path) -> list[str]:
    return [name for name in SPLIT_NAMES if (folder / name / LIST).is_file()]


def _read(folder: Path, wanted: Mapping[str, str], objective: str) -> Found:
    rows = {role: _rows(folder / own) for role, own in wanted.items()}
    names = _names(rows["train"], folder / wanted["train"] / LIST)
    reader = PictureReader(SHORT)
    splits = {}
    for role, own in wanted.items():
        images, labels = [], []
        for line, path, number in rows[role]:
            where = f"{own}/{LIST}, line {line}"
            first = path.partition("/")[0]
            if number not in names or (first in names.values() and names[number] != first):
                said = f"{names[number]!r}" if number in names else "no class of the training data"
                raise DataError(f"{folder}/{where}: {path} has the number {number}, {said}.")
            image = reader.read(folder / own / path, f"{own}/{path}")
            if image is not None:
                images.append(image)
                labels.append(names[number])
        splits[role] = Examples(tuple(images), tuple(labels))
    reader.refuse_faults(str(folder))
    return Found(splits, tuple(names[number] for number in sorted(names)), tuple(reader.notes()))


def _rows(folder: Path) -> list[tuple[int, str, int]]:
    """Return (line, path, number) of a list."""
    found, faults = [], []
    for line, text in enumerate(decode_file(folder / LIST).splitlines(), start=1):
        if not text.strip():
            continue
        path, _, number = text.strip().rpartition(" ")
        parts = Path(path).parts
        if not path or not number.isdecimal():
            faults.append(f"line {line} is {text[:40]!r}, not a path and a number")
        elif Path(path).is_absolute() or ".." in parts:
            faults.append(f"line {line} names {path[:60]!r}, which lies outside the folder")
        else:
            found.append((line, path.strip(), int(number)))
    refuse_all(faults, str(folder / LIST), "line", "Expected lines such as 'car/one.png 3'.")
    if not found:
        raise DataError(f"{folder / LIST} names no pictures; expected lines: 'car/one.png 3'.")
    return found


def _names(rows: list[tuple[int, str, int]], where: Path) -> dict[int, str]:
    """Return number -> class, which is the folder that a number's pictures lie in."""
    names: dict[int, str] = {}
    for line, path, number in rows:
        name = path.partition("/")[0]
        if names.setdefault(number, name) != name:
            raise DataError(
                f"{where}, line {line}: {path} has the number {number}, which stands for "
                f"{names[number]!r} further up; expected one number a folder."
            )
    numbers = sorted(names)
    if numbers != list(range(len(numbers))):
        raise DataError(
            f"{where}: class numbers are {numbers[0]} to {numbers[-1]}, {len(numbers)} different "
            f"ones; expected 0 to {len(numbers) - 1} (classes count from 0)."
        )
    return names


VISDA = Layout(
    "VisDA",
    f"train/{LIST} of lines 'CLASS/PICTURE NUMBER', and the same in validation and test",
    ("image-classification",),
    lambda folder: bool(_splits(folder)),
    _splits,
    _read,
)
