"""Whole runs of the objectives beside classification, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from ticketry import find, train
from tiny_language import tales_file, tiny_gpt2
from tiny_tables import rated, tagged


@pytest.mark.parametrize(
    ("objective", "column", "metric", "least"),
    [("regression", "stars", "spearman", 0.7), ("multi-label", "tags", "micro-f1", 0.5)],
)
def test_a_whole_run(
    tiny_model: Path, tmp_path: Path, objective: str, column: str, metric: str, least: float
) -> None:
    path = {"stars": rated, "tags": tagged}[column](tmp_path / "a.csv", 200)
    ticket = find(
        str(tiny_model), data=str(path), text_column="text", label_column=column,
        objective=objective, sparsity=0.3, method="one-shot", replicates=2, epochs=8,
        batch_size=8, learning_rate=4e-3, max_length=16, workers=0, keep_model=True,
        out=tmp_path / "run",
    )  # fmt: skip
    assert ticket.verdict is not None
    assert ticket.verdict.metric == metric
    assert ticket.verdict.dense_mean > least
    assert ticket.evidence is not None
    assert ticket.evidence["command"].count(f"--objective {objective}") == 1
    assert metric in (tmp_path / "run" / "report.html").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.problem_type.startswith(objective.replace("-", "_"))


def test_a_whole_run_on_a_text_file(tmp_path: Path) -> None:
    ticket = find(
        str(tiny_gpt2(tmp_path / "gpt2")),
        data=str(tales_file(tmp_path / "tales.txt")),
        objective="causal-lm",
        sparsity=0.3,
        levels=1,
        replicates=2,
        epochs=8,
        batch_size=4,
        learning_rate=1e-2,
        max_length=16,
        workers=0,
        out=tmp_path / "run",
    )
    evidence = ticket.evidence
    assert evidence is not None
    assert (evidence["metric"], evidence["direction"], evidence["margin"]) == (
        "loss",
        "lower",
        0.01,
    )
    assert evidence["data"]["objective"] == "causal-lm"
    assert evidence["data"]["labels"] == []
    assert (
        evidence["data"]["train"] + evidence["data"]["validation"] + evidence["data"]["test"] == 60
    )
    assert evidence["dense"]["mean"] < 2.5  # from log 34 = 3.53
    assert ticket.verdict is not None
    assert "nats per token (perplexity" in ticket.verdict.sentences()[0]
    card = (tmp_path / "run" / "ticket" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "nats per token (perplexity" in (tmp_path / "run" / "report.html").read_text()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["steps"][0]["train_passes"] % 4 == 0
    record = train(
        ticket,
        data=str(tmp_path / "tales.txt"),
        objective="causal-lm",
        workers=0,
        out=tmp_path / "model",
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model")
    for name in ticket.mask:
        assert not model.transformer.state_dict()[name][~ticket.mask[name]].any()
    assert record["objective"] == "causal-lm"
