"""Any image data as a task: folders in a known layout, or a hub data set, through one door."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ticketry.errors import DataError
from ticketry.metrics import METRICS, metrics_for
from ticketry.tasks.base import Label, Split, TaskData, identity
from ticketry.tasks.dealing import hold_out
from ticketry.tasks.pictures import TooManyPicturesError, by_reference
from ticketry.tasks.readers import Examples, Found, recognise
from ticketry.tasks.readers.base import TEST, choose_splits
from ticketry.tasks.readers.hubimages import is_hub_folder, read_hub
from ticketry.tasks.splits import check_classes

FEWEST_IMAGES = 20
_CLASSES = "image-classification"


def load_images(
    data: str,
    *,
    columns: tuple[str | None, str | None, str | None] = (None, None, None),
    objective: str = _CLASSES,
    test_data: str | None = None,
    config: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
    drop_empty: bool = False,
) -> TaskData:
    """Read a task on images from a folder or a hub data set.

    Its own splits are used; what is missing is split off, stratified, seeded, equal images on one
    side. Images that stand on both sides of the source's own splits are left out of training.

    Args:
        data: a folder in a layout of :data:`ticketry.tasks.readers.LAYOUTS`, or a hub id.
        columns: of images, none, and of classes, of a hub data set.
        objective: what is learned.
        test_data: another folder of the same classes to test on.
        config: of a hub data set that has several.
        test_split: the split that is tested on.
        seed: decides what is split off.
        drop_empty: not used: an image that cannot be read is a fault.

    Raises:
        DataError: a fault of the data, with what to do.
    """
    found, other = _sources(data, test_data, columns, objective, config, test_split)
    if other is not None:
        tested = other.get("test", other["train"])
        found = dataclasses.replace(found, splits={**found.splits, "test": tested})
    names = found.names or _names(found.splits["train"])
    given = {part: _numbered(part, e, names, objective) for part, e in found.splits.items()}
    notes = list(found.notes)
    if objective == _CLASSES:
        check_classes(given["train"].labels, names, data)
    elif len(given["train"]) < FEWEST_IMAGES:
        raise DataError(
            f"{data} has {len(given['train'])} images to train on; expected at least "
            f"{FEWEST_IMAGES}."
        )
    given, said = _without_copies(given, objective)
    whole = given.pop("train")
    groups = equal_groups(whole.texts)
    taken = hold_out(whole, given, groups, seed=seed, where=data, what="images")
    if objective == _CLASSES:
        check_classes(taken["train"].labels, names, f"the training part of {data}")
    if objective == "detection":
        _check_objects(taken, data)
    doubles = len(groups) - len(set(groups))
    if doubles and len(given) < 2:
        said.append(f"{doubles:,} equal images stay on their twin's side of the split")
    source = data if config is None else f"{data} ({config})"
    metric = metrics_for(objective)[0]
    return TaskData(
        name=Path(data).expanduser().resolve().name if Path(data).expanduser().exists() else data,
        source=source if test_data is None else f"{source}, test {test_data}",
        labels=names,
        metric=metric,
        margin=METRICS[metric].margin,
        train=taken["train"],
        validation=taken["validation"],
        test=taken["test"],
        notes=(*notes, *said),
        objective=objective,
    )


def _sources(
    data: str,
    test_data: str | None,
    columns: tuple[str | None, str | None, str | None],
    objective: str,
    config: str | None,
    test_split: str | None,
) -> tuple[Found, Mapping[str, Examples] | None]:
    """Read the data and, where they are elsewhere, those to test on: both kept or both referred.

    Else copies that stand in both would not be told.
    """

    def both() -> tuple[Found, Mapping[str, Examples] | None]:
        found = _read(data, columns, objective, config, test_split)
        if test_data is None:
            return found, None
        return found, _read(test_data, columns, objective, None, None, alone=True).splits

    with contextlib.suppress(TooManyPicturesError):
        return both()
    with by_reference():
        return both()


def _read(
    data: str,
    columns: tuple[str | None, str | None, str | None],
    objective: str,
    config: str | None,
    test_split: str | None,
    *,
    alone: bool = False,
) -> Found:
    """Read a folder or a hub data set; ``alone``: what is tested on, or all, and nothing else."""
    folder = Path(data).expanduser()
    if folder.is_file():
        raise DataError(
            f"{data} is a file; --objective {objective} expects a folder of images, or a hub data "
            "set's id."
        )
    of_hub = objective == _CLASSES and (not folder.is_dir() or is_hub_folder(folder))
    if of_hub:
        if not folder.is_dir() and (data.startswith((".", "/", "~")) or data.count("/") > 1):
            raise DataError(f"there is no folder {data!r}.")
        return read_hub(
            data, config=config, test_split=test_split, image_column=columns[0],
            label_column=columns[2],
        )  # fmt: skip
    if not folder.is_dir():
        raise DataError(f"there is no folder {data!r}; --objective {objective} expects one.")
    if config or columns != (None, None, None):
        raise DataError(
            f"{data} is a folder of files, which has neither configurations nor columns; drop "
            "--data-config, --text-column and --label-column."
        )
    layout = recognise(folder, objective)
    there = layout.splits(folder)
    if alone and (tested := [name for name in TEST if name in there]):
        wanted = {"train": tested[0]}
    else:
        wanted = choose_splits(there, test_split, data)
    return layout.read(folder, wanted, objective)


def _names(examples: Examples) -> tuple[str, ...]:
    """Return class names: numbers in numeric order, anything else in text order."""
    found = sorted(_classes(examples))
    try:
        return tuple(sorted(found, key=int))
    except ValueError:
        return tuple(found)


def _classes(examples: Examples) -> set[str]:
    if examples.labels and isinstance(examples.labels[0], str):
        return set(examples.labels)
    return {box[0] for boxes in examples.labels for box in boxes}


def _numbered(part: str, examples: Examples, names: Sequence[str], objective: str) -> Split:
    """Return examples with class numbers instead of names."""
    if objective == "segmentation":
        return Split(examples.images, None, examples.labels)
    number = {name: place for place, name in enumerate(names)}
    if strange := sorted(_classes(examples) - set(number)):
        raise DataError(
            f"the {part} images have the class {strange[0]!r}, which the training images lack; "
            f"they have {', '.join(map(repr, names[:10])) or 'none'}."
        )
    labels: list[Label] = []
    for label in examples.labels:
        boxes: Any = label
        one_class = isinstance(label, str)
        labels.append(number[label] if one_class else tuple((number[b[0]], *b[1:]) for b in boxes))
    return Split(examples.images, None, tuple(labels))


def _check_objects(splits: Mapping[str, Split], where: str) -> None:
    for part, split in splits.items():
        if not any(not box[5] for boxes in split.labels for box in boxes):
            raise DataError(
                f"the {part} part of {where} ({len(split):,} images) has no object that counts; "
                "expected at least one."
            )


def equal_groups(texts: Sequence[str]) -> list[int]:
    """Return a number for each image: that of the first that equals it."""
    first: dict[str, int] = {}
    return [first.setdefault(identity(text), index) for index, text in enumerate(texts)]


def _without_copies(given: dict[str, Split], objective: str) -> tuple[dict[str, Split], list[str]]:
    """Leave images out that stand in a later split too, or with two classes; say how many."""
    said: list[str] = []
    found = dict(given)
    seen: set[str] = set()
    for part in ("test", "validation", "train"):
        if part not in found:
            continue
        split = found[part]
        own = [identity(text) for text in split.texts]
        kept = [i for i, text in enumerate(own) if text not in seen]
        if left := len(split) - len(kept):
            said.append(
                f"{left:,} {part} images that also stand in the held-out data were left out"
            )
            found[part] = split = split.take(kept)
        seen.update(own)
    if objective == _CLASSES:
        whole = found["train"]
        classes: dict[str, set[Label]] = {}
        own = [identity(text) for text in whole.texts]
        for text, label in zip(own, whole.labels, strict=True):
            classes.setdefault(text, set()).add(label)
        kept = [i for i, text in enumerate(own) if len(classes[text]) == 1]
        if left := len(whole) - len(kept):
            said.append(f"{left:,} images that stand in two classes were left out")
            found["train"] = whole.take(kept)
    return found, said
