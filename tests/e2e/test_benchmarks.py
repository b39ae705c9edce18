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
from ticketry.runtime import native
from ticketry.tasks.workload import training_steps
from tiny import tiny_bert

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import imp_end_to_end as benchmark  # noqa: E402
import inference_page  # noqa: E402
import roofline  # noqa: E402


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


def table(onnx: float, deepsparse: float | None) -> dict[str, Any]:
    rows = []
    for sparsity in (0.9, 0.95):
        ratios = {"onnx": [onnx, onnx, onnx], "onnx-int8": [1.5, 1.4, 1.6]}
        if deepsparse is not None:
            ratios["deepsparse"] = [deepsparse] * 3
        rows.append(
            {"kind": "ours", "sparsity": sparsity, "seconds": [0.004] * 3, "ratios": ratios}
        )
    rows.append({"kind": "eager", "sparsity": None, "seconds": [0.04] * 3, "ratios": {}})
    return {**inference_page.GRID[0], "rows": rows}


def test_results_are_kept_once_and_what_lacks_is_next(tmp_path: Path) -> None:
    file = tmp_path / "results" / "inference.json"
    assert inference_page.missing(file) == inference_page.GRID
    inference_page.keep(file, {**inference_page.GRID[3], "rows": []})
    inference_page.keep(file, table(1.0, 1.0))
    inference_page.keep(file, table(4.5, 0.5))
    assert inference_page.missing(file)[0] == inference_page.GRID[1]
    first, second = inference_page.read(file)
    assert first == table(4.5, 0.5)
    assert inference_page.place(second) == inference_page.GRID[3]


def test_the_page_says_which_goals_are_missed(tmp_path: Path) -> None:
    file, page = tmp_path / "inference.json", tmp_path / "page.md"
    begin, end = common.marks(inference_page.BLOCK)
    page.write_text(f"before\n{begin}old\n{end}\nafter\n")
    inference_page.keep(file, table(4.5, 0.5))
    inference_page.write(file, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert (
        "| 90% | 4.50, 4.50 to 4.50 (goal 4: reached) | 0.50, 0.50 to 0.50 (goal 1: missed)" in text
    )
    assert "| 95% | 4.50, 4.50 to 4.50 (goal 6: missed)" in text
    assert "| 1 | 1 × 128 | ticketry | 4.00 | 4.00 |" in text
    assert "| 4.50 / 1.50 / 0.50 | 4.50 / 1.50 / 0.50 |" in text
    inference_page.keep(file, table(4.5, None))
    inference_page.write(file, page)
    assert "| 4.50 / 1.50 / - |" in page.read_text()


@pytest.mark.skipif(native.isa() is None, reason="no kernel library")
@pytest.mark.parametrize("isa", native.library().isas)
def test_the_roofline_says_what_every_part_takes(isa: str, tmp_path: Path) -> None:
    folder, matrices = tiny_bert(tmp_path / "model"), tmp_path / "matrices"
    sizes = roofline.pack(folder, matrices)
    assert sizes == ["2", "16", "64"]
    rows = roofline.run(roofline.built(), native.ISAS[isa], 16, sizes, matrices)
    said = list(roofline.lines({0.0: rows}, 16, isa))
    assert said[0].startswith(f"One core, {isa}: ")
    for part in ("products hidden x hidden", "activation", "normalisation", "attention", "encoder"):
        assert rows[part]["seconds"] > 0
        assert any(line.startswith(f"| {part} | 0% | ") for line in said)
    assert rows["encoder"]["flop"] == 2 * 2 * (8192 * 16 + 2 * 32 * 16 * 16)
