"""Small tables of made-up sentences with numbers and with sets of labels."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

from tiny import BAD, FILLER, GOOD


def write(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def rated(path: Path, rows: int = 120) -> Path:
    """Sentences rated by their good words less their bad ones, with some noise."""
    draw = random.Random(0)
    found: dict[str, float] = {}
    while len(found) < rows:
        words = [*draw.choices(FILLER, k=4), *draw.choices(GOOD + BAD, k=3)]
        rating = sum((w in GOOD) - (w in BAD) for w in words) + draw.uniform(-0.3, 0.3)
        found[" ".join(draw.sample(words, len(words)))] = round(rating, 3)
    return write(path, ["text", "stars"], [[t, r] for t, r in found.items()])


def tagged(path: Path, rows: int = 120) -> Path:
    """Sentences tagged good, bad, both or neither; the same in two columns."""
    draw = random.Random(1)
    found: dict[str, list[Any]] = {}
    while len(found) < rows:
        good, bad = draw.random() < 0.5, draw.random() < 0.5
        words = draw.choices(FILLER, k=4) + [GOOD[0]] * 3 * good + [BAD[0]] * 3 * bad
        tags = ";".join(["good"] * good + ["bad"] * bad)
        found[" ".join(draw.sample(words, len(words)))] = [tags, int(good), int(bad)]
    return write(path, ["text", "tags", "good", "bad"], [[t, *v] for t, v in found.items()])
