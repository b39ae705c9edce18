"""Models of several sizes on the same data, set side by side by the weights that masks leave."""

from __future__ import annotations

from typing import Any

from ticketry.studies.remaining import by_remaining, remaining
from ticketry.studies.tables import table


def target(data: str, prunable: int | None, metric: str = "accuracy") -> dict[str, Any]:
    size = {} if prunable is None else {"prunable": prunable}
    return {"data_sha256": data, "metric": metric, **size}


def cell(name: str, sparsity: float, mean: float | None, **more: Any) -> dict[str, Any]:
    arm = "dense" if sparsity == 0 else "own"
    against = {} if sparsity == 0 else {"dense": {"difference": -0.01}}
    return {
        "target": name, "arm": arm, "source": None, "sparsity": sparsity, "mean": mean,
        "control": None, "against": against, **more,
    }  # fmt: skip


SUMMARY: dict[str, Any] = {
    "targets": {
        "small": target("a", 1000),
        "wide": target("a", 4000),
        "alone": target("b", 1000),
        "scored otherwise": target("a", 2000, "retrieval"),
        "old": target("a", None),
    },
    "cells": [
        cell("small", 0.0, 0.90),
        cell("small", 0.5, 0.89, source="simclr"),
        cell("wide", 0.0, 0.95),
        cell("wide", 0.875, 0.91, source="wide"),
        cell("wide", 0.5, None),
        cell("wide", 0.5, 0.5, control="reinit"),
        cell("alone", 0.0, 0.7),
        cell("scored otherwise", 0.0, 0.7),
        cell("old", 0.0, 0.7),
    ],
}


def test_cells_stand_in_the_order_of_what_is_left() -> None:
    found = by_remaining(SUMMARY)
    assert [(row["target"], row["kept"], row["mean"]) for row in found] == [
        ("wide", 4000, 0.95), ("small", 1000, 0.90), ("small", 500, 0.89), ("wide", 500, 0.91),
    ]  # fmt: skip
    assert [row["difference"] for row in found] == [None, None, -0.01, -0.01]


def test_the_page_says_them_once() -> None:
    (part,) = remaining(SUMMARY)
    assert part.title == "By weights that are left, wide and small"
    assert table(part.head, part.rows)[2:] == [
        "| 4,000 | 4,000 | wide | dense | 0% | 95.0 | – |",
        "| 1,000 | 1,000 | small | dense | 0% | 90.0 | – |",
        "| 500 | 1,000 | small | own, simclr | 50% | 89.0 | -1.0 |",
        "| 500 | 4,000 | wide | own | 87.5% | 91.0 | -1.0 |",
    ]
    same = {**SUMMARY, "targets": {n: {**t, "prunable": 9} for n, t in SUMMARY["targets"].items()}}
    assert remaining(same) == []
