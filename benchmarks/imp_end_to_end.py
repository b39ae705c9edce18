"""A whole IMP run with verification: ticketry against a plain one on the stock libraries.

    python benchmarks/imp_end_to_end.py [--size small | tour | tiny] [--rounds N] [--write]

Both sides make the same trainings (search levels; then dense, dense at half the budget, ticket and
random-layerwise, each once a replicate) of the same number of steps on the same base and data,
from the command to the last file. The peer, ``plain_imp.py``, is torch.nn.utils.prune and
transformers' Trainer. It has two forms: as its example has it (padding to 128 tokens, float32,
every core's thread in one process; with --stock-rounds), and tuned (dynamic padding, batches
grouped by length, bf16, larger evaluation batches). Equal threads means: as many cores in all;
ticketry and the tuned peer both use one process with one thread on each core.

Sides take turns; a round has its own seeds. The ratio of a round is peer's wall-clock time by
ticketry's; the claim is the median against the tuned peer. CPU seconds of all processes are printed
beside, as they depend less on what else the machine does. Scores must agree: each arm's mean test
accuracy within 3 standard errors of the difference (spread between seeds, pooled over arms and
sides; never less than 3 points nor more than 10), and dense must beat the most frequent class.
Exit code 1 when the scores do not agree, or when the claim is below the goal (unless --size tiny).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write_block

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
GOAL = 2.0
STOCK_LENGTH = 128
"""``run_glue``'s default --max_seq_length."""
ARMS = ("dense", "ticket", "random-layerwise")
SIDES = ("ticketry", "tuned peer", "stock peer")
SPARSITY = 0.4


@dataclass(frozen=True)
class Size:
    """How large one run is; training examples are whole batches, also at half the budget."""

    train: int
    validation: int
    test: int
    epochs: float
    learning_rate: float
    batch: int = 32
    levels: int = 2
    replicates: int = 2
    max_length: int = 48
    dtype: str = "bfloat16"
    freeze: bool = True


SIZES = {
    # A first choice (512 examples, 1 epoch, 3e-4: 16 steps) failed the check of scores: the peer
    # stayed at chance with some seeds. Three times the steps at a third of the rate agreed.
    "small": Size(768, 200, 500, 2.0, 1e-4),
    "tour": Size(1984, 1000, 2000, 2.0, 1e-4, replicates=3),
    "tiny": Size(128, 40, 120, 8.0, 2e-3, batch=8, max_length=16, dtype="float32", freeze=False),
}


def main() -> int:
    """Measure, compare scores, print, and judge against the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--stock-rounds", type=int, default=0, help="it takes several times as long"
    )
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, labels = prepare(folder, arguments.size, size)
        for number in range(arguments.rounds):
            turn = number % len(SIDES)
            for side in SIDES[turn:] + SIDES[:turn]:
                if side == "stock peer" and number >= arguments.stock_rounds:
                    continue
                run = run_side(side, folder, model, labels, size, number, arguments.cores)
                found[side].append(run)
                print(
                    f"round {number + 1}, {side}: {run['wall_s']:.1f} s wall, "
                    f"{run['cpu_s']:.1f} s CPU",
                    flush=True,
                )
        common = most_frequent(folder)
    lines = [*describe(arguments.size, size, arguments.cores), *scores(found)]
    agreed = agree(found, common, lines)
    claim = ratios(found, lines)
    reached = claim >= GOAL
    lines.append(
        f"The claim is the smaller ratio, {claim:.2f}; the goal of {GOAL:g} is "
        f"{'reached' if reached else 'missed'}."
    )
    print("\n".join(lines))
    if arguments.write:
        write_block(DOCUMENT, "imp_end_to_end", lines)
    return 0 if agreed and (reached or arguments.size == "tiny") else 1


def prepare(folder: Path, name: str, size: Size) -> tuple[str, int]:
    """Write the data as a folder of CSV files; return the base's folder and how many classes."""
    if name == "tiny":
        sys.path.insert(0, str(ROOT / "tests"))
        from small_task import small_task
        from tiny import tiny_bert

        data = small_task(size.train, size.validation, size.test)
        model = tiny_bert(folder / "bert")
    else:
        from ticketry.models.loading import resolve
        from ticketry.tasks.registry import load_task

        data = load_task("movies", split_seed=0, say=print).limited(size.train, 0)
        path = resolve("minilm", say=print).path
        assert path is not None
        model = path
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        part = getattr(data, split)
        rows = list(zip(part.texts, part.labels, strict=True))
        random.Random(split).shuffle(rows)
        with (folder / "data" / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows[: getattr(size, split)]])
    return str(model), len(data.labels)


def read_split(folder: Path, split: str) -> dict[str, list[Any]]:
    """Return a split as columns."""
    with (folder / "data" / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {"text": [r["text"] for r in rows], "label": [int(r["label"]) for r in rows]}


def most_frequent(folder: Path) -> float:
    """Return the accuracy of always saying the most frequent class."""
    labels = read_split(folder, "test")["label"]
    return max(Counter(labels).values()) / len(labels)


def run_side(
    side: str, folder: Path, model: str, labels: int, size: Size, number: int, cores: int
) -> dict[str, Any]:
    """Make one run as a command of its own; return its times and its test scores by arm."""
    result = folder / f"{side.replace(' ', '-')}-{number}"
    if side == "ticketry":
        command = ticketry_command(folder, model, size, number, cores, result)
    else:
        job = plain_job(folder, model, labels, size, number, cores, tuned=side == "tuned peer")
        result.with_suffix(".job").write_text(json.dumps(job))
        script = str(ROOT / "benchmarks" / "plain_imp.py")
        command = [sys.executable, script, str(result.with_suffix(".job")), str(result)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Each side says itself how many threads it uses.
    environment.pop("OMP_NUM_THREADS", None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    if side == "ticketry":
        evidence = json.loads((result / "ticket" / "ticket_evidence.json").read_text())
        arms = {**evidence["controls"], "dense": evidence["dense"], "ticket": evidence["ticket"]}
        found = {arm: arms[arm]["scores"] for arm in ARMS}
        kept = evidence["kept"]
    else:
        arms = json.loads(result.read_text())
        found = {arm: arms[arm]["test"] for arm in ARMS}
        kept = arms["search"]["kept"][-1]
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s, "scores": found, "kept": kept}


def ticketry_command(
    folder: Path, model: str, size: Size, number: int, cores: int, out: Path
) -> list[str]:
    """Return the command of one ticketry run."""
    options: dict[str, Any] = {
        "model": model,
        "data": folder / "data",
        "text-column": "text",
        "label-column": "label",
        "sparsity": SPARSITY,
        "levels": size.levels,
        "replicates": size.replicates,
        "controls": "random-layerwise",
        "recipe": "embedded" if size.freeze else "paper",
        "epochs": size.epochs,
        "learning-rate": size.learning_rate,
        "batch-size": size.batch,
        "max-length": size.max_length,
        "dtype": size.dtype,
        "seed": number,
        "workers": cores,
        "threads": 1,
        "out": out,
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "ticketry.cli", "find", *given]


def plain_job(
    folder: Path, model: str, labels: int, size: Size, number: int, cores: int, *, tuned: bool
) -> dict[str, Any]:
    """Return the peer's job: the same trainings."""
    density = 1.0 - SPARSITY
    return {
        "model": model,
        "data": {name: read_split(folder, name) for name in ("train", "validation", "test")},
        "levels": [1.0 - density ** (k / size.levels) for k in range(1, size.levels + 1)],
        "seeds": [number * 1000 + i for i in range(size.replicates + 1)],
        "labels": labels,
        "epochs": size.epochs,
        "batch": size.batch,
        "learning_rate": size.learning_rate,
        "max_length": size.max_length if tuned or size.max_length < 48 else STOCK_LENGTH,
        "freeze_embeddings": size.freeze,
        "tuned": tuned,
        "bf16": size.dtype == "bfloat16",
        "cores": cores,
    }


def describe(name: str, size: Size, cores: int) -> list[str]:
    """Say what was run."""
    import torch
    import transformers

    base = "a tiny BERT on made-up sentences" if name == "tiny" else "MiniLM on movies"
    trainings = size.levels + 3 * size.replicates
    return [
        f"`--size {name}`: {base}, {size.levels} levels to {SPARSITY:.0%} sparsity, "
        f"{size.replicates} replicates: {trainings} trainings of "
        f"{size.train * size.epochs:,.0f} examples and {size.replicates} of half as many, "
        f"{size.validation:,} validation and {size.test:,} test examples; {cores} cores, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        "",
    ]


def scores(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Show both sides' scores."""
    lines = ["| test accuracy, mean (and each) | " + " | ".join(ARMS) + " |", "|---|---|---|---|"]
    for side, runs in found.items():
        if runs:
            cells = []
            for arm in ARMS:
                values = [score for run in runs for score in run["scores"][arm]]
                each = ", ".join(f"{value:.3f}" for value in values)
                cells.append(f"{statistics.fmean(values):.3f} ({each})")
            lines.append(f"| {side} | " + " | ".join(cells) + " |")
    return lines


def agree(found: dict[str, list[dict[str, Any]]], common: float, lines: list[str]) -> bool:
    """Judge whether the scores are the same within the noise between seeds, and say so."""
    samples = {
        (side, arm): [score for run in runs for score in run["scores"][arm]]
        for side, runs in found.items()
        if runs
        for arm in ARMS
    }
    freedom = sum(len(values) - 1 for values in samples.values())
    pooled = math.sqrt(
        sum(statistics.variance(v) * (len(v) - 1) for v in samples.values()) / freedom
    )
    good = True
    worst = 0.0
    for (side, arm), values in samples.items():
        ours = samples["ticketry", arm]
        error = pooled * math.sqrt(1 / len(values) + 1 / len(ours))
        allowed = min(0.10, max(0.03, 3 * error))
        difference = statistics.fmean(ours) - statistics.fmean(values)
        worst = max(worst, abs(difference))
        if abs(difference) > allowed:
            good = False
            lines.append(
                f"DIFFERENT: {arm} by {difference:+.3f} against {side}, allowed {allowed:.3f}"
            )
    kept = {run["kept"] for runs in found.values() for run in runs}
    if max(kept) - min(kept) > 1e-5 * max(kept):
        good = False
        lines.append(f"DIFFERENT: weights kept {sorted(kept)}")
    dense = statistics.fmean(samples["ticketry", "dense"])
    if dense < common + 0.05:
        good = False
        lines.append(f"NOTHING LEARNT: dense {dense:.3f}, the most frequent class {common:.3f}")
    if good:
        lines += [
            "",
            f"The scores agree: means differ by at most {worst:.3f} (spread between seeds "
            f"{pooled:.3f}; the most frequent class alone scores {common:.3f}).",
        ]
    return good


def ratios(found: dict[str, list[dict[str, Any]]], lines: list[str]) -> float:
    """Show times and ratios; return the smaller median ratio of wall-clock times."""
    lines += ["", "| side | wall, median (range) | CPU, median | by ticketry's wall | CPU |"]
    lines += ["|---|---|---|---|---|"]
    medians = []
    for side, runs in found.items():
        if not runs:
            continue
        walls = [run["wall_s"] for run in runs]
        paired = list(zip(runs, found["ticketry"], strict=False))
        by_wall = [theirs["wall_s"] / ours["wall_s"] for theirs, ours in paired]
        by_cpu = [theirs["cpu_s"] / ours["cpu_s"] for theirs, ours in paired]
        if side != "ticketry":
            medians.append(statistics.median(by_wall))
        lines.append(
            f"| {side} | {statistics.median(walls):.1f} s ({min(walls):.1f} to {max(walls):.1f}, "
            f"n = {len(walls)}) | {statistics.median(run['cpu_s'] for run in runs):.1f} s | "
            f"{statistics.median(by_wall):.2f} ({min(by_wall):.2f} to {max(by_wall):.2f}) | "
            f"{statistics.median(by_cpu):.2f} |"
        )
    lines.append("")
    return min(medians)


if __name__ == "__main__":
    sys.exit(main())
