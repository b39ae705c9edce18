"""`ticketry doctor` and `ticketry bench`: what they say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ticketry.models.loading import load_backbone, resolve
from ticketry.runtime import native
from ticketry.runtime.doctor import facts

ARTIFACT = Path(__file__).parents[1] / "artifact" / "v1"


def test_the_doctor_says_what_is_used_and_why(run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row.what: row for row in facts()}
    assert rows["kernel library"].good == (native.library().handle is not None)
    assert {f"instruction set {name}" for name in native.ISAS} <= set(rows)
    assert rows["threads"].found.startswith(f"{torch.get_num_threads()} of ")
    said = run("doctor").out.splitlines()
    assert len(said) == len(rows)
    assert all(line.startswith(("yes ", "no  ")) for line in said)
    found = json.loads(run("doctor", "--json").out)["facts"]
    assert [row["what"] for row in found] == list(rows)

    monkeypatch.setenv(native.ISA_VARIABLE, "sse9")
    shown = run("doctor")
    assert shown.code == 0
    assert "unknown instruction set in TICKETRY_ISA 'sse9'" in shown.out
    monkeypatch.delenv(native.ISA_VARIABLE)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/at/all.so")
    assert "none: sparse layers run as dense ones" in run("doctor").out


def test_bench_measures_a_sparse_model(run, tiny_model: Path, tmp_path: Path) -> None:
    model = load_backbone(resolve(str(tiny_model)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".dense.weight" in name:
                parameter.mul_(torch.rand(parameter.shape) < 0.05)
    model.save_pretrained(tmp_path / "sparse")
    shown = run("bench", tmp_path / "sparse", "--length", "16", "--rounds", "3", "--batch", "2")
    assert shown.code == 0, shown.err
    assert "times as fast:" in shown.out
    assert "encoder.layer.0.intermediate.dense" in shown.out
    found = json.loads(
        run("bench", tmp_path / "sparse", "--length", "16", "--rounds", "3", "--json").out
    )
    assert found["largest_difference"] <= 1e-4
    rows = {row["name"]: row for row in found["layers"]}
    assert rows["encoder.layer.0.attention.self.query"]["why"] == "nothing is pruned"
    assert rows["encoder.layer.0.intermediate.dense"]["sparsity"] > 0.9
    if native.library().handle:
        assert rows["encoder.layer.0.intermediate.dense"]["dense_s"] > 0
    assert found["dense"]["low_s"] <= found["dense"]["median_s"] <= found["dense"]["high_s"]


def test_bench_refuses_what_it_cannot_measure(run, tiny_model: Path) -> None:
    shown = run("bench", tiny_model, "--batch", "0", "--rounds", "0")
    assert shown.code == 2
    assert "--batch must be at least 1, not 0." in shown.err
    assert "--rounds must be at least 1, not 0." in shown.err
    shown = run("bench", tiny_model, "--length", "100000")
    assert shown.code == 2
    assert "--length 100000 is more than the model's" in shown.err
    assert run("bench", tiny_model / "nowhere").code == 2
