"""Small made-up sentences with named good and bad things, in CoNLL's layout and the hub's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tiny import BAD, FILLER, GOOD

NAMES = ["O", "B-BAD", "I-BAD", "B-GOOD", "I-GOOD"]


def sentences(count: int, *, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Return words and IOB2 tags; runs of good words are GOOD, runs of bad ones BAD."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        words, tags = [str(i)], ["O"]
        for _ in range(draw.randint(1, 3)):
            words.append(draw.choice(FILLER))
            tags.append("O")
            kind, source = draw.choice([("GOOD", GOOD), ("BAD", BAD)])
            length = draw.randint(0, 2)
            words += draw.choices(source, k=length)
            tags += [f"{'I' if n else 'B'}-{kind}" for n in range(length)]
        found.append((words, tags))
    return found


def conll_file(path: Path, rows: list[tuple[list[str], list[str]]], *, documents: int = 0) -> Path:
    """Write four columns; of ``documents`` sentences each is one."""
    lines = []
    for i, (words, tags) in enumerate(rows):
        if documents and i % documents == 0:
            lines += ["-DOCSTART- -X- -X- O", ""]
        lines += [f"{word} NN I-NP {tag}" for word, tag in zip(words, tags, strict=True)]
        lines.append("")
    path.write_text("\n".join(lines))
    return path


def little_conll(folder: Path) -> Path:
    """Write a data set as CoNLL-2003 lies on the hub: lists of words, tags as ClassLabel."""
    import datasets

    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "document_id": datasets.Value("int32"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES)),
        }
    )
    folder.mkdir(parents=True)
    for split, count, seed in (("train", 120, 0), ("validation", 30, 1), ("test", 40, 2)):
        rows: list[dict[str, Any]] = [
            {
                "id": str(i),
                "document_id": i // 4,
                "tokens": words,
                "ner_tags": [NAMES.index(tag) for tag in tags],
            }
            for i, (words, tags) in enumerate(sentences(count, seed=seed))
        ]
        if split == "train":
            rows.append({"id": "x", "document_id": 99, "tokens": [], "ner_tags": []})
        data = datasets.Dataset.from_list(rows, features=features)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder
