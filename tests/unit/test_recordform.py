"""The form of records: what each kind of task predicts is read back, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ticketry.forms import faults_of
from ticketry.recordform import FORMS

FORM = {"predictions": FORMS["replicate"]["predictions"]}


@pytest.mark.parametrize(
    "predictions",
    [
        (0, 2, 1),  # classes
        (0.5, -1.25),  # numbers
        ((0, 1), (1, 1)),  # flags of labels
        ("Paris", ""),  # answers, or maps of classes
        (((9, 0.535, 37.24, 42.43, 80.75, 87.9), (0, 0.1, 0.0, 0.0, 4.0, 5.5)), ()),  # boxes
        ((),),
    ],
)
def test_predictions_are_read_back(predictions: tuple[Any, ...]) -> None:
    assert not faults_of(json.loads(json.dumps({"predictions": predictions})), FORM)


@pytest.mark.parametrize("wrong", [None, {}, [[["x"]]], [[[[1]]]], ["a", [None]]])
def test_what_no_task_predicts_is_a_fault(wrong: Any) -> None:
    assert faults_of({"predictions": [wrong]}, FORM)
