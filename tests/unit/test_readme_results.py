"""The README's table of a study says what its records say."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIGNS = {"yes": "yes", "no": "no", "inconclusive": "open"}


def test_the_readme_s_table_is_that_of_the_summary() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- B-F11: begin -->\n(.*)<!-- B-F11: end -->", text, re.DOTALL)
    assert block is not None
    head, _, *rows = (line.strip("| ").split(" | ") for line in block[1].splitlines())
    cells = json.loads((ROOT / "results/embedded/B-F11/summary.json").read_text())["cells"]
    wanted = {"IMP": ("imp", None), "one-shot on θ0": ("oneshot-theta0", None),
              "random-layerwise": ("imp", "random-layerwise")}  # fmt: skip
    assert [row[0] for row in rows] == list(wanted)
    for row in rows:
        for task, told in zip(head, row[1:], strict=True):
            names = ("arm", "control", "target", "sparsity")
            key = (*wanted[row[0]], task, 0.5)
            (cell,) = (c for c in cells if tuple(c[name] for name in names) == key)
            found = cell["against"]["dense"]
            points = f"{100 * found['difference']:+.1f}".replace("-", "−")
            assert told == f"{points} ({SIGNS[found['noninferior']]})"
