"""What a study says is worked out from its records: each read once, and checked."""

from __future__ import annotations

import collections
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from ticketry.config import canonical_json, fingerprint
from ticketry.errors import RunError
from ticketry.studies.ledger import Ledger
from ticketry.studies.planfile import build_plan
from ticketry.studies.running import StudyPlace, run_study
from ticketry.studies.spec import StudySpec


@pytest.fixture(scope="module")
def spec(tiny_model: Path, reviews: Path) -> StudySpec:
    return build_plan(
        {
            "study": "summaries",
            "model": str(tiny_model),
            "recipe": {"recipe": "paper", "epochs": 1, "batch_size": 8, "max_length": 16},
            "tasks": {
                "a": {"data": str(reviews), "text_column": "review", "label_column": "verdict"}
            },
            "masks": 2,
            "fine_tunings": 2,
            "half_budget": False,
            "targets": ["a"],
            "sparsities": [0.4, 0.6],
            "arms": {
                "theta0": {"method": "one-shot", "from": "theta0"},
                "own": {"method": "imp", "grid": [0.4, 0.6], "sources": ["a"], "targets": "same"},
            },
            "contrasts": {"question": {"a": "own", "b": "theta0", "margin": 0.9}},
            "controls": {"random-layerwise": {"of": "theta0"}},
        }
    )


@pytest.fixture(scope="module")
def whole(spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    assert run_study(spec, StudyPlace(out, workers=0)).complete
    return out


def _is_fine_tuning(line: dict[str, Any]) -> bool:
    return "predictions" in line["record"]


def test_predictions_are_read_once_however_many_comparisons_take_them(
    spec: StudySpec, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: collections.Counter[str] = collections.Counter()
    plain = Ledger.predictions

    def counted(ledger: Ledger, key: str) -> list[object]:
        read[key] += 1
        return plain(ledger, key)

    monkeypatch.setattr(Ledger, "predictions", counted)
    summary = run_study(spec, StudyPlace(whole, workers=0)).summary
    compared = sum(len(cell["against"]) for cell in summary["cells"])
    # Two masks of θ0 with dense and a control each, two controls and two of searches with dense.
    assert compared == 8
    assert set(read) == {key for key, line in Ledger(whole).lines.items() if _is_fine_tuning(line)}
    assert set(read.values()) == {1}


def test_a_contrast_with_masks_of_no_source_is_answered(spec: StudySpec, whole: Path) -> None:
    summary = run_study(spec, StudyPlace(whole, workers=0)).summary
    scores = {(c["arm"], c["sparsity"]): c["scores"] for c in summary["cells"] if not c["control"]}
    for contrast in summary["contrasts"]:
        pairs = zip(*(scores[arm, contrast["sparsity"]] for arm in ("own", "theta0")), strict=True)
        gains = [statistics.fmean(a) - statistics.fmean(b) for a, b in pairs]
        assert len(gains) == contrast["searches"] == 2
        assert contrast["gains"] == pytest.approx(gains)
    assert [contrast["sparsity"] for contrast in summary["contrasts"]] == [0.4, 0.6]


def test_a_score_that_does_not_follow_from_its_predictions_is_told(
    spec: StudySpec, whole: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(whole, copy)
    ledger = Ledger(copy)
    line = next(line for line in ledger.lines.values() if _is_fine_tuning(line))
    line["record"]["test_score"] += 0.01
    line["sha256"] = fingerprint({k: v for k, v in line.items() if k != "sha256"})
    (copy / "records.jsonl").write_text(
        "".join(f"{canonical_json(one)}\n" for one in ledger.lines.values())
    )
    with pytest.raises(RunError, match=r"but its predictions give .* delete its line in"):
        run_study(spec, StudyPlace(copy, workers=0))
