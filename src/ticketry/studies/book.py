"""``docs/results.md`` from the summaries that are committed under ``results/``.

Run as ``python -m ticketry.studies.book results docs/results.md``. Nothing is measured here: equal
records give equal bytes, and a test compares the committed page with them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ticketry.files import write_bytes
from ticketry.studies.largest import largest_matching
from ticketry.studies.ledger import RECORDS_FILE
from ticketry.studies.tables import table
from ticketry.studies.wording import page
from ticketry.yamlfile import read_yaml

PAPER_FILE = "paper.yaml"
READING_FILE = "reading.md"
PRETRAINED = "*/pretrained/*/pretraining.json"
"""What ``ticketry pretrain`` measured of the models that studies start from."""
_HEAD = """# Results

Studies of the papers' rows (B-: BERT, C-: computer vision) at the embedded scale, written by
`make results` from the records under `results/`, beside the paper's numbers for the same row.
Models, data and budgets differ, so numbers are not to be compared one by one; what is compared is
which mask beats which. A study that is not whole says how much of it is there.

A verdict in brackets: *yes*, not inferior to the reference by more than the margin; *no*,
inferior by more; *open*, the interval does not decide. Intervals are over masks (over fine-
tunings where there is one mask) and over test examples.
"""


def book(results: Path) -> str:
    """Return the page of all studies under a folder, by scale and row."""
    numbers = read_yaml(results / PAPER_FILE) if (results / PAPER_FILE).exists() else {}
    paths = sorted(results.glob("*/*/summary.json"))
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    parts = [_HEAD]
    if not summaries:
        parts.append("No study has been recorded yet.\n")
    for path, summary in zip(paths, summaries, strict=True):
        parts.append(page(summary, level=2))
        parts.append(_origin(path.parent, summary))
        if (known := numbers.get(summary["study"])) is not None:
            rows = [[str(item) for item in row] for row in known["rows"]]
            parts.append(f"**The paper**, {known['source']}:\n")
            parts.append("\n".join(table([str(name) for name in known["head"]], rows)) + "\n")
        reading = path.with_name(READING_FILE)
        if reading.exists():
            parts.append(reading.read_text(encoding="utf-8").strip() + "\n")
    parts.append(largest_matching(summaries, numbers))
    parts += _pretrained(sorted(results.glob(PRETRAINED)))
    return "\n".join(parts)


def _pretrained(records: Sequence[Path]) -> list[str]:
    """Return the section on models that were pre-trained here."""
    rows = []
    for path in records:
        found = json.loads(path.read_text(encoding="utf-8"))
        scores = ("untrained_validation_score", "validation_score", "test_score")
        rows.append(
            [
                path.parent.name,
                found["architecture"],
                found["objective"],
                f"{found['train_examples']:,} images seen of {found['data']['train']:,}",
                *(f"{100 * found[name]:.1f}" for name in scores),
                found["files"]["model.safetensors"][:12],
            ]
        )
    if not rows:
        return []
    head = ["model", "architecture", "objective", "trained on", "untrained, validation",
            "validation", "test", "SHA-256"]  # fmt: skip
    return [
        "## Models pre-trained here\n",
        "`ticketry pretrain --config recipes/pretrain-NAME.yaml --out pretrained/NAME`; the share\n"
        "of held-out images whose nearest neighbour among trained ones is of their class "
        "(retrieval), in\npercent. Weights are not committed.\n",
        "\n".join(table(head, rows)) + "\n",
    ]


def _origin(folder: Path, summary: Mapping[str, Any]) -> str:
    """Say what a study's records were measured with, and by which command."""
    lines = [
        json.loads(raw)
        for raw in (folder / RECORDS_FILE).read_text(encoding="utf-8").splitlines()
        if raw
    ]
    contexts = json.loads((folder / "contexts.json").read_text(encoding="utf-8"))
    around = [line["environment"] for line in lines]
    used = [contexts[key] for key in {line["context"]: None for line in lines} if key in contexts]
    said = {
        "commit": _values(around, "commit"),
        "torch": _values(around, "torch"),
        "transformers": _values(around, "transformers"),
        "device": _values(used, "device"),
        "threads of a training": _values(used, "threads"),
    }
    facts = ", ".join(f"{name} {value}" for name, value in said.items() if value)
    scale, row = folder.parts[-2:]
    command = f"ticketry study studies/{scale}/{row}.yaml --out results/{scale}/{row}"
    command += "".join(f" --only '{target}'" for target in summary.get("only", ()))
    return f"`{command}`: {facts}.\n"


def _values(rows: list[Mapping[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(str(row[name]) for row in rows if row.get(name) is not None))


if __name__ == "__main__":
    write_bytes(Path(sys.argv[2]), book(Path(sys.argv[1])).encode())
