"""Scenes of several objects, composed from real images: detection and segmentation data.

An object is an image of clothing, cut out along its silhouette, scaled and set into a piece of a
photograph, among scraps of another photograph that are no objects; later ones hide parts of earlier
ones. Boxes and masks are exact, because they are those of the pixels that were set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ticketry.config import derive_seed
from ticketry.metrics import METRICS
from ticketry.metrics.maps import encode_map
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.pixels import decode_image, encode_image

Pixels = NDArray[np.uint8]

SIDE = 96
SIZES = {"train": 2000, "validation": 300, "test": 600}
"""Scenes of each split."""
OBJECTS = (1, 4)
EDGES = (24, 56)
"""Shortest and longest edge of an object, in pixels."""
SCRAPS = (2, 5)
SEEN = 0.4
"""Share of an object's pixels that stays in sight, at least; it is set again elsewhere if not."""
_SILHOUETTE = 12
_TRIES = 20


@dataclass(frozen=True)
class Scene:
    """One composed image.

    Attributes:
        pixels: grey, uint8 of shape (height, width).
        boxes: class, x0, y0, x1, y1 and 0 of each object: the smallest box around what is seen.
        classes: of each pixel: 0 for none, else the object's class + 1; uint8.
    """

    pixels: Pixels
    boxes: tuple[tuple[int, float, float, float, float, int], ...]
    classes: Pixels


def silhouette(image: Pixels) -> NDArray[np.bool_]:
    """Return which pixels of an image on black are the object's, holes filled."""
    from scipy.ndimage import binary_fill_holes

    found: NDArray[np.bool_] = binary_fill_holes(image > _SILHOUETTE)
    return found


def scaled(image: Pixels, edge: int) -> Pixels:
    """Return a square image at another size, bilinearly."""
    from scipy.ndimage import zoom

    found = zoom(
        image.astype(np.float32), edge / image.shape[0], order=1, grid_mode=True, mode="nearest"
    )
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def compose(
    draw: random.Random,
    objects: Sequence[tuple[int, Pixels]],
    photographs: Sequence[Pixels],
    side: int = SIDE,
) -> Scene:
    """Compose one scene.

    Args:
        draw: decides everything.
        objects: (class, image on black) of each, in the order in which they are set.
        photographs: grey, larger than the scene; background and scraps are cut out of them.
        side: height and width of the scene.
    """
    pixels = _piece(draw, photographs, side, side).copy()
    for _ in range(draw.randint(*SCRAPS)):
        height, width = (draw.randint(side // 12, side // 4) for _ in range(2))
        top, left = draw.randrange(side - height), draw.randrange(side - width)
        pixels[top : top + height, left : left + width] = _piece(draw, photographs, height, width)
    owner = np.zeros((side, side), dtype=np.int64)
    whole: list[int] = []
    placed: list[int] = []
    for kind, image in objects:
        number = len(placed) + 1
        for _ in range(_TRIES):
            edge = draw.randint(EDGES[0], min(EDGES[1], side))
            top, left = draw.randrange(side - edge + 1), draw.randrange(side - edge + 1)
            sprite = scaled(image, edge)
            inside = silhouette(sprite)
            area = np.zeros((side, side), dtype=bool)
            area[top : top + edge, left : left + edge] = inside
            left_over = np.bincount(owner[~area], minlength=number)[1:number]
            if inside.any() and all(
                seen >= SEEN * size for seen, size in zip(left_over, whole, strict=True)
            ):
                owner[area] = number
                pixels[area] = sprite[inside]
                whole.append(int(inside.sum()))
                placed.append(kind)
                break
    boxes = []
    classes = np.zeros((side, side), dtype=np.uint8)
    for number, kind in enumerate(placed, start=1):
        mine = owner == number
        rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        boxes.append(
            (
                kind,
                float(columns[0]),
                float(rows[0]),
                float(columns[-1] + 1),
                float(rows[-1] + 1),
                0,
            )
        )
        classes[mine] = kind + 1
    return Scene(pixels, tuple(boxes), classes)


def _piece(draw: random.Random, photographs: Sequence[Pixels], height: int, width: int) -> Pixels:
    photograph = photographs[draw.randrange(len(photographs))]
    top = draw.randrange(photograph.shape[0] - height + 1)
    left = draw.randrange(photograph.shape[1] - width + 1)
    return photograph[top : top + height, left : left + width]


def scenes(
    split: Split, count: int, photographs: Sequence[Pixels], seed: int, side: int = SIDE
) -> list[Scene]:
    """Compose scenes out of one split of a task of single objects.

    Args:
        split: images and their classes.
        count: of scenes.
        photographs: see :func:`compose`.
        seed: decides them; each scene has a seed of its own.
        side: height and width.
    """
    found = []
    for number in range(count):
        draw = random.Random(derive_seed(seed, f"scene/{number}"))
        chosen = [draw.randrange(len(split)) for _ in range(draw.randint(*OBJECTS))]
        objects = [(split.labels[i], decode_image(split.texts[i])[:, :, 0]) for i in chosen]
        found.append(compose(draw, objects, photographs, side))
    return found


def photographs() -> tuple[Pixels, ...]:
    """Return the two photographs that come with scikit-learn, grey."""
    from sklearn.datasets import load_sample_images

    weights = np.array([0.299, 0.587, 0.114])
    return tuple((image @ weights).astype(np.uint8) for image in load_sample_images().images)


def load_scenes(
    name: str,
    objects: TaskData,
    *,
    masks: bool,
    split_seed: int,
    sizes: Mapping[str, int] = SIZES,
    side: int = SIDE,
) -> TaskData:
    """Compose a task of detection or segmentation out of one of single objects.

    An object of one split is in no scene of another. Both tasks of one seed have the same images.

    Args:
        name: of the task.
        objects: images on black, such as Fashion-MNIST's.
        masks: segmentation; else detection.
        split_seed: decides the scenes.
        sizes: split -> scenes.
        side: height and width of a scene.
    """
    backgrounds = photographs()
    splits = {}
    for part in ("train", "validation", "test"):
        seed = derive_seed(split_seed, f"scenes/{part}")
        made = scenes(getattr(objects, part), sizes[part], backgrounds, seed, side)
        labels: Callable[[Scene], object] = (
            (lambda s: encode_map(s.classes)) if masks else (lambda s: s.boxes)
        )
        splits[part] = Split(
            tuple(encode_image(scene.pixels) for scene in made), None, tuple(map(labels, made))
        )
    metric = "miou" if masks else "ap"
    return TaskData(
        name=name,
        source=f"scenes composed of {objects.source}, on scikit-learn's photographs",
        labels=("background", *objects.labels) if masks else objects.labels,
        metric=metric,
        margin=METRICS[metric].margin,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        notes=("scenes are composed, not photographed: boxes and masks are exact",),
        objective="segmentation" if masks else "detection",
    )
