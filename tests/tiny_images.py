"""A small task of made-up images: stripes that lie or stand."""

from __future__ import annotations

import random

import numpy as np

from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.pixels import encode_image


def stripes(size: int, seed: int = 0) -> Split:
    """Images of 8 × 8 whose stripes lie down (0) or stand (1), with noise."""
    draw = random.Random(seed)
    texts = []
    for index in range(size):
        image = np.full((8, 8), 40, dtype=np.uint8)
        image[draw.randrange(2) :: 2] = 220
        image = image.T if index % 2 else image
        noise = np.array([[draw.randrange(30) for _ in range(8)] for _ in range(8)], np.uint8)
        texts.append(encode_image(image + noise))
    return Split(tuple(texts), None, tuple(i % 2 for i in range(size)))


def image_task(size: int = 64) -> TaskData:
    return TaskData(
        "stripes",
        "made up",
        ("lying", "standing"),
        "accuracy",
        0.01,
        stripes(size, 0),
        stripes(16, 1),
        stripes(16, 2),
        objective="image-classification",
    )
