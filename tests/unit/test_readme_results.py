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
}
"""Study -> a row's name in its table -> its cells."""


@pytest.mark.parametrize("study", ROWS)
def test_the_readme_s_table_is_that_of_the_summary(study: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- {study}: begin -->\n(.*)<!-- {study}: end -->", text, re.DOTALL)
    assert block is not None
    head, _, *rows = (line.strip("| ").split(" | ") for line in block[1].splitlines())
    cells = json.loads((ROOT / f"results/embedded/{study}/summary.json").read_text())["cells"]
    assert [row[0] for row in rows] == list(ROWS[study])
    for row in rows:
        for task, told in zip(head, row[1:], strict=True):
            wanted = {**ROWS[study][row[0]], "target": task, "sparsity": 0.5}
            (cell,) = (c for c in cells if all(c[name] == wanted[name] for name in wanted))
            found = cell["against"]["dense"]
            points = f"{100 * found['difference']:+.1f}".replace("-", "−")
            assert told == f"{points} ({SIGNS[found['noninferior']]})"
