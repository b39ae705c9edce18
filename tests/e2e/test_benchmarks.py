"""The end-to-end benchmark makes both sides' runs, and its judgement can fail."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ticketry.recipes import Recipe
from ticketry.tasks.workload import training_steps

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import imp_end_to_end as benchmark  # noqa: E402


def test_both_sides_do_the_same_run_to_the_same_scores() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "imp_end_to_end.py"), "--size", "tiny"),
            *("--rounds", "1", "--stock-rounds", "0", "--cores", "2"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The scores agree: means differ by at most" in done.stdout
    assert "| tuned peer | 1.000 (1.000, 1.000)" in done.stdout


@pytest.mark.parametrize("name", benchmark.SIZES)
def test_both_sides_make_the_same_number_of_steps(name: str) -> None:
    size = benchmark.SIZES[name]
    for budget in (1.0, 0.5):
        recipe = Recipe(epochs=size.epochs * budget, batch_size=size.batch)
        # Trainer: batches an epoch rounded up, times epochs, rounded up.
        theirs = math.ceil(math.ceil(size.train / size.batch) * size.epochs * budget)
        assert training_steps(recipe, size.train) == theirs


def run(dense: float, ticket: float, *, kept: int = 1000, wall_s: float = 1.0) -> dict[str, Any]:
    scores = {"dense": dense, "ticket": ticket, "random-layerwise": 0.7}
    each = {arm: [score - 0.01, score + 0.01] for arm, score in scores.items()}
    return {"scores": each, "kept": kept, "wall_s": wall_s, "cpu_s": 2 * wall_s}


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (run(0.85, 0.84), "The scores agree: means differ by at most 0.010"),
        (run(0.85, 0.75), "DIFFERENT: ticket by +0.080 against tuned peer"),
        (run(0.85, 0.83, kept=1001), "DIFFERENT: weights kept [1000, 1001]"),
    ],
)
def test_scores_that_differ_are_said(peer: dict[str, Any], said: str) -> None:
    lines: list[str] = []
    found = {"ticketry": [run(0.84, 0.83)], "tuned peer": [peer], "stock peer": []}
    assert benchmark.agree(found, 0.5, lines) == said.startswith("The scores agree")
    assert said in "\n".join(lines)


def test_a_run_that_learnt_nothing_is_no_comparison() -> None:
    lines: list[str] = []
    found = {"ticketry": [run(0.52, 0.5)], "tuned peer": [run(0.52, 0.5)], "stock peer": []}
    assert not benchmark.agree(found, 0.5, lines)
    assert "NOTHING LEARNT: dense 0.520, the most frequent class 0.500" in lines


def test_the_claim_is_the_smaller_median() -> None:
    lines: list[str] = []
    found = {
        "ticketry": [run(0.8, 0.8, wall_s=w) for w in (10.0, 20.0, 10.0)],
        "tuned peer": [run(0.8, 0.8, wall_s=w) for w in (15.0, 60.0, 18.0)],
        "stock peer": [run(0.8, 0.8, wall_s=50.0)],
    }
    assert benchmark.ratios(found, lines) == pytest.approx(1.8)
    assert "| 5.00 (5.00 to 5.00) |" in "\n".join(lines)


def test_the_inference_benchmark_takes_turns_and_says_who_is_left_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "inference.py"), "--model", "tiny", "--rounds", "2"),
            *("--sparsity", "90", "--sequence", "16", "--without", "compile"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TICKETRY_PEERS": str(tmp_path), "TICKETRY_DEEPSPARSE": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "**tiny, batch 1, 16 tokens, 1 thread**" in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "%" in line or "any" in line]
    assert [row[0] for row in rows] == ["| torch eager", "| MKL CSR", "| ticketry"]
    assert all(float(row[-1].rstrip(" |")) < 1e-5 for row in rows)
    for name in ("ONNX Runtime fp32", "ONNX Runtime int8", "DeepSparse 1.8"):
        assert f"left out: {name}: its environment is not set up (make setup-peers)" in done.stderr


def test_the_bank_benchmark_serves_what_whole_models_give() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "bank.py"), "--model", "tiny", "--tasks", "2"),
            *("--rounds", "2", "--length", "8"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| bank | 0." in done.stdout
    assert "| 1.00 (1.00 to 1.00) |" in done.stdout
    assert "head 264 bytes" in done.stdout  # 2 × 32 weights and 2 biases
