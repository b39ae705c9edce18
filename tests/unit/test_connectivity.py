"""Linear mode connectivity: barriers by hand, the steps, and what lies between two models."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ticketry.connectivity import (
    POINTS,
    barrier,
    connectivity_steps,
    read_arm,
    say_stability,
)
from ticketry.errors import ModelError, RunError
from ticketry.files import pretty_json
from ticketry.models.weights import between, refuse_batch_norm
from ticketry.recipes import Recipe
from ticketry.search import Sizes
from ticketry.store import RECORD, Store
from ticketry.verification import Start

RECIPE = Recipe(epochs=2, batch_size=10)
SIZES = Sizes(100, 30, 50)
scores = st.lists(st.floats(-10, 10), min_size=2, max_size=11)


def test_barriers_by_hand() -> None:
    # Accuracy .9 and .8 at the ends, .6 between: error .4 less their mean .15.
    assert barrier([0.9, 0.6, 0.7, 0.8], 1.0) == (pytest.approx(0.25), 1)
    # A loss of 1 and 2 at the ends and 2.5 between.
    assert barrier([1.0, 2.5, 2.0], -1.0) == (pytest.approx(1.0), 1)
    # Nothing between is worse than the worse end: half of what the ends differ by is left.
    assert barrier([0.9, 0.95, 0.8], 1.0) == (pytest.approx(0.05), 2)
    assert barrier([0.7, 0.7, 0.7], 1.0) == (0.0, 0)


@settings(deadline=None)
@given(scores, st.sampled_from([1.0, -1.0]))
def test_a_barrier_is_never_negative_and_the_same_from_either_end(
    row: list[float], sign: float
) -> None:
    height, place = barrier(row, sign)
    assert height >= -1e-12
    assert barrier(row[::-1], sign)[0] == pytest.approx(height)
    assert sign * row[place] == min(sign * score for score in row)
    assert barrier([-score for score in row], -sign) == (pytest.approx(height), place)


def test_the_steps_of_a_ticket_and_of_dense() -> None:
    ticket = connectivity_steps(Start("m" * 64, 0.4), RECIPE, (1, 2, 3), SIZES, "context")
    dense = connectivity_steps(None, RECIPE, (1, 2, 3), SIZES, "context")
    assert [step.kind for step in ticket.steps] == ["endpoint"] * 3 + ["connectivity"] * 3
    assert [step.params["seed"] for step in ticket.ends] == [1, 2, 3]
    assert {step.params["shared_seed"] for step in ticket.steps} == {1}
    assert [step.params["seeds"] for step in ticket.lines] == [[1, 2], [1, 3], [2, 3]]
    assert ticket.lines[1].needs == (ticket.ends[0].key, ticket.ends[2].key)
    assert {step.needs for step in ticket.ends} == {("m" * 64,)}
    assert {step.needs for step in dense.ends} == {()}
    assert {step.train_passes for step in ticket.ends} == {200}
    assert {step.eval_passes for step in ticket.lines} == {9 * 30}
    assert len({step.key for step in (*ticket.steps, *dense.steps)}) == 12


def test_a_ticket_that_carries_weights_trains_the_steps_after_them() -> None:
    start = Start("m" * 64, 0.4, weights_key="w" * 64, rewind_step=3)
    (first, _) = connectivity_steps(start, RECIPE, (1, 2), SIZES, "context").ends
    assert first.needs == ("m" * 64, "w" * 64)
    assert (first.params["carried"], first.params["first_step"]) == (True, 3)
    assert first.train_passes == 200 - 30


@pytest.mark.parametrize("seeds", [(), (1,), (2, 1, 2)])
def test_seeds_that_give_no_line_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"seeds are {list(seeds)}; expected two")):
        connectivity_steps(None, RECIPE, seeds, SIZES, "context")


def filled(store: Store, *rows: list[float]) -> dict[str, object]:
    """Store records of a line, or of three, and read the arm by accuracy with a margin of .01."""
    seeds = (1, 2) if len(rows) == 1 else (1, 2, 3)
    steps = connectivity_steps(None, RECIPE, seeds, SIZES, "context")
    for step in steps.ends:
        record = {"seed": step.params["seed"], "validation_score": 0.5}
        store.write(step.key, {RECORD: pretty_json(record)}, {})
    for step, row in zip(steps.lines, rows, strict=True):
        record = {"alphas": [i / (len(row) - 1) for i in range(len(row))], "validation_scores": row}
        store.write(step.key, {RECORD: pretty_json(record)}, {})
    return read_arm(steps, store, "accuracy", 0.01)


def test_an_arm_is_as_stable_as_its_highest_barrier(tmp_path: Path) -> None:
    flat = [0.8] * POINTS
    low = [0.8, *[0.79] * (POINTS - 2), 0.8]
    high = [0.8, 0.8, 0.7899, *[0.8] * (POINTS - 3)]
    found = filled(Store(tmp_path / "a"), low)
    assert found["barrier"] == pytest.approx(0.01)
    assert found["stable"] is True  # a barrier of the margin itself, whatever its last bit
    said = say_stability("Ticket", found, "accuracy", 0.01)
    assert said == "Ticket: stable to SGD noise (barrier 1.00 points ≤ margin 1.0)."
    found = filled(Store(tmp_path / "b"), flat, high, flat)
    assert found["stable"] is False
    assert [line["at"] for line in found["lines"]] == [0.0, 0.2, 0.0]  # type: ignore[attr-defined]
    said = say_stability("Dense", found, "accuracy", 0.01)
    assert said == "Dense: not stable to SGD noise (barrier 1.01 points > margin 1.0)."


def test_a_record_that_is_not_of_the_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"between seeds 1 and 2\) has 3 scores; expected 11. Delete"
    ):
        filled(Store(tmp_path), [0.8, 0.8, 0.8])


def test_between_two_models() -> None:
    one = {"w": torch.tensor([0.0, 1.0, 0.1]), "table": torch.tensor([1, 2])}
    two = {"w": torch.tensor([0.0, 3.0, 0.7]), "table": torch.tensor([1, 2])}
    for alpha, end in ((0.0, one), (1.0, two)):
        assert torch.equal(between(one, two, alpha)["w"], end["w"])
    middle = between(one, two, 0.25)
    assert middle["w"].tolist() == pytest.approx([0.0, 1.5, 0.25])
    assert torch.equal(middle["table"], one["table"])
    with pytest.raises(ModelError, match="2 tensors are not alike at the two ends of a line: "):
        between(one, {"w": torch.zeros(2)}, 0.5)


def test_batch_normalisation_is_refused() -> None:
    refuse_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    with pytest.raises(ModelError, match=r"the model has batch normalisation \(1\), whose stat"):
        refuse_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_recipe_of_half_a_batch_has_whole_steps() -> None:
    small = dataclasses.replace(RECIPE, epochs=0.01)
    (first, _) = connectivity_steps(None, small, (1, 2), SIZES, "context").ends
    assert first.train_passes == 10
