"""The README's tables of studies say what their records say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SIGNS = {"yes": "yes", "no": "no", "inconclusive": "open"}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "B-F11": {
        "IMP": {"arm": "imp", "control": None},
        "one-shot on θ0": {"arm": "oneshot-theta0", "control": None},
        "random-layerwise": {"arm": "imp", "control": "random-layerwise"},
    },
    "B-F2": {
        source: {"arm": "imp", "control": None, "source": source}
        for source in ("movies", "amazon", "tweets", "bbc", "mlm")
    },
    "C-decay": {
        "task ticket": {"arm": "task", "control": None},
        "pre-training's own ticket": {"arm": "own", "control": None},
        "one-shot on θ0": {"arm": "oneshot", "control": None},
        "random-layerwise": {"arm": "task", "control": "random-layerwise"},
        "random": {"arm": "task", "control": "random"},
        "task ticket on fresh weights": {"arm": "task", "control": "reinit"},
    },
}
"""Study -> a row's name in its table -> its cells."""
SPARSITY = {"B-F11": 0.5, "B-F2": 0.5, "C-decay": 0.9648}

IMAGES = {
    "task ticket": ("task", None),
    "pre-training's own ticket": ("own-{}", None),
    "one-shot on θ0": ("oneshot-{}", None),
    "random-layerwise": ("task", "random-layerwise"),
}
"""A mask's name in the table of image models -> its arm, by source, and control."""


def table_of(study: str) -> list[list[str]]:
    """Return the rows of a study's table in the README, the head first."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- {study}: begin -->\n(.*)<!-- {study}: end -->", text, re.DOTALL)
    assert block is not None
    head, _, *rows = (line.strip("| ").split(" | ") for line in block[1].splitlines())
    return [head, *rows]


def cells_of(study: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]]
    found = json.loads((ROOT / f"results/embedded/{study}/summary.json").read_text())["cells"]
    return found


def said_of(cells: list[dict[str, Any]], wanted: dict[str, Any]) -> str:
    """Return how the one cell that is wanted is told."""
    (cell,) = (c for c in cells if all(c[name] == wanted[name] for name in wanted))
    found = cell["against"]["dense"]
    points = f"{100 * found['difference']:+.1f}".replace("-", "−")
    return f"{points} ({SIGNS[found['noninferior']]})"


@pytest.mark.parametrize("study", ROWS)
def test_the_readme_s_table_is_that_of_the_summary(study: str) -> None:
    head, *rows = table_of(study)
    cells = cells_of(study)
    assert [row[0] for row in rows] == list(ROWS[study])
    for row in rows:
        for task, told in zip(head, row[1:], strict=True):
            wanted = {"target": task, "sparsity": SPARSITY[study]}
            assert told == said_of(cells, {**ROWS[study][row[0]], **wanted})


def test_the_readme_s_table_of_images_is_that_of_the_summary() -> None:
    head, *rows = table_of("C-F3")
    cells = cells_of("C-F3")
    assert len(rows) == 11
    for weights, mask, *told in rows:
        arm, control = IMAGES[mask]
        source = weights.lower()
        for task, text in zip(head[2:], told, strict=True):
            wanted = {"arm": arm.format(source), "control": control, "sparsity": 0.8322}
            assert text == said_of(cells, {**wanted, "target": f"{task}-{source}"})
