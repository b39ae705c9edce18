"""A study over several pre-trained models: masks go where the tensors in scope are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from architectures import ARCHITECTURES
from little_images import class_folders
from ticketry.core.kernels import kernel_counts
from ticketry.errors import ConfigError
from ticketry.maskfile import load_mask
from ticketry.studies.planfile import build_plan
from ticketry.studies.running import StudyPlace, run_study
from ticketry.studies.spec import StudySpec
from tiny import tiny_bert


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        "one": tiny_bert(place / "one"),
        "two": tiny_bert(place / "two", seed=1),
        "wide": tiny_bert(place / "wide", intermediate_size=24),
    }


def plan(models: dict[str, Path], reviews: Path, second: str, **changes: Any) -> StudySpec:
    data = {"data": str(reviews), "text_column": "review", "label_column": "verdict"}
    return build_plan(
        {
            "study": "toy",
            "model": str(models["one"]),
            "recipe": {"recipe": "paper", "epochs": 1, "batch_size": 8, "max_length": 16},
            "tasks": {"on-one": data, "on-other": {**data, "model": str(models[second])}},
            "masks": 1,
            "fine_tunings": 1,
            "half_budget": False,
            "sources": ["on-one"],
            "targets": ["on-one", "on-other"],
            "sparsities": [0.4],
            "arms": {"imp": {"method": "imp", "grid": [0.2, 0.4]}},
            **changes,
        }
    )


def test_a_mask_of_one_model_is_trained_from_another_s_weights(
    models: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    result = run_study(plan(models, reviews, "two"), StudyPlace(tmp_path / "out", workers=0))
    assert result.complete
    cells = {(c["arm"], c["target"]): c["scores"] for c in result.summary["cells"]}
    assert set(cells) == {(a, t) for a in ("dense", "imp") for t in ("on-one", "on-other")}
    contexts = json.loads((tmp_path / "out" / "contexts.json").read_text())
    assert len({context["base_sha256"] for context in contexts.values()}) == 2
    losses = {
        line["record"]["mean_loss"] for line in map(json.loads, _lines(tmp_path / "out"))
        if line["name"].startswith("dense")
    }  # fmt: skip
    assert len(losses) == 2  # equal data, order and heads: the models tell them apart


def _lines(out: Path) -> list[str]:
    return (out / "records.jsonl").read_text().splitlines()


def test_models_of_other_tensors_are_refused_before_anything_is_trained(
    models: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    place = StudyPlace(tmp_path / "out", workers=0)
    with pytest.raises(
        ConfigError,
        match=r"arm imp: masks found on on-one do not fit the model of on-other: encoder\.layer\.0"
        r"\.intermediate\.dense\.weight is 64×32 in on-one's model and 24×32 in on-other's\. Give",
    ):
        run_study(plan(models, reviews, "wide"), place)
    assert not place.out.exists()


def test_masks_are_set_beside_those_of_the_same_tensors(
    models: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    alone = {"sources": ["on-one", "on-other"], "targets": "same", "masks": 2}
    spec = plan(models, reviews, "wide", **alone)
    result = run_study(spec, StudyPlace(tmp_path / "out", workers=0))
    assert result.complete
    near = result.summary["overlaps"]
    sources = [[mask["source"] for mask in at["masks"]] for at in near]
    assert sources == [["on-one"] * 2, ["on-other"] * 2]
    assert [at["sparsity"] for at in near] == [0.4, 0.4]
    both = plan(models, reviews, "two", **alone)
    result = run_study(both, StudyPlace(tmp_path / "both", workers=0))
    assert [len(at["masks"]) for at in result.summary["overlaps"]] == [4]
    spec = plan(models, reviews, "wide", **alone, overlaps=False)
    assert run_study(spec, StudyPlace(tmp_path / "not", workers=0, plan_only=True)).price


def test_a_study_of_convolutions_counts_zero_kernels(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(ARCHITECTURES["convnext"].build_config())
    model.save_pretrained(tmp_path / "model")
    data = class_folders(tmp_path / "data", {"cat": 12, "dog": 12})
    spec = build_plan(
        {
            "study": "toy",
            "model": str(tmp_path / "model"),
            "recipe": {"recipe": "paper", "epochs": 1, "batch_size": 8, "image_size": 8},
            "tasks": {"t": {"data": str(data), "objective": "image-classification"}},
            "masks": 2,
            "fine_tunings": 1,
            "half_budget": False,
            "sources": ["t"],
            "targets": "same",
            "sparsities": [0.9],
            "arms": {"imp": {"method": "imp", "grid": [0.9]}},
            "overlaps": False,
        }
    )
    result = run_study(spec, StudyPlace(tmp_path / "out", workers=0))
    assert result.complete
    rows = result.summary["kernels"]
    assert [(row["arm"], row["source"], row["number"]) for row in rows] == [
        ("imp", "t", 0), ("imp", "t", 1),
    ]  # fmt: skip
    masks = [
        load_mask(path.read_bytes())
        for path in (tmp_path / "out" / "store" / "objects").glob("*/*/mask.safetensors")
    ]
    shares = [
        sum(c.zero for c in kernel_counts(mask)) / sum(c.kernels for c in kernel_counts(mask))
        for mask in masks
    ]
    assert sorted(row["zero"] for row in rows) == pytest.approx(sorted(shares))
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "| imp, t | 90% | 2 | " in page.split("**Zero kernels**")[1]
