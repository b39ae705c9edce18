"""docs/adding-an-architecture.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ticketry.models.families import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-architecture.md"


def test_its_blocks_run_one_after_the_other() -> None:
    assert not {"ernie", "regnet"} & set(FAMILIES)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    values: dict[str, Any] = {}
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), values)
        assert "encoder.layer.0.output.dense.weight" in values["names"]
        assert values["family"] is FAMILIES["ernie"]
    finally:
        for name in ("ernie", "regnet"):
            FAMILIES.pop(name, None)
