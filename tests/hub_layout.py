"""A GLUE in little: parquet files and a README with configurations, as they lie on the hub."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tiny import BAD, FILLER, GOOD


def offline_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep ``datasets`` from writing into the user's cache."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


def write_parquet(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> None:
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(rows)
    if names:
        data = data.cast_column("label", datasets.ClassLabel(names=names))
    data.to_parquet(str(path))


def little_glue(folder: Path) -> Path:
    """Write the configurations cola, stsb and mnli."""
    draw = random.Random(0)

    def words(count: int = 6) -> str:
        return " ".join(draw.choices(FILLER + GOOD + BAD, k=count))

    def cola(size: int, hidden: bool = False) -> list[dict[str, Any]]:
        return [
            {"sentence": f"{words()} {i}", "label": -1 if hidden else i % 2, "idx": i}
            for i in range(size)
        ]

    def stsb(size: int, hidden: bool = False) -> list[dict[str, Any]]:
        return [
            {
                "sentence1": f"{words()} {i}",
                "sentence2": words(),
                "label": -1.0 if hidden else round(draw.uniform(0, 5), 2),
                "idx": i,
            }
            for i in range(size)
        ]

    def mnli(size: int, hidden: bool = False) -> list[dict[str, Any]]:
        return [
            {
                "premise": f"{words()} {i}",
                "hypothesis": words(),
                "label": -1 if hidden else i % 3,
                "idx": i,
            }
            for i in range(size)
        ]

    three = ["entailment", "neutral", "contradiction"]
    two = ["unacceptable", "acceptable"]
    layout: dict[str, dict[str, Any]] = {
        "cola": {"train": cola(60), "validation": cola(14), "test": cola(9, hidden=True)},
        "stsb": {"train": stsb(60), "validation": stsb(14), "test": stsb(9, hidden=True)},
        "mnli": {
            "train": mnli(90),
            "validation_matched": mnli(12),
            "validation_mismatched": mnli(15),
            "test_matched": mnli(9, hidden=True),
            "test_mismatched": mnli(9, hidden=True),
        },
    }
    lines = ["---", "configs:"]
    for config, splits in layout.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            names = {"cola": two, "mnli": three}.get(config)
            write_parquet(folder / config / f"{split}-00000-of-00001.parquet", rows, names)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# GLUE in little", ""]))
    return folder
