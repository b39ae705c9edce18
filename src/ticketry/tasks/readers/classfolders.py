"""Class folders: ``FOLDER/CLASS/…`` or ``FOLDER/SPLIT/CLASS/…``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ticketry.errors import DataError
from ticketry.tasks.pictures import SHORT, SUFFIXES, PictureReader, refuse_all
from ticketry.tasks.readers.base import SPLIT_NAMES, Examples, Found, Layout

_NO_CLASSES = {"__MACOSX"}
_NO_PICTURES = {"Thumbs.db", "desktop.ini"}


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, hidden ones left out."""
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(p for p in found if p.name not in _NO_CLASSES)


def _holds(folder: Path) -> bool:
    return bool(folders_in(folder))


def _splits(folder: Path) -> list[str]:
    names = [path.name for path in folders_in(folder)]
    splits = [name for name in names if name in SPLIT_NAMES]
    if not splits:
        return ["train"]
    if others := [name for name in names if name not in SPLIT_NAMES]:
        raise DataError(
            f"{folder} holds the splits {', '.join(map(repr, splits))} and also "
            f"{', '.join(map(repr, others[:5]))}; expected either classes or splits of classes."
        )
    return splits


def _read(folder: Path, wanted: Mapping[str, str], objective: str) -> Found:
    whole = not any(path.name in SPLIT_NAMES for path in folders_in(folder))
    reader = PictureReader(SHORT)
    strangers: list[str] = []
    splits = {}
    for role, own in wanted.items():
        images, labels = [], []
        for name, file in _files(folder if whole else folder / own):
            where = file.relative_to(folder).as_posix()
            if file.suffix.lower() not in SUFFIXES:
                strangers.append(where)
            elif (image := reader.read(file, where)) is not None:
                images.append(image)
                labels.append(name)
        splits[role] = Examples(tuple(images), tuple(labels))
    refuse_all(
        [f"{name} is no picture by its name" for name in strangers],
        str(folder), "file",
        f"Move them away; pictures end in {', '.join(SUFFIXES)}.",
    )  # fmt: skip
    reader.refuse_faults(str(folder))
    return Found(splits, notes=tuple(reader.notes()))


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return (class, file) of a folder of classes, by name."""
    classes = folders_in(folder)
    if not classes:
        raise DataError(
            f"{folder} holds no class folders; expected {folder.name}/CLASS/PICTURE, a folder for "
            "each class."
        )
    found: list[tuple[str, Path]] = []
    empty = []
    for path in classes:
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not file.name.startswith(".") and file.name not in _NO_PICTURES
        ]
        found += [(path.name, file) for file in files]
        if not files:
            empty.append(repr(path.name))
    if empty:
        raise DataError(
            f"{folder} has {len(empty)} class folder{'s' if len(empty) > 1 else ''} without a "
            f"file: {', '.join(empty[:5])}; fill or remove them."
        )
    return found


CLASS_FOLDERS = Layout(
    "class folders",
    "CLASS/PICTURE, or the same in folders train, validation and test",
    ("image-classification",),
    _holds,
    _splits,
    _read,
)
