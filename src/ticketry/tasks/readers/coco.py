"""COCO's layout: one JSON file of boxes for each split.

Source: Lin et al. 2014 (arXiv 1405.0312).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ticketry.errors import DataError
from ticketry.tasks.pictures import refuse_all
from ticketry.tasks.readers.base import SPLIT_NAMES, Examples, Found, Layout
from ticketry.tasks.readers.boxes import CROWD, BoxReader, NamedBox
from ticketry.tasks.tables import decode_file

_FAR = 1e9
"""Pixels; what is farther away is no number of a box."""
_BESIDE = "_annotations.coco.json"
_SPLIT = re.compile(r"(?:instances_)?([a-z]+)\d*")


def _files(folder: Path) -> dict[str, Path]:
    """Return split -> its JSON file."""
    found: dict[str, Path] = {}
    for file in sorted((folder / "annotations").glob("*.json")):
        match = _SPLIT.fullmatch(file.stem)
        if match and match[1] in SPLIT_NAMES:
            if match[1] in found:
                raise DataError(
                    f"{folder} has {found[match[1]].name} and {file.name}, both of the split "
                    f"{match[1]!r}; expected one. Move the other away."
                )
            found[match[1]] = file
    for name in SPLIT_NAMES:
        if name not in found and (folder / name / _BESIDE).is_file():
            found[name] = folder / name / _BESIDE
    return found


def _pictures(folder: Path, file: Path, split: str) -> Path:
    """Return the folder of a split's pictures."""
    if file.name == _BESIDE:
        return file.parent
    own = file.stem.removeprefix("instances_")
    places = [folder / own, folder / "images" / own, folder / split, folder / "images" / split]
    return next((place for place in places if place.is_dir()), folder / "images")


def _read(folder: Path, wanted: Mapping[str, str], objective: str) -> Found:
    files = _files(folder)
    reader = BoxReader()
    splits = {}
    names: tuple[str, ...] = ()
    for role, own in wanted.items():
        content = _content(files[own])
        categories = _categories(content["categories"], files[own])
        splits[role] = _examples(content, categories, _pictures(folder, files[own], own), reader)
        if role == "train":
            there = {box[0] for boxes in splits[role].labels for box in boxes}
            names = tuple(name for _, name in sorted(categories.items()) if name in there)
    reader.refuse_faults(str(folder))
    return Found(splits, names, tuple(reader.notes()))


def _content(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(decode_file(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}.") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) and all(isinstance(row, dict) for row in content[part])
        for part in parts
    ):
        raise DataError(f"{file} is not in COCO's layout; expected lists of {', '.join(parts)}.")
    faults = [
        f"{part} have the id {shown!r:.40} {count} times"
        for part in parts
        for shown, count in Counter(repr(row.get("id")) for row in content[part]).items()
        if count > 1
    ]
    refuse_all(faults, str(file), "id", "Expected each id once among its kind.")
    return content


def _categories(rows: Sequence[Mapping[str, Any]], file: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if not isinstance(number, int) or not isinstance(name, str) or name in found.values():
            raise DataError(
                f"{file} has the category {dict(row)!r:.100}; expected a whole number as id, and a "
                "name that no other has."
            )
        found[number] = name
    return found


def _examples(
    content: Mapping[str, list[dict[str, Any]]],
    categories: Mapping[int, str],
    pictures: Path,
    reader: BoxReader,
) -> Examples:
    known = {row.get("id") for row in content["images"] if isinstance(row.get("id"), int | str)}
    boxes: dict[Any, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        where = f"annotation {row.get('id')!r:.40}"
        if not _named(row, "category_id", categories):
            ids = ", ".join(map(str, sorted(categories)[:10]))
            reader.faults.append(
                f"{where} has the category {row.get('category_id')!r:.40}; the file's are {ids}"
            )
        elif not _named(row, "image_id", known):
            reader.faults.append(f"{where} is of the image {row.get('image_id')!r:.40}, not there")
        else:
            boxes.setdefault(row["image_id"], []).append(row)
    images, labels = [], []
    for row in content["images"]:
        file_name = row.get("file_name")
        where = f"image {row.get('id')!r:.40}"
        if not isinstance(file_name, str) or not _inside(file_name):
            reader.faults.append(f"{where} has the file {file_name!r:.60}, which is no path inside")
            continue
        image = reader.image(
            pictures / file_name, f"{where} ({file_name})", (row.get("width"), row.get("height"))
        )
        if image is not None:
            images.append(image)
            found = [_box(own, categories, image, reader) for own in boxes.get(row.get("id"), [])]
            labels.append(tuple(box for box in found if box is not None))
    return Examples(tuple(images), tuple(labels))


def _named(row: Mapping[str, Any], key: str, among: Any) -> bool:
    value = row.get(key)
    return isinstance(value, int | str) and value in among


def _inside(name: str) -> bool:
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _box(
    row: Mapping[str, Any], categories: Mapping[int, str], image: str, reader: BoxReader
) -> NamedBox | None:
    where, box = f"annotation {row.get('id')!r:.40}", row.get("bbox")
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, int | float) and abs(value) < _FAR for value in box)
    ):
        reader.faults.append(f"{where} has the bbox {box!r:.60}; expected x, y, width, height")
        return None
    x, y, width, height = map(float, box)
    mark = CROWD if row.get("iscrowd") else 0
    return reader.box(
        categories[row["category_id"]], (x, y, x + width, y + height), mark, image, where
    )


COCO = Layout(
    "COCO",
    f"annotations/instances_train2017.json with pictures in train2017 or images/train2017, or "
    f"train/{_BESIDE} with pictures beside it; the same of val and test",
    ("detection",),
    lambda folder: bool(_files(folder)),
    lambda folder: list(_files(folder)),
    _read,
)
