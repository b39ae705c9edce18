"""Whole runs by the command line: what they print where, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path


def test_a_whole_run_prints_the_verdict_alone_on_stdout(find, tmp_path: Path) -> None:
    done = find(sparsity=0.5, method="one-shot")
    assert done.code == 0, done.err
    assert done.err.index("Plan: find a ticket") < done.err.index("done: ")
    assert done.out.splitlines()[-2:] == [
        f"Ticket: {tmp_path / 'run' / 'ticket'}",
        f"Report: {tmp_path / 'run' / 'report.html'}",
    ]
    assert "Plan" not in done.out
    again = find(sparsity=0.5, method="one-shot")
    assert again.code == 0
    assert again.out == done.out
    assert "is finished; nothing was done again" in again.err


def test_texts_that_are_cut_are_counted_and_said(find, tmp_path: Path) -> None:
    done = find(max_length=6, method="one-shot", controls="none")
    assert done.code == 0, done.err
    assert "Warning: texts longer than --max-length 6 tokens" in done.out
    evidence = json.loads((tmp_path / "run" / "ticket" / "ticket_evidence.json").read_text())
    # Sentences have 4 to 11 words, so with [CLS] and [SEP] only those of 4 fit.
    data = evidence["data"]
    assert 0 < data["truncated"]["train"] < data["train"]
    capped = find(max_length=500, method="one-shot", controls="none", out=tmp_path / "other")
    assert "reads at most 32 tokens; --max-length 500 is capped to that" in capped.err


def test_a_config_file_and_the_command_line_over_it(find, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("sparsity: 0.7\nmethod: one-shot\nfrom: theta0\nseed: 3\n")
    assert find(config=path, sparsity=0.5).code == 0
    spec = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (spec["search"]["sparsity"], spec["search"]["source"], spec["seed"]) == (
        0.5,
        "theta0",
        3,
    )


def test_diverged_training_is_a_failed_run(find) -> None:
    done = find(learning_rate=1e30, method="one-shot", controls="none")
    assert done.code == 1
    assert "error: the " in done.err
    assert "at step" in done.err
