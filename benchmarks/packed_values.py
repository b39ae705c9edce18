"""What 16- and 8-bit kept values cost a packed model in accuracy, and spare in bytes.

    python benchmarks/packed_values.py             # needs the models: tradeoff.py --only train
    python benchmarks/packed_values.py --write     # also the table of docs/deploy.md

The trained sparse models of ``tradeoff.py`` (MiniLM on movies, five sparsities, two seeds) are
packed with each kind of values, loaded again by ``load_packed`` to dense float32 modules, and asked
every test example. What is packed as it is, float32, gives the reference: the difference in points
is paired by example, and its 95% interval comes from the examples whose answer turned right or
wrong (the normal approximation of McNemar's test). Nothing is trained after packing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import write_block
from tradeoff import PAGE, right
from tradeoff_models import RESULTS, SEEDS, SPARSITIES, model_folder, name_of

FILE = RESULTS / "values.json"
SHORT = ("fp16", "bf16", "int8")
"""What is compared with fp32."""


def answered(folder: Path) -> list[bool]:
    """Return for each test example whether a packed model answers it right."""
    import torch

    from ticketry.packed.loading import load_packed

    model: Any = load_packed(folder)

    def run(batch: Any) -> Any:
        with torch.inference_mode():
            return model(**batch).logits.numpy()

    return right(run)


def compared(before: list[bool], after: list[bool]) -> dict[str, float]:
    """Return the difference in points, half its 95% interval, and the examples that turned."""
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    count = len(before)
    variance = (gained + lost - (gained - lost) ** 2 / count) / count**2
    return {
        "points": 100 * (gained - lost) / count,
        "half_interval": 100 * 1.96 * math.sqrt(variance),
        "gained": gained,
        "lost": lost,
    }


def measure(sparsity: float, seed: int) -> dict[str, Any]:
    """Pack one model with each kind of values, and ask each."""
    from ticketry.packed.packer import pack_folder

    model = model_folder(name_of(sparsity), seed)
    found: dict[str, Any] = {"sparsity": sparsity, "seed": seed, "values": {}}
    reference: list[bool] = []
    for kind in ("fp32", *SHORT):
        with tempfile.TemporaryDirectory() as place:
            packing = pack_folder(model, Path(place) / "packed", kind)
            answers = answered(Path(place) / "packed")
        reference = reference or answers
        found["values"][kind] = {
            "accuracy": statistics.fmean(answers),
            "examples": len(answers),
            "pruned_bytes": packing.pruned_bytes,
            "ratio": packing.ratio,
            "file_bytes": packing.file_bytes,
            **compared(reference, answers),
        }
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table; one row a sparsity and kind of values, seeds side by side."""
    count = rows[0]["values"]["fp32"]["examples"]
    lines = [
        f"MiniLM on movies, {count:,} test examples, seeds {', '.join(map(str, SEEDS))}.",
        "",
        "| sparsity | values | pruned matrices, MB | accuracy, each seed | points lost or gained "
        "against fp32, each seed (95%) | answers that turned right, wrong |",
        "|---|---|---|---|---|---|",
    ]
    for sparsity in sorted(SPARSITIES):
        for kind in ("fp32", *SHORT):
            each = [row["values"][kind] for row in rows if row["sparsity"] == sparsity]
            said = [
                ", ".join(f"{one['points']:+.2f} ± {one['half_interval']:.2f}" for one in each),
                ", ".join(f"{one['gained']} and {one['lost']}" for one in each),
            ]
            lines.append(
                f"| {sparsity:.0%} | {kind} | {each[0]['pruned_bytes'] / 1e6:.2f} "
                f"| {', '.join(format(one['accuracy'], '.4f') for one in each)} "
                f"| {' | '.join(said if kind != 'fp32' else ['–', '–'])} |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="the table, into docs/deploy.md")
    args = parser.parse_args()
    pairs = [(sparsity, seed) for sparsity in sorted(SPARSITIES) for seed in SEEDS]
    lacking = [
        folder.name
        for sparsity, seed in pairs
        if not ((folder := model_folder(name_of(sparsity), seed)) / "score.json").exists()
    ]
    if lacking:
        print(f"not trained yet: {', '.join(lacking)} (tradeoff.py --only train)", file=sys.stderr)
        return 2
    rows = []
    for number, (sparsity, seed) in enumerate(pairs, 1):
        print(f"{number} of {len(pairs)}: {sparsity:.0%}, seed {seed}", file=sys.stderr, flush=True)
        rows.append(measure(sparsity, seed))
    RESULTS.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = table(rows)
    print("\n".join(lines))
    if args.write:
        write_block(PAGE, "packed_values", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
