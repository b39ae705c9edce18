"""PASCAL VOC's layout: boxes in XML, or classes of pixels as pictures with a palette.

Source: Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) challenge", IJCV 88.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ticketry.errors import DataError
from ticketry.metrics.maps import VOID, encode_map
from ticketry.tasks.pictures import SUFFIXES, open_map, refuse_all
from ticketry.tasks.readers.base import SPLIT_NAMES, Examples, Found, Layout
from ticketry.tasks.readers.boxes import DIFFICULT, BoxReader, NamedBox, size_of
from ticketry.tasks.tables import decode_file

PICTURES, BOXES, MASKS, LISTS = "JPEGImages", "Annotations", "SegmentationClass", "ImageSets"
NAMES_FILE = "labels.txt"
NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_MOST_BYTES = 1 << 20


Named = tuple[Path, str]
"""A year's folder, and the name of a picture in it."""


def _places(folder: Path, labels: str) -> list[Path]:
    """Return the folders that hold pictures and labels: this one, or one for each year."""
    years = [folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*"))]
    return [place for place in years if (place / PICTURES).is_dir() and (place / labels).is_dir()]


def _all_lists(folder: Path, labels: str) -> dict[str, list[Named]]:
    """Return split -> its pictures, of one year or of several together.

    Several years are read as detectors are usually compared on 2007 and 2012: everything but the
    tests' pictures is ``trainval``.

    Raises:
        DataError: several years of masks, whose pictures are the same ones in part.
    """
    places = _places(folder, labels)
    if len(places) == 1:
        lists = _lists(places[0], labels)
        return {split: [(places[0], name) for name in names] for split, names in lists.items()}
    if labels == MASKS:
        raise DataError(
            f"{folder} holds several years of VOC ({', '.join(p.name for p in places)}); name one "
            "of these folders, and another with --test-data."
        )
    found: dict[str, list[Named]] = {"trainval": [], "test": []}
    for place in places:
        lists = _lists(place, labels)
        learnt = lists.get("trainval") or [*lists.get("train", ()), *lists.get("val", ())]
        found["trainval"] += [(place, name) for name in learnt]
        found["test"] += [(place, name) for name in lists.get("test", ())]
    return {split: pictures for split, pictures in found.items() if pictures}


def _suffix(labels: str) -> str:
    return ".xml" if labels == BOXES else ".png"


def _lists(place: Path, labels: str) -> dict[str, list[str]]:
    """Return split -> names of its pictures; those without any labels are left out."""
    folder = place / LISTS / ("Main" if labels == BOXES else "Segmentation")
    suffix = _suffix(labels)
    found: dict[str, list[str]] = {}
    for split in SPLIT_NAMES:
        file = folder / f"{split}.txt"
        if file.is_file():
            names = _names_in(file)
            if any((place / labels / f"{name}{suffix}").is_file() for name in names):
                found[split] = names
    return found or {"train": sorted(p.stem for p in (place / labels).glob(f"*{suffix}"))}


def _names_in(file: Path) -> list[str]:
    names = [line.split()[0] for line in decode_file(file).splitlines() if line.strip()]
    faults = [f"{name[:60]!r} is a path" for name in names if Path(name).name != name]
    faults += [f"{n[:60]!r} stands there {c} times" for n, c in Counter(names).items() if c > 1]
    refuse_all(faults, str(file), "line", "Expected the name of a picture, once each.")
    return names


def _picture(place: Path, name: str) -> Path | None:
    files = (place / PICTURES / f"{name}{suffix}" for suffix in (".jpg", *SUFFIXES))
    return next((file for file in files if file.is_file()), None)


def _read(folder: Path, wanted: Mapping[str, str], objective: str) -> Found:
    return _read_boxes(folder, wanted) if objective == "detection" else _read_masks(folder, wanted)


# --- boxes ------------------------------------------------------------------------------------


def _read_boxes(folder: Path, wanted: Mapping[str, str]) -> Found:
    lists = _all_lists(folder, BOXES)
    reader = BoxReader()
    splits = {}
    for role, own in wanted.items():
        images, labels = [], []
        for place, name in lists[own]:
            file = place / BOXES / f"{name}.xml"
            try:
                tree = parse_xml(file)
                size = tree.find("size")
                said = [_whole(size, side) for side in ("width", "height")]
                image = reader.image(_picture(place, name), name, (said[0], said[1]))
                if image is not None:
                    images.append(image)
                    labels.append(tuple(_objects(tree, reader, image, name)))
            except ValueError as error:
                reader.faults.append(f"{BOXES}/{name}.xml {error}")
        splits[role] = Examples(tuple(images), tuple(labels))
    reader.refuse_faults(str(folder))
    return Found(splits, notes=tuple(reader.notes()))


def parse_xml(file: Path) -> ET.Element:
    """Read an XML file that defines nothing of its own, so that nothing in it can be expanded.

    Raises:
        ValueError: it is none, too large, or defines entities; a clause that follows its name.
    """
    if not file.is_file():
        raise ValueError("is missing")
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"has {file.stat().st_size:,} bytes; expected at most {_MOST_BYTES:,}")
    text = decode_file(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("defines a document type or entities, which VOC's files do not")
    try:
        return ET.fromstring(text)
    except (ET.ParseError, ValueError, RecursionError) as error:
        raise ValueError(f"is not XML ({error})") from error


def _objects(tree: ET.Element, reader: BoxReader, image: str, where: str) -> list[NamedBox]:
    found = []
    for number, thing in enumerate(tree.findall("object"), start=1):
        what = f"{where}, object {number}"
        name = (thing.findtext("name") or "").strip()
        edges = thing.find("bndbox")
        texts = [
            None if edges is None else edges.findtext(e) for e in ("xmin", "ymin", "xmax", "ymax")
        ]
        try:
            low_x, low_y, high_x, high_y = (float(text or "") for text in texts)
        except ValueError:
            raise ValueError(
                f"has an object {number} whose bndbox is {texts}; expected four numbers"
            ) from None
        if not name:
            raise ValueError(f"has an object {number} without a name")
        difficult = DIFFICULT if (thing.findtext("difficult") or "").strip() == "1" else 0
        # VOC counts pixels from 1, and the last one is inside.
        corners = (low_x - 1, low_y - 1, high_x, high_y)
        box = reader.box(name, corners, difficult, image, what)
        if box is not None:
            found.append(box)
    return found


def _whole(size: ET.Element | None, side: str) -> int | None:
    text = "" if size is None else (size.findtext(side) or "").strip()
    return int(text) if text.isdecimal() else None


# --- classes of pixels --------------------------------------------------------------------------


def _read_masks(folder: Path, wanted: Mapping[str, str]) -> Found:
    lists = _all_lists(folder, MASKS)
    own_names = _places(folder, MASKS)[0] / NAMES_FILE
    names: tuple[str, ...] = NAMES
    source = "VOC"
    if own_names.is_file():
        lines = [line.strip() for line in decode_file(own_names).splitlines()]
        names, source = tuple(line for line in lines if line), NAMES_FILE
    reader = BoxReader()
    splits = {}
    for role, own in wanted.items():
        images, labels = [], []
        for place, name in lists[own]:
            file = place / MASKS / f"{name}.png"
            image = reader.image(_picture(place, name), name, (None, None))
            try:
                if not file.is_file():
                    raise ValueError("is missing")
                classes = open_map(file.read_bytes())
                if image is None:
                    continue
                width, height = size_of(image)
                if classes.shape != (height, width):
                    raise ValueError(
                        f"has {classes.shape[1]} × {classes.shape[0]} pixels, its picture "
                        f"{width} × {height}"
                    )
                highest = int(classes[classes != VOID].max(initial=0))
                if highest >= len(names):
                    raise ValueError(
                        f"has the class {highest}; expected 0 to {len(names) - 1}, or {VOID} where "
                        f"nothing is asked: {source} has {len(names)} names, and classes count "
                        "from 0"
                    )
                images.append(image)
                labels.append(encode_map(classes))
            except ValueError as error:
                reader.faults.append(f"{MASKS}/{name}.png {error}")
        splits[role] = Examples(tuple(images), tuple(labels))
    reader.refuse_faults(str(folder))
    return Found(splits, names, tuple(reader.notes()))


def _layout(labels: str, objective: str, what: str) -> Layout:
    return Layout(
        "VOC",
        what,
        (objective,),
        lambda folder: bool(_places(folder, labels)),
        lambda folder: list(_all_lists(folder, labels)),
        _read,
    )


VOC_BOXES = _layout(
    BOXES, "detection",
    f"{PICTURES}/NAME.jpg, {BOXES}/NAME.xml, and perhaps {LISTS}/Main/train.txt, val.txt, test.txt",
)  # fmt: skip
VOC_MASKS = _layout(
    MASKS, "segmentation",
    f"{PICTURES}/NAME.jpg, {MASKS}/NAME.png, and perhaps {LISTS}/Segmentation/train.txt, val.txt",
)  # fmt: skip
