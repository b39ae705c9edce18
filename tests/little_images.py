"""Small image data sets in the layouts that are read, and pictures of every odd kind."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(kind: int, number: int, side: int = 8) -> np.ndarray:
    """Return a picture of its own for each kind and number, uint8 (side, side, 3)."""
    draw = np.random.default_rng([kind, number])
    found = draw.integers(0, 40, (side, side, 3), dtype=np.uint8)
    found[..., kind % 3] += 180
    return found


def png(array: np.ndarray, **options: Any) -> bytes:
    return saved(Image.fromarray(array), "PNG", **options)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def class_folders(folder: Path, classes: Mapping[str, int], side: int = 8, first: int = 0) -> Path:
    """Write so many pictures of each class."""
    for kind, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            (folder / name / f"{number:03}.png").write_bytes(png(pixels(kind, number, side)))
    return folder


def odd_pictures() -> dict[str, bytes]:
    """Return pictures that can be read, by what is odd about them."""
    grey = Image.fromarray(np.full((8, 8), 100, dtype=np.uint8))
    colours = Image.fromarray(pixels(1, 999))
    palette = colours.quantize(8)
    return {
        "grey": saved(grey, "PNG"),
        "palette": saved(palette, "PNG"),
        "palette, transparent": saved(palette, "PNG", transparency=0),
        "transparent": saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"),
        "opaque": saved(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), "PNG"),
        "16 bits": saved(Image.fromarray(np.full((8, 8), 0x64FF, dtype=np.uint16)), "PNG"),
        "CMYK": saved(colours.convert("CMYK"), "JPEG"),
        "black and white": saved(grey.convert("1"), "PNG"),
        "moving": saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
    }


def cut(data: bytes) -> bytes:
    """Return a file without its second half."""
    return data[: len(data) // 2]


def shuffled(rows: list[Any], seed: int = 0) -> list[Any]:
    found = list(rows)
    random.Random(seed).shuffle(found)
    return found


def voc_xml(size: tuple[int, int], objects: list[tuple[Any, ...]]) -> str:
    """Return an annotation: (name, xmin, ymin, xmax, ymax, difficult) of each object."""
    things = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1, difficult in objects
    )
    width, height = size
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size>{things}"
        "</annotation>"
    )


def voc_folder(folder: Path, count: int = 30) -> Path:
    """Write pictures of 12 × 8 with a cat in each, a dog in every other, and their masks."""
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main",
                 "ImageSets/Segmentation"):  # fmt: skip
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{number:04}" for number in range(count)]
    for number, name in enumerate(names):
        picture = pixels(number % 3, number, 12)[:8]
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(saved(Image.fromarray(picture), "JPEG"))
        objects = [("cat", 1, 1, 4, 8, 0)]
        if number % 2:
            objects.append(("dog", 6, 2, 12, 8, number % 4 // 2))
        (folder / "Annotations" / f"{name}.xml").write_text(voc_xml((12, 8), objects))
        classes = np.zeros((8, 12), dtype=np.uint8)
        classes[:, :4] = 8
        classes[1:, 5:] = 12
        classes[0] = 255
        mask = Image.fromarray(classes, "L").convert("P")
        mask.putdata(classes.ravel().tolist())
        (folder / "SegmentationClass" / f"{name}.png").write_bytes(saved(mask, "PNG"))
    for kind in ("Main", "Segmentation"):
        for split, part in (("train", names[:-10]), ("val", names[-10:-4]), ("test", names[-4:])):
            (folder / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(part) + "\n")
    (folder / "ImageSets" / "Main" / "cat_train.txt").write_text("0000  1\n")
    return folder


def coco_content(first: int, count: int) -> dict[str, Any]:
    """Return a file of COCO's, its categories numbered 3 and 7."""
    numbers = range(first, first + count)
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 12, "height": 8}
            for number in numbers
        ],
        "annotations": [
            {"id": 100 + number, "image_id": number, "category_id": 7 if number % 2 else 3,
             "bbox": [1, 2, 4.5, 5], "iscrowd": int(number % 5 == 4), "area": 22.5}
            for number in numbers
        ],
        "categories": [{"id": 3, "name": "zebra"}, {"id": 7, "name": "ant"},
                       {"id": 9, "name": "never seen"}],
    }  # fmt: skip


def coco_folder(folder: Path) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for split, first, count in (("train2017", 0, 30), ("val2017", 30, 6)):
        (folder / split).mkdir()
        for number in range(first, first + count):
            picture = Image.fromarray(pixels(number % 3, number, 12)[:8])
            (folder / split / f"{number}.jpg").write_bytes(saved(picture, "JPEG"))
        content = json.dumps(coco_content(first, count))
        (folder / "annotations" / f"instances_{split}.json").write_text(content)
    return folder
