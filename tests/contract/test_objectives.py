"""Numbers and label sets: read from files, learned, scored, and each bad column refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ticketry.config import DataSpec, check_data
from ticketry.errors import DataError, UnknownNameError
from ticketry.models.loading import resolve
from ticketry.recipes import Recipe
from ticketry.tasks.base import TaskData
from ticketry.tasks.classification import SequenceClassification
from ticketry.tasks.files import load_file
from ticketry.tasks.objectives import OBJECTIVES, workload_for
from ticketry.tasks.tables import read_table
from tiny import BAD, GOOD
from tiny_tables import rated, tagged, write

RECIPE = Recipe(epochs=30, batch_size=8, max_length_tokens=16, learning_rate=5e-3)


def load(path: Path, objective: str, **columns: Any) -> TaskData:
    return load_file(str(path), text_column="text", objective=objective, **columns)


def test_a_file_of_numbers(tmp_path: Path) -> None:
    data = load(rated(tmp_path / "a.csv"), "regression", label_column="stars")
    assert (data.objective, data.metric, data.labels) == ("regression", "spearman", ("stars",))
    sizes = [len(s) for s in (data.train, data.validation, data.test)]
    assert sum(sizes) == 120
    assert sizes[2] == pytest.approx(24, abs=5)
    assert all(isinstance(label, float) for label in data.train.labels)
    # Stratified: the test part spans the whole scale.
    assert min(data.test.labels) < -1 < 1 < max(data.test.labels)


def test_label_sets_in_one_column_and_in_several_are_the_same(tmp_path: Path) -> None:
    path = tagged(tmp_path / "a.csv")
    one = load(path, "multi-label", label_column="tags")
    several = load(path, "multi-label", label_columns=("bad", "good"))
    assert one.labels == several.labels == ("bad", "good")
    assert one.sha256 == several.sha256
    assert (one.metric, one.objective) == ("micro-f1", "multi-label")
    assert set(one.train.labels) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for text, label in zip(one.test.texts, one.test.labels, strict=True):
        words = text.split()
        assert label == (int(any(w in BAD for w in words)), int(any(w in GOOD for w in words)))


def test_lists_of_names_in_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = csv.DictReader(io.StringIO(tagged(tmp_path / "a.csv").read_text()))
    lists = [{"text": r["text"], "tags": [t for t in r["tags"].split(";") if t]} for r in rows]
    path.write_text("\n".join(map(json.dumps, lists)))
    wanted = load(tmp_path / "a.csv", "multi-label", label_column="tags")
    assert load(path, "multi-label", label_column="tags").sha256 == wanted.sha256


@pytest.fixture(scope="module")
def workloads(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SequenceClassification]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    numbers = load(rated(folder / "a.csv"), "regression", label_column="stars")
    sets = load(tagged(folder / "b.csv"), "multi-label", label_column="tags")
    base = resolve(str(tiny_model))
    return {data.objective: workload_for(base, data, RECIPE) for data in (numbers, sets)}


def test_losses_are_those_of_transformers(workloads: dict[str, SequenceClassification]) -> None:
    for objective, workload in workloads.items():
        model = workload.build(1).eval()
        batch = workload.batches(1)[0]
        assert model(**batch).loss.item() == pytest.approx(workload.loss(model, batch).item())
        assert model.config.problem_type.startswith(objective.replace("-", "_"))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    by_hand = binary_cross_entropy_with_logits(model(**inputs).logits, batch["labels"])
    assert workload.loss(model, batch).item() == pytest.approx(by_hand.item())


def test_each_objective_is_learned(workloads: dict[str, SequenceClassification]) -> None:
    # A few steps on one batch: what is learned by heart shows that loss and gradients fit.
    for workload in workloads.values():
        torch.manual_seed(0)  # dropout's draws, which else depend on the tests that ran before
        model = workload.build(1).train()
        batch = workload.batches(1)[0]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(100):
            loss = workload.loss(model, batch)
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[-1] < 0.3 * losses[0]


def test_predictions_stand_in_the_split_order(workloads: dict[str, SequenceClassification]) -> None:
    for workload in workloads.values():
        model = workload.build(1)
        found = workload.evaluate(model, "test")
        encoded = workload._splits["test"]
        for i in (0, 5, 11):
            batch = encoded.collate(np.array([i]), 0)
            del batch["labels"]
            with torch.no_grad():
                logits = model(**batch).logits[0]
            if workload.data.objective == "regression":
                assert found.predictions[i] == pytest.approx(logits.item(), abs=1e-5)
            else:
                assert found.predictions[i] == tuple((logits > 0).int().tolist())
        metric = workload.metric
        truth, runs = metric.outputs.read(workload.data.test.labels, {"run": found.predictions})
        assert metric.outputs.scores(truth, runs["run"][None])[0] == pytest.approx(found.score)


@pytest.mark.parametrize(
    ("objective", "header", "row", "columns", "message"),
    [
        ("regression", ["text", "y"], ["t {i}", "good"], {"label_column": "y"},
         r"row 2: column 'y' holds 'good'; --objective regression expects a finite number. For "
         r"classes, leave --objective out\.$"),
        ("regression", ["text", "y"], ["t {i}", "inf"], {"label_column": "y"},
         r"row 2: column 'y' holds 'inf'; .* finite number"),
        ("regression", ["text", "y"], ["t {i}", ""], {"label_column": "y"},
         r"40 missing labels in column 'y' \(rows 2, 3, 4, 5, 6 and 35 more\)"),
        ("regression", ["text", "y"], ["t {i}", "2"], {"label_column": "y"},
         r"has one number only \(2\)"),
        ("multi-label", ["text", "y"], ["t {i}", "a"], {"label_column": "y"},
         r"no row of column 'y' has two labels; .* separated by ';'"),
        ("multi-label", ["text", "y"], ["t {i}", "a;b{i}"], {"label_column": "y"},
         r"too few examples of 'b0' \(1\)"),
        ("multi-label", ["text", "y", "z"], ["t {i}", "1", "maybe"], {"label_columns": ("y", "z")},
         r"row 2: column 'z' holds 'maybe'; --label-columns expects 0 or 1 in each"),
        ("multi-label", ["text", "y", "z"], ["t {i}", "1", "0"], {"label_columns": ("y", "x")},
         r"no column 'x'"),
        ("classification", ["text", "y"], ["t {i}", "{i}.5"], {"label_column": "y"},
         r"column 'y' has 40 different numbers .* look like a quantity.* --objective regression"),
    ],
)  # fmt: skip
def test_columns_of_another_kind_are_refused(
    tmp_path: Path,
    objective: str,
    header: list[str],
    row: list[str],
    columns: dict[str, Any],
    message: str,
) -> None:
    rows = [[cell.format(i=i) for cell in row] for i in range(40)]
    path = write(tmp_path / "a.csv", header, rows)
    with pytest.raises(DataError, match=message):
        load(path, objective, **columns)


def test_values_that_only_json_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t {i}", "y": ["a"]}) for i in range(30)))
    with pytest.raises(DataError, match=r"row 1: column 'y' holds \['a'\]; .* one class a row"):
        load(path, "classification", label_column="y")
    path.write_text("\n".join(json.dumps({"text": f"t {i}", "y": True}) for i in range(30)))
    with pytest.raises(DataError, match="holds True; --objective regression expects a finite num"):
        load(path, "regression", label_column="y")
    path.write_text("\n".join(json.dumps({"text": f"t {i}", "y": 3}) for i in range(30)))
    with pytest.raises(DataError, match="holds 3; --objective multi-label expects names"):
        load(path, "multi-label", label_column="y")


def test_too_few_examples_of_an_objective(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["text", "y"], [[f"t {i}", i] for i in range(9)])
    with pytest.raises(DataError, match="has 9 examples; expected at least 20 to learn a number"):
        load(path, "regression", label_column="y")
    with pytest.raises(DataError, match=r"has 9 documents; expected at least 20.* In a .txt file"):
        load(path, "causal-lm")


def test_test_numbers_that_are_all_equal_tell_nothing(tmp_path: Path) -> None:
    test = write(tmp_path / "t.csv", ["text", "stars"], [[f"new {i}", 1] for i in range(30)])
    with pytest.raises(DataError, match=r"the test part of .* has one number only \(1\)"):
        load(rated(tmp_path / "a.csv"), "regression", label_column="stars", test_data=str(test))


def test_documents_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\nstill one\r\n\r\n \r\ntwo\n\n\nthree\n")
    assert read_table(str(path))["train"].columns == {"text": ["one\nstill one", "two", "three"]}
    path.write_text("one\ntwo\n")
    assert read_table(str(path))["train"].columns == {"text": ["one", "two"]}


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        ({"objective": "regresion"}, ["unknown --objective 'regresion'. Did you mean"]),
        ({"objective": "causal-lm", "label_column": "y", "text_pair_column": "z"},
         ["--data needs --text-column", "--label-column, --text-pair-column"
          " and --objective causal-lm exclude"]),
        ({"objective": "multi-label", "text_column": "t"}, ["needs either --label-column"]),
        ({"objective": "multi-label", "text_column": "t", "label_columns": ("a",)},
         ["--label-columns names one column"]),
        ({"label_columns": ("a", "b"), "text_column": "t"},
         ["--label-columns go with --objective multi-label", "--data needs --label-column"]),
        ({"data": "a.txt", "label_column": "y"}, ["a.txt is text without labels, for --objective"]),
        ({"test_data": "b.csv", "test_split": "x", "text_column": "t", "label_column": "y"},
         ["--test-data and --test-split were both given"]),
        ({"data": None, "task": "movies", "objective": "regression", "data_config": "x"},
         ["--objective, --data-config go with --data"]),
        ({"objective": "causal-lm", "text_column": "t"}, []),
        ({"data": "a.txt", "objective": "causal-lm"}, []),
    ],
)  # fmt: skip
def test_all_faults_of_a_data_choice(spec: dict[str, Any], faults: list[str]) -> None:
    found = check_data(DataSpec(**{"data": "a.csv", **spec}))
    assert len(found) == len(faults)
    for wanted, said in zip(faults, found, strict=True):
        assert wanted in said


def test_an_unknown_objective_shows_the_nearest() -> None:
    data = TaskData("t", "s", (), "accuracy", 0.01, *[None] * 3, objective="clasification")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'classification'"):
        workload_for(None, data, RECIPE)  # type: ignore[arg-type]
    assert set(OBJECTIVES) >= {"classification", "regression", "multi-label", "causal-lm"}


def test_texts_that_all_resemble_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(
        "\n".join(f"one two three four five six seven eight {'nine' * i}" for i in range(30))
    )
    with pytest.raises(DataError, match=r"leaves nothing for test and validation: its texts resem"):
        load(path, "causal-lm")
