"""``accelerate launch -m ticketry.cli find`` with two processes, against the single process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ticketry import Ticket
from tiny import tiny_bert

OPTIONS = [
    "--text-column", "review", "--label-column", "verdict", "--sparsity", "0.4", "--levels", "2",
    "--replicates", "2", "--recipe", "paper", "--epochs", "4", "--batch-size", "8",
    "--learning-rate", "0.003", "--max-length", "16",
]  # fmt: skip
FAULT = """
import os
from ticketry import cli, kinds

if os.environ["RANK"] == "1":
    def fail(*_):
        raise OSError("a rank's own fault")

    kinds.KINDS = {**kinds.KINDS, "half-budget": fail}
cli.main()
"""


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without dropout, which cannot be drawn alike for other shapes of batches."""
    folder = tiny_bert(tmp_path_factory.mktemp("still") / "bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def launch(program: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    return subprocess.run(
        [*launcher, "--num_processes", "2", "--main_process_port", "0", *program, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def evidence_of(out: Path) -> dict[str, Any]:
    evidence = Ticket.from_pretrained(out / "ticket").evidence
    assert evidence is not None
    return evidence


def losses(out: Path) -> dict[str, float]:
    plan = json.loads((out / "plan.json").read_text())
    records = {
        step["name"]: out / "store" / "objects" / step["key"][:2] / step["key"] / "record.json"
        for step in plan["steps"]
    }
    return {name: json.loads(path.read_text())["mean_loss"] for name, path in records.items()}


def test_two_processes_find_the_single_ones_ticket(
    still: Path, reviews: Path, tmp_path: Path
) -> None:
    arguments = ["find", "--model", str(still), "--data", str(reviews), *OPTIONS]
    cli = [sys.executable, "-m", "ticketry.cli"]
    one = subprocess.run(
        [*cli, *arguments, "--workers", "0", "--out", str(tmp_path / "one")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert one.returncode == 0, one.stderr

    # A rank that fails ends the launch with one message; what was finished is kept.
    (tmp_path / "fault.py").write_text(FAULT)
    two = [*arguments, "--workers", "3", "--out", str(tmp_path / "two")]
    failed = launch([str(tmp_path / "fault.py")], two)
    assert failed.returncode != 0
    said = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: rank 1 failed: OSError: a rank's own fault. Start the same command again to "
        "continue; what was finished is kept."
    ]
    assert not (tmp_path / "two" / "ticket").exists()

    # Not shared by a mistake: nothing done before is done again, everything else is.
    shared = launch(["-m", "ticketry.cli"], two)
    assert shared.returncode == 0, shared.stderr
    done = [line for line in shared.stderr.splitlines() if line.startswith("done: ")]
    assert len(done) == sum("done: " in line for line in one.stderr.splitlines()) - len(
        [line for line in failed.stderr.splitlines() if line.startswith("done: ")]
    )

    # The tolerance: sums in another order move low bits, and so weights at the threshold.
    masks = [Ticket.from_pretrained(tmp_path / run / "ticket").mask for run in ("one", "two")]
    assert masks[0].kept == masks[1].kept
    assert masks[0].overlap(masks[1]).kept_iou >= 0.999
    alone, launched = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert launched == pytest.approx(alone, rel=1e-3)
    assert launched != alone  # two processes did it: sums of two halves
    for arm in ("dense", "ticket"):
        scores = [evidence_of(tmp_path / run)[arm]["scores"] for run in ("one", "two")]
        assert scores[1] == pytest.approx(scores[0], abs=1 / 48)  # one test example

    # Bad input is said once, by the rank that reads it.
    bad = launch(["-m", "ticketry.cli"], [*two[:-1], str(tmp_path / "three"), "--sparsity", "1.4"])
    assert bad.returncode != 0
    assert sum(line.startswith("error: ") for line in bad.stderr.splitlines()) == 1
    assert "error: --sparsity is 1.4; expected a number in [0, 1)." in bad.stderr
    assert not (tmp_path / "three").exists()
