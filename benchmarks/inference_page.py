"""What ``inference.py`` found, kept in one file, and the page that is written from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import write_block

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "results" / "inference.json"
PAGE = ROOT / "docs" / "performance.md"
BLOCK = "inference"
GRID: list[dict[str, Any]] = [
    {"model": model, "threads": threads, "batch": batch, "sequence": sequence}
    for model, threads, batch, sequence in (
        ("minilm", 1, 1, 128),
        ("minilm", 1, 1, 32),
        ("minilm", 2, 1, 128),
        ("bert-base", 1, 1, 128),
        ("minilm", 1, 8, 128),
        ("bert-base", 2, 1, 128),
        ("minilm", 2, 1, 32),
        ("bert-base", 1, 1, 32),
        ("minilm", 1, 8, 32),
        ("minilm", 2, 8, 128),
        ("minilm", 2, 8, 32),
        ("bert-base", 2, 1, 32),
        ("bert-base", 1, 8, 32),
        ("bert-base", 2, 8, 32),
        ("bert-base", 2, 8, 128),
        ("bert-base", 1, 8, 128),
    )
]
"""What is measured, in this order: those that goals speak of first, long ones last."""
NAMES = {"minilm": "MiniLM", "bert-base": "BERT-base's size"}
GOALS = {0.7: 2.0, 0.8: 2.5, 0.9: 4.0, 0.95: 6.0}
"""Sparsity -> how many times as fast as ONNX Runtime in float32, for GRID's first."""
ZEROS = {"ours": "ticketry", "deepsparse": "DeepSparse", "csr": "MKL CSR"}
DENSE = {"eager": "torch", "compile": "compiled", "onnx": "ONNX Runtime", "onnx-int8": "its int8"}


def read(file: Path) -> list[dict[str, Any]]:
    """Return the tables that a file keeps, in GRID's order."""
    kept = json.loads(file.read_text(encoding="utf-8"))["tables"] if file.exists() else []
    return sorted(kept, key=lambda table: GRID.index(place(table)))


def place(table: dict[str, Any]) -> dict[str, Any]:
    """Return which of GRID's configurations a table is of."""
    return {name: table[name] for name in GRID[0]}


def keep(file: Path, table: dict[str, Any]) -> None:
    """Add a table to a file, in the place of an older one of its configuration."""
    tables = [old for old in read(file) if place(old) != place(table)]
    text = json.dumps({"tables": [*tables, table]}, indent=1) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)


def missing(file: Path) -> list[dict[str, Any]]:
    """Return the configurations that a file lacks."""
    known = [place(table) for table in read(file)]
    return [one for one in GRID if one not in known]


def said(one: dict[str, Any]) -> str:
    """Say a configuration in a table's first cell."""
    return f"{one['threads']} | {one['batch']} × {one['sequence']}"


def row_of(table: dict[str, Any], kind: str, sparsity: float | None) -> dict[str, Any] | None:
    """Return a contender's row."""
    found: list[dict[str, Any]] = [
        row for row in table["rows"] if row["kind"] == kind and row["sparsity"] in (None, sparsity)
    ]
    return found[0] if found else None


def sparsities(table: dict[str, Any]) -> list[float]:
    """Return at which sparsities a table was measured."""
    return sorted({row["sparsity"] for row in table["rows"] if row["sparsity"] is not None})


def lines(tables: list[dict[str, Any]]) -> Iterator[str]:
    """Say all tables, and which goals are reached."""
    first = next((table for table in tables if place(table) == GRID[0]), None)
    if first is not None:
        yield from goals(first)
    for model, name in NAMES.items():
        of_model = [table for table in tables if table["model"] == model]
        if not of_model:
            continue
        heads = sparsities(of_model[0])
        yield f"**{name}**, milliseconds, medians."
        yield ""
        yield "| threads | batch × tokens | runtime |" + "".join(f" {h:.0%} |" for h in heads)
        yield "|---|---|---|" + "---|" * len(heads)
        for table in of_model:
            for kind, runtime in ZEROS.items():
                cells = [milliseconds(row_of(table, kind, head)) for head in heads]
                start = said(table) if kind == "ours" else " | "
                yield f"| {start} | {runtime} | " + " | ".join(cells) + " |"
            for kind, runtime in DENSE.items():
                row = row_of(table, kind, None)
                cells = [milliseconds(row), *[""] * (len(heads) - 1)]
                yield f"|  |  | {runtime}, any sparsity | " + " | ".join(cells) + " |"
        yield ""
        yield (
            f"**{name}**, how many times as fast ticketry is: as ONNX Runtime in float32 / as its "
            "int8 / as DeepSparse at the same sparsity (medians of the ratios within a round)."
        )
        yield ""
        yield "| threads | batch × tokens |" + "".join(f" {head:.0%} |" for head in heads)
        yield "|---|---|" + "---|" * len(heads)
        for table in of_model:
            cells = []
            for head in heads:
                row = row_of(table, "ours", head)
                ratios = {} if row is None else row["ratios"]
                cells.append(
                    " / ".join(
                        f"{ratios[rival][0]:.2f}" if rival in ratios else "-"
                        for rival in ("onnx", "onnx-int8", "deepsparse")
                    )
                )
            yield f"| {said(table)} | " + " | ".join(cells) + " |"
        yield ""


def milliseconds(row: dict[str, Any] | None) -> str:
    """Say a median."""
    return "-" if row is None else f"{1e3 * row['seconds'][0]:.2f}"


def goals(table: dict[str, Any]) -> Iterator[str]:
    """Say which goals the first configuration reaches."""
    yield (
        f"Goals, {NAMES[table['model']]}, {table['threads']} thread, batch {table['batch']}, "
        f"{table['sequence']} tokens:"
    )
    yield ""
    yield "| sparsity | times ONNX Runtime fp32 (goal) | times DeepSparse (goal 1) | times int8 |"
    yield "|---|---|---|---|"
    for sparsity in sparsities(table):
        row = row_of(table, "ours", sparsity)
        ratios = {} if row is None else row["ratios"]
        wanted = {
            "onnx": GOALS.get(sparsity),
            "deepsparse": 1.0,
            "onnx-int8": 1.0 if sparsity == 0.9 else None,
        }
        cells = []
        for rival, goal in wanted.items():
            if rival not in ratios:
                cells.append("not measured")
                continue
            middle, low, high = ratios[rival]
            verdict = "" if goal is None else f" (goal {goal:g}: {judged(middle, goal)})"
            cells.append(f"{middle:.2f}, {low:.2f} to {high:.2f}{verdict}")
        yield f"| {sparsity:.0%} | " + " | ".join(cells) + " |"
    yield ""


def judged(found: float, goal: float) -> str:
    """Say whether a goal is reached."""
    return "reached" if found >= goal else "missed"


def write(file: Path, page: Path = PAGE) -> None:
    """Put the tables into the page, between its marks."""
    write_block(page, BLOCK, ["\n".join(lines(read(file))).rstrip("\n")])
