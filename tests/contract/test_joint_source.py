"""A study with a joint source: masks found on two tasks at once, fine-tuned on each alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ticketry.studies.ledger import Ledger
from ticketry.studies.planfile import build_plan
from ticketry.studies.running import StudyPlace, run_study
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.registry import TASKS, TaskInfo, register_task
from tiny_masked import documents_file


@pytest.fixture
def _tasks(reviews: Path, tmp_path: Path) -> Iterator[None]:
    """Two named tasks, one of which warms up its head on the tiny model."""
    text = documents_file(tmp_path / "hidden.txt", 60)

    def hidden(*, split_seed: int, say: Any) -> TaskData:
        return load_file(str(text), objective="masked-lm", seed=split_seed)

    def verdicts(*, split_seed: int, say: Any) -> TaskData:
        return load_file(
            str(reviews), text_column="review", label_column="verdict", seed=split_seed
        )

    kept = dict(TASKS)
    register_task(TaskInfo("hidden", "made up", "mlm-accuracy", hidden, "masked-lm"))
    register_task(TaskInfo("verdicts", "made up", "accuracy", verdicts))
    yield
    TASKS.clear()
    TASKS.update(kept)


@pytest.mark.usefixtures("_tasks")
def test_a_study_with_a_joint_source(tiny_model: Path, tmp_path: Path) -> None:
    spec = build_plan(
        {
            "study": "joint",
            "model": str(tiny_model),
            "recipe": {"recipe": "paper", "epochs": 1, "batch_size": 8, "max_length": 16},
            "tasks": {"both": {"task": "hidden+verdicts", "train_samples": 30}},
            "masks": 2,
            "fine_tunings": 2,
            "half_budget": False,
            "sources": ["verdicts", "hidden+verdicts", "both"],
            "targets": ["verdicts"],
            "sparsities": [0.4],
            "arms": {
                "imp": {"method": "imp", "grid": [0.2, 0.4]},
                "snip": {"method": "one-shot", "from": "theta0", "criterion": "snip",
                         "sources": ["hidden+verdicts"]},
            },
        }
    )  # fmt: skip
    out = tmp_path / "out"
    result = run_study(spec, StudyPlace(out, workers=0))
    assert result.complete
    cells = {(c["arm"], c["source"]): c for c in result.summary["cells"]}
    assert set(cells) == {
        ("dense", None), ("imp", "verdicts"), ("imp", "hidden+verdicts"), ("imp", "both"),
        ("snip", "hidden+verdicts"),
    }  # fmt: skip
    assert set(cells["imp", "hidden+verdicts"]["against"]) == {"dense", "same-task"}
    assert {cell["target"] for cell in cells.values()} == {"verdicts"}
    lines = Ledger(out).lines.values()
    levels = [line for line in lines if "hidden+verdicts" in line["name"]]
    rounds = [line["record"] for line in levels if line["kind"] == "level"]
    assert len(rounds) == 2 * 2
    # The head of masked language modelling is warmed up once for all searches of a source.
    warmed = [line["key"] for line in lines if line["kind"] == "warm-head"]
    assert len(warmed) == 2
    heads = {line["params"]["head"] for line in levels if line["kind"] == "level"}
    assert len(heads) == 1 < len({*heads, *warmed})
    assert all(record["train_examples"] == 16 * record["steps"] for record in rounds)
    tuned = [line["record"] for line in lines if line["kind"] == "replicate"]
    masks = {record["mask_digest"] for record in tuned}
    assert len(masks) == 1 + 4 * 2  # dense's none, and two of each arm and source
    again = run_study(spec, StudyPlace(out, workers=0))
    assert again.price["trainings_left"] == 0
