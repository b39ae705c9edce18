"""Small image data sets in the layouts that are read, and pictures of every odd kind."""

from __future__ import annotations

import io
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
