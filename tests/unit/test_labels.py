"""Labels of every objective: kept through JSON, hashed, and drawn from in proportion."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from small_task import small_task
from ticketry.errors import DataError
from ticketry.tasks.base import Split, TaskData, strata


def split(labels: tuple[Any, ...], size: int | None = None) -> Split:
    size = len(labels) if size is None else size
    return Split(tuple(f"text {i}" for i in range(size)), None, labels)


def task(labels: tuple[Any, ...], size: int | None = None, **others: Any) -> TaskData:
    part = split(labels, size)
    return TaskData("t", "made up", ("a", "b"), "loss", 0.01, part, part, part, **others)


@pytest.mark.parametrize(
    "data",
    [
        task((0, 1, 1)),
        task((0.5, -3.25, 1e-9), objective="regression"),
        task(((0, 1), (1, 1), (0, 0)), objective="multi-label"),
        task((), 3, objective="causal-lm"),
    ],
    ids=lambda data: data.objective,
)
def test_json_keeps_labels_of_every_kind(data: TaskData) -> None:
    again = TaskData.from_json(json.loads(json.dumps(data.to_json())))
    assert again == data
    assert len(again.train) == 3


def test_the_hash_of_classification_data_is_that_of_earlier_versions() -> None:
    wanted = "4df63b763923855cd83ebaed3db58cd069ca581e95f51f0cf38d2128687b846d"
    assert small_task(4, 2, 2).sha256 == wanted


def test_a_changed_number_is_noticed() -> None:
    data = json.loads(json.dumps(task((0.5, 1.5), objective="regression").to_json()))
    data["test"]["labels"][1] = 1.25
    with pytest.raises(DataError, match="do not fit their hash"):
        TaskData.from_json(data)


def test_strata_worked_by_hand() -> None:
    assert strata(split((2, 0, 2))) == [2, 0, 2]
    assert strata(split((), 3)) == [0, 0, 0]
    # b is rarer than a; the last example has neither.
    assert strata(split(((1, 0), (1, 1), (1, 0), (0, 0)))) == [1, 2, 1, 0]
    # Tenths of 5 numbers; equal ones share the first one's.
    assert strata(split((3.0, 1.0, 2.0, 2.0, 9.0))) == [6, 0, 2, 2, 8]


def test_a_part_of_the_training_split_keeps_the_spread_of_numbers() -> None:
    data = task(tuple(float(i) for i in range(100)), objective="regression")
    part = data.limited(20, seed=1).train
    assert len(part) == len(part.labels) == 20
    assert Counter(int(label) // 10 for label in part.labels) == dict.fromkeys(range(10), 2)


def test_a_part_of_unlabelled_texts() -> None:
    part = task((), 50, objective="causal-lm").limited(7, seed=1).train
    assert (len(part), part.labels) == (7, ())
    assert len(set(part.texts)) == 7
