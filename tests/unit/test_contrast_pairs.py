"""What a mask stands against in a contrast."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ticketry.studies.cells import CellKey
from ticketry.studies.questions import _opposite


def grid(*keys: CellKey) -> Any:
    return SimpleNamespace(cells=dict.fromkeys(keys))


def test_masks_of_one_source_stand_against_each_other() -> None:
    same, own = CellKey("b", "mlm", "x", 0.5), CellKey("b", "x", "x", 0.5)
    assert _opposite("b", CellKey("a", "mlm", "x", 0.5), grid(own, same)) == same


def test_else_against_those_of_theta0_or_of_the_target() -> None:
    key = CellKey("a", "mlm", "x", 0.5)
    alone, own = CellKey("b", None, "x", 0.5), CellKey("b", "x", "x", 0.5)
    assert _opposite("b", key, grid(alone)) == alone
    assert _opposite("b", key, grid(own)) == own


def test_never_against_another_task_or_sparsity_or_arm() -> None:
    key = CellKey("a", "mlm", "x", 0.5)
    others = [CellKey("b", "y", "x", 0.5), CellKey("b", "x", "y", 0.5), CellKey("b", "x", "x", 0.6)]
    assert _opposite("b", key, grid(*others, CellKey("c", "mlm", "x", 0.5))) is None
