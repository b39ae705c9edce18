"""Small made-up questions on made-up contexts, in SQuAD's own layouts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from hub_layout import write_parquet
from tiny import BAD, FILLER, GOOD


def questions(count: int, *, seed: int = 0, none: bool = False) -> list[dict[str, Any]]:
    """Return rows as the hub has them: where is the good (or the bad) word of the context?

    Args:
        count: rows; three on each context.
        seed: of the draws.
        none: a third of the questions asks for a word that is not there.
    """
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        if i % 3 == 0:
            good, bad = draw.choice(GOOD), draw.choice(BAD)
            words = [*draw.choices(FILLER, k=6), good] + ([] if none and i % 2 else [bad])
            draw.shuffle(words)
            context = f"{' '.join(words)} {i}"
        wanted, asked = (good, "good") if i % 3 else (bad, "bad")
        known = wanted in context.split()
        rows.append(
            {
                "id": f"q{seed}-{i}",
                "title": f"article {i // 12}",
                "context": context,
                "question": f"the {asked} {FILLER[i % len(FILLER)]} ?",
                "answers": {
                    "text": [wanted] if known else [],
                    "answer_start": [context.index(wanted)] if known else [],
                },
            }
        )
    return rows


def little_squad(folder: Path, *, none: bool = False, size: int = 150) -> Path:
    """Write a data set as SQuAD lies on the hub: parquet files of train and validation."""
    for split, count, seed in (("train", size, 0), ("validation", 30, 1)):
        write_parquet(
            folder / "plain_text" / f"{split}-00000-of-00001.parquet",
            questions(count, seed=seed, none=none),
        )
    lines = ["---", "configs:", "- config_name: plain_text", "  data_files:"]
    for split in ("train", "validation"):
        lines += [f"  - split: {split}", f"    path: plain_text/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# SQuAD in little", ""]))
    return folder


def squad_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the layout of SQuAD's own JSON files."""
    articles: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        answers = [
            {"text": text, "answer_start": start}
            for text, start in zip(*row["answers"].values(), strict=True)
        ]
        asked = {"id": row["id"], "question": row["question"], "answers": answers}
        if not answers:
            # Version 2 has them so; the plausible ones are no answers.
            asked |= {"is_impossible": True, "plausible_answers": [{"text": "x"}]}
        articles.setdefault(row["title"], {}).setdefault(row["context"], []).append(asked)
    data = [
        {
            "title": title,
            "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs.items()],
        }
        for title, paragraphs in articles.items()
    ]
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return path
