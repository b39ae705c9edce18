"""Text for masked language modelling that the vocabulary of tests/tiny.py covers."""

from __future__ import annotations

import random
from pathlib import Path

from tiny import BAD, FILLER, GOOD

WORDS = [*GOOD, *BAD, *FILLER]


def documents(count: int, seed: int = 0) -> list[str]:
    """Return distinct documents of three words each, so that a hidden one is told by the rest."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        topic = draw.sample(WORDS, 3)
        found[" ".join(draw.choices(topic, k=draw.randint(10, 24)))] = None
    return list(found)


def documents_file(path: Path, count: int = 120) -> Path:
    """Write documents, each on a line of its own."""
    path.write_text("\n".join(documents(count)) + "\n", encoding="utf-8")
    return path
