"""The README's commands on the embedded real model, cut small: nothing here is a stand-in."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CUT = ["--train-samples", "64", "--epochs", "1", "--replicates", "2"]


def ticketry(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ticketry.cli", *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("readme") / "run"
    result = ticketry(
        "find", "--model", "minilm", "--task", "movies", "--sparsity", "0.4", "--method", "imp",
        "--levels", "2", "--recipe", "embedded", *CUT, "--out", str(out),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Plan: find a ticket at 40.0% sparsity by imp with 2 levels" in result.stderr
    assert f"Ticket: {out / 'ticket'}" in result.stdout
    return out / "ticket"


def test_find_keeps_exactly_what_it_says(ticket: Path) -> None:
    evidence = json.loads((ticket / "ticket_evidence.json").read_text())
    # 60% of MiniLM's 36 matrices: 6 layers x (4*384*384 + 2*384*1536) = 10,616,832 weights.
    assert evidence["prunable"] == 10_616_832
    assert evidence["kept"] == round(0.6 * 10_616_832) == 6_370_099
    assert len(evidence["layers"]) == 36


def test_inspect_evidence_and_report_agree(ticket: Path) -> None:
    found = json.loads(ticketry("inspect", str(ticket), "--json").stdout)
    evidence = json.loads((ticket / "ticket_evidence.json").read_text())
    report = (ticket.parent / "report.html").read_text()
    assert found["kept"] == evidence["kept"] == sum(row["kept"] for row in found["tensors"])
    assert found["prunable"] == evidence["prunable"]
    assert found["total_parameters"] == evidence["total_parameters"]
    assert found["verdict"] == evidence["verdict"]
    assert [(r["name"], r["kept"]) for r in found["tensors"]] == [
        (r["name"], r["kept"]) for r in evidence["layers"]
    ]
    assert f"{evidence['kept']:,}" in report


def test_inspect_the_model() -> None:
    found = json.loads(ticketry("inspect", "minilm", "--json").stdout)
    assert (found["prunable"], len(found["tensors"])) == (10_616_832, 36)
    paper = json.loads(ticketry("inspect", "minilm", "--scope", "bert-paper", "--json").stdout)
    assert (paper["prunable"], len(paper["tensors"])) == (10_616_832 + 384 * 384, 37)


def test_a_csv_of_your_own(ticket: Path, tmp_path: Path) -> None:
    from tiny import reviews_csv

    data = reviews_csv(tmp_path / "mine.csv", rows=120)
    with data.open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["review", "verdict"]
    columns = ["--data", str(data), "--text-column", "review", "--label-column", "verdict"]
    result = ticketry(
        "find", "--model", "minilm", *columns, "--sparsity", "0.4", "--method", "one-shot",
        "--from", "theta0", "--recipe", "embedded", *CUT, "--out", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["evidence"]["search"]["cost_dense_equivalents"] == 0
    result = ticketry(
        "train", str(ticket), *columns, "--recipe", "embedded", "--train-samples", "64",
        "--epochs", "1", "--out", str(tmp_path / "sparse"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    check = (
        "import sys\n"
        "from transformers import pipeline\n"
        "print(pipeline('text-classification', sys.argv[1], device='cpu')('a great film'))\n"
    )
    plain = subprocess.run(
        [sys.executable, "-c", check, str(tmp_path / "sparse")], capture_output=True, text=True
    )
    assert re.search(r"'label': '(pos|neg)'", plain.stdout), plain.stderr


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    assert {"ticket", "test", "test-unit", "setup"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_option_that_the_readme_names_exists() -> None:
    commands = re.findall(r"^ticketry ([a-z]+)((?:.|\\\n)*?)$", README, re.MULTILINE)
    assert commands
    for verb, rest in commands:
        shown = ticketry(verb, "--help").stdout
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown, f"ticketry {verb} {option}"
