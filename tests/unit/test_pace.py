"""The price's seconds: from real steps, timed once a kind, with nothing left behind."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from ticketry import pace, training
from ticketry.config import DataSpec
from ticketry.errors import TrainingError
from ticketry.pace import ENOUGH_STEPS, Pace, _Clock, _few, kind_of
from ticketry.recipes import Recipe
from ticketry.scene import Scene, prepare
from ticketry.tasks.base import TaskData
from ticketry.tasks.objectives import workload_for

RECIPE = Recipe(epochs=4, batch_size=8, max_length_tokens=16)


@pytest.fixture(scope="module")
def scene(tiny_model: Path, reviews: Path) -> Scene:
    return prepare(
        str(tiny_model),
        None,
        DataSpec(data=str(reviews), text_column="review", label_column="verdict"),
        RECIPE,
        ("encoder",),
        device="cpu",
        threads=1,
        say=lambda line: None,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every look at the clock is ``clock[0]`` seconds after the one before."""
    step = [0.001]
    now = itertools.count()
    monkeypatch.setattr(pace, "perf_counter", lambda: next(now) * step[0])
    return step


@pytest.mark.parametrize("takes", [0.001, 0.25, 7.0])
def test_seconds_are_those_of_a_step_times_the_steps(
    scene: Scene, clock: list[float], takes: float
) -> None:
    clock[0] = takes
    passes = 8 * 100
    seconds = Pace().seconds(scene, passes * scene.flops_per_pass, 1)
    assert seconds == pytest.approx(100 * takes)
    assert Pace().seconds(scene, passes * scene.flops_per_pass, 2) == pytest.approx(50 * takes)


def test_a_single_step_is_timed_whole(clock: list[float]) -> None:
    clock[0] = 3.0
    watch = _Clock()
    watch(1, 1)
    assert watch.seconds_a_step() == pytest.approx(3.0)


def test_few_examples_are_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []

    def counted(base: Any, data: TaskData, recipe: Recipe) -> Any:
        seen.append((len(data.train), len(data.validation), len(data.test)))
        return workload_for(base, data, recipe)

    monkeypatch.setattr("ticketry.tasks.objectives.workload_for", counted)
    assert Pace().seconds(scene, 1e9, 1) is not None
    assert len(scene.data.train) > 96
    assert seen == [(96, len(scene.data.validation), len(scene.data.test))]
    joint = dataclasses.replace(scene.data, parts=(scene.data, scene.data))
    few = _few(joint, 10)
    assert len(few.train) == len(few.parts[1].train) == 10


def test_no_more_steps_are_done_than_say_enough(
    scene: Scene, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    real = training.train

    def counted(*arguments: Any, progress: Any, **more: Any) -> Any:
        def count(step: int, steps: int) -> None:
            done.append(step)
            progress(step, steps)

        return real(*arguments, progress=count, **more)

    monkeypatch.setattr(training, "train", counted)
    asked = Pace()
    asked.seconds(scene, 1e9, 1)
    assert done == list(range(1, ENOUGH_STEPS + 2))  # the first isn't counted
    asked.seconds(scene, 2e9, 1)
    assert len(done) == ENOUGH_STEPS + 1, "a kind is timed once"
    clock[0] = 10.0
    done.clear()
    Pace().seconds(scene, 1e9, 1)
    assert done == [1, 2]


def test_nothing_is_left_behind(scene: Scene) -> None:
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    expected = torch.random.get_rng_state()
    torch.set_num_threads(2)
    try:
        seconds = Pace().seconds(scene, 1e9, 1)
        assert seconds is not None
        assert seconds > 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_kinds_differ_by_how_a_step_is_done_and_not_by_how_many(scene: Scene) -> None:
    def of(**changes: Any) -> tuple[object, ...]:
        return kind_of(dataclasses.replace(scene, recipe=dataclasses.replace(RECIPE, **changes)))

    assert of(epochs=9.0) == of(learning_rate=1.0) == kind_of(scene)
    for change in ({"dtype": "bfloat16"}, {"batch_size": 4}, {"freeze_embeddings": True}):
        assert of(**change) != kind_of(scene)


def test_nothing_is_timed_where_nothing_is_left_or_no_estimate_is_made(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a training was begun")

    monkeypatch.setattr(training, "train", never)
    assert Pace().seconds(scene, 0.0, 1) == 0.0
    on_gpu = dataclasses.replace(scene, context=dataclasses.replace(scene.context, device="cuda"))
    assert Pace().seconds(on_gpu, 1e9, 1) is None
    monkeypatch.setattr(pace, "launched", lambda: 2)
    assert Pace().seconds(scene, 1e9, 1) is None


def test_a_training_that_fails_leaves_the_price_without_a_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **more: Any) -> None:
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(training, "train", fails)
    assert Pace().seconds(scene, 1e9, 1) is None


def test_a_user_who_stops_meanwhile_is_heeded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        Pace().seconds(scene, 1e9, 1)
