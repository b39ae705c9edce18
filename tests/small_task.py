"""A small task of made-up sentences, as prepared data."""

from __future__ import annotations

import random

from ticketry.tasks.base import Split, TaskData
from tiny import sentence


def split(size: int, draw: random.Random, *, pairs: bool = False) -> Split:
    labels = tuple(i % 2 for i in range(size))
    texts = tuple(sentence(label, draw) for label in labels)
    second = tuple(sentence(label, draw) for label in labels) if pairs else None
    return Split(texts=texts, pairs=second, labels=labels)


def small_task(
    train: int = 64, validation: int = 24, test: int = 40, *, pairs: bool = False, seed: int = 0
) -> TaskData:
    """Return a task whose class is told by one or two words."""
    draw = random.Random(seed)
    return TaskData(
        name="small",
        source="made up",
        labels=("bad", "good"),
        metric="accuracy",
        margin=0.01,
        train=split(train, draw, pairs=pairs),
        validation=split(validation, draw, pairs=pairs),
        test=split(test, draw, pairs=pairs),
        notes=(),
    )
