"""The handwritten digits that come with scikit-learn: real images, nothing to download."""

from __future__ import annotations

import numpy as np

from ticketry.metrics import METRICS
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.pixels import encode_image
from ticketry.tasks.splits import sizes_for, split_groups

SCALE = 15
"""Grey values are 0 to 16; 255 is the highest that a pixel holds."""


def load_digits(*, split_seed: int) -> TaskData:
    """Read the 1,797 digits of 8 × 8 pixels, ten classes.

    Args:
        split_seed: decides the splits; equal images stay together.

    Source: Alpaydin & Kaynak 1998, the test part of the UCI "Optical Recognition of Handwritten
        Digits", as scikit-learn carries it.
    """
    from sklearn.datasets import load_digits as load

    found = load()
    pixels = np.minimum(found.images * SCALE, 255).astype(np.uint8)
    texts = tuple(encode_image(image) for image in pixels)
    labels = tuple(int(label) for label in found.target)
    first: dict[str, int] = {}
    groups = [first.setdefault(text, index) for index, text in enumerate(texts)]
    sizes = sizes_for(len(labels), with_test=True)
    parts = split_groups(list(labels), groups, seed=split_seed, sizes=sizes)
    whole = Split(texts, None, labels)
    return TaskData(
        name="digits",
        source="scikit-learn, load_digits",
        labels=tuple(str(name) for name in found.target_names),
        metric="accuracy",
        margin=METRICS["accuracy"].margin,
        train=whole.take(parts["train"]),
        validation=whole.take(parts["validation"]),
        test=whole.take(parts["test"]),
        notes=(f"{len(groups) - len(set(groups)):,} equal images stay on one side of the split",),
        objective="image-classification",
    )
