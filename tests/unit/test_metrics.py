from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ticketry.errors import InputError, UnknownNameError
from ticketry.metrics import (
    METRICS,
    count,
    get_metric,
    metrics_for,
    resample,
    say_difference,
    say_score,
    unit_of,
)

CLASSES = metrics_for("classification")


def test_accuracy_worked_by_hand() -> None:
    assert METRICS["accuracy"].fn([0, 1, 1, 0], [0, 1, 0, 0]) == 0.75


def test_binary_f1_worked_by_hand() -> None:
    # Class 1: 2 right of 3 predicted and 4 actual: F1 = 2*2 / (3 + 4).
    assert METRICS["f1"].fn([1, 1, 1, 1, 0], [1, 1, 0, 0, 1]) == pytest.approx(4 / 7)


def test_macro_f1_worked_by_hand() -> None:
    # Class 0: 2*1/(1+2) = 2/3; class 1: 2*1/(2+1) = 2/3; class 2: 2*1/(1+1) = 1.
    assert METRICS["f1"].fn([0, 0, 1, 2], [0, 1, 1, 2]) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_mcc_worked_by_hand() -> None:
    # TP 2, TN 1, FP 1, FN 0: (2*1 - 1*0) / sqrt(3 * 2 * 2 * 1) = 2 / sqrt(12).
    assert METRICS["mcc"].fn([1, 1, 0, 0], [1, 1, 1, 0]) == pytest.approx(2 / np.sqrt(12))


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_that_nobody_predicts_gives_a_score_and_no_warning(name: str) -> None:
    assert np.isfinite(METRICS[name].fn([0, 1, 1], [0, 0, 0]))
    assert np.isfinite(METRICS[name].fn([0, 0, 0], [0, 0, 0]))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(CLASSES),
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40),
)
def test_scores_from_counts_are_those_of_scikit_learn(
    name: str, pairs: list[tuple[int, int]]
) -> None:
    labels, predictions = (np.array(side) for side in zip(*pairs, strict=True))
    metric = METRICS[name]
    counted = metric.outputs.from_counts(count(labels, np.stack([predictions, labels]), 5))
    assert counted[0] == pytest.approx(metric.fn(labels, predictions))
    assert counted[1] == pytest.approx(metric.fn(labels, labels))


@pytest.mark.parametrize("name", CLASSES)
def test_predictions_of_another_length_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"2 predictions for 3 labels; expected one class index"):
        METRICS[name].fn([0, 1, 1], [0, 1])


def test_an_unknown_metric_shows_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown metric 'acuracy'.*'accuracy'"):
        get_metric("acuracy")
    assert get_metric("f1") is METRICS["f1"]


def test_scores_and_differences_as_people_say_them() -> None:
    assert say_score("accuracy", 0.8494) == "84.9%"
    assert say_score("mcc", 0.8494) == "0.849"
    assert say_difference("accuracy", -0.0041, sign=True) + unit_of("accuracy") == "-0.4 points"
    assert say_difference("accuracy", 0.0041, sign=True) == "+0.4"
    assert say_difference("accuracy", -0.0001) == "0.0"
    assert say_difference("mcc", 0.0041, sign=True) + unit_of("mcc") == "+0.004"


# --- resampling -----------------------------------------------------------------------------


def runs(labels: np.ndarray, replicates: int, wrong: float, rng: np.random.Generator) -> np.ndarray:
    flip = rng.random((replicates, len(labels))) < wrong
    return np.where(flip, (labels + 1) % (labels.max() + 1), labels)


def example(replicates: int = 3, examples: int = 1_000, classes: int = 2) -> tuple:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, examples)
    return labels, runs(labels, replicates, 0.15, rng), runs(labels, replicates, 0.17, rng)


@pytest.mark.parametrize("name", CLASSES)
def test_ends_agree_with_a_plain_bootstrap(name: str) -> None:
    labels, reference, candidate = example()
    metric = METRICS[name]
    found = resample(metric, labels, reference, candidate, samples=4_000, seed=0)
    rng = np.random.default_rng(5)
    plain = []
    for _ in range(1_000):
        drawn = rng.integers(0, len(labels), len(labels))
        sides = (
            metric.outputs.from_counts(count(labels[drawn], side[:, drawn], 2))
            for side in (reference, candidate)
        )
        before, after = sides
        plain.append((after - before).mean())
    low, high = np.quantile(plain, [0.05, 0.95])
    # Apart from the imaginary example (at most 2 of 1,000 examples' worth) and Monte-Carlo error.
    assert low - 0.006 < found.low < low + 0.001
    assert high - 0.001 < found.high < high + 0.006
    assert found.variance == pytest.approx(np.var(plain), rel=0.15)


def test_accuracy_takes_the_fast_path_to_the_same_numbers() -> None:
    labels, reference, candidate = example()
    fast = METRICS["accuracy"]
    slow = dataclasses.replace(
        fast, name="slow", outputs=dataclasses.replace(fast.outputs, right_or_wrong=False)
    )
    a = resample(fast, labels, reference, candidate, samples=20_000, seed=0)
    b = resample(slow, labels, reference, candidate, samples=20_000, seed=0)
    for field in ("low", "high", "low_mean", "high_mean"):
        assert getattr(a, field) == pytest.approx(getattr(b, field), abs=5e-4), field
    assert a.variance == pytest.approx(b.variance, rel=0.05)
    assert a.interaction == pytest.approx(b.interaction, rel=0.05)


def test_losses_alone_give_the_binomial_end() -> None:
    # 3 of 400 examples lost by both replicates, and the imaginary one: lost ~ Bin(400, 4/401).
    labels = np.zeros(400, dtype=int)
    reference = np.zeros((2, 400), dtype=int)
    candidate = reference.copy()
    candidate[:, :3] = 1
    found = resample(METRICS["accuracy"], labels, reference, candidate, samples=10_000, seed=0)
    assert found.low == pytest.approx(-stats.binom.ppf(0.95, 400, 4 / 401) / 400, abs=1 / 400)
    assert found.interaction == 0.0  # replicates agree on every example


@pytest.mark.parametrize("name", CLASSES)
def test_arms_that_agree_on_a_small_test_set_are_not_certain(name: str) -> None:
    # Rule of three: none lost of 100, and the loss may still be 3 points.
    labels = np.array([0, 1] * 50)
    same = np.tile(labels, (3, 1))
    found = resample(METRICS[name], labels, same, same, samples=5_000, seed=0)
    assert found.low <= -0.02
    assert found.high >= 0.02


def test_independent_noise_is_all_interaction_and_shared_noise_is_none() -> None:
    labels, reference, candidate = example(replicates=4, examples=4_000)
    found = resample(METRICS["accuracy"], labels, reference, candidate, samples=4_000, seed=0)
    assert found.interaction == pytest.approx(found.variance, rel=0.15)
    once = resample(
        METRICS["accuracy"], labels, reference[[0] * 4], candidate[[0] * 4], samples=4_000, seed=0
    )
    assert once.interaction == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("classes", [2, 5])
def test_the_mirror_image_swaps_the_ends(name: str, classes: int) -> None:
    labels, reference, candidate = example(classes=classes)
    metric = METRICS[name]
    there = resample(metric, labels, reference, candidate, samples=10_000, seed=0)
    back = resample(metric, labels, candidate, reference, samples=10_000, seed=0)
    assert there.low == pytest.approx(-back.high, abs=1.5e-3)
    assert there.high == pytest.approx(-back.low, abs=1.5e-3)


def test_equal_seeds_give_equal_ends_and_chunks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, reference, candidate = example()
    whole = [resample(METRICS["f1"], labels, reference, candidate, samples=500, seed=3)]
    whole.append(resample(METRICS["f1"], labels, reference, candidate, samples=500, seed=3))
    monkeypatch.setattr("ticketry.metrics.classes.CHUNK_FLOATS", 50_000)
    whole.append(resample(METRICS["f1"], labels, reference, candidate, samples=500, seed=3))
    assert whole[0] == whole[1]
    assert whole[2].low == pytest.approx(whole[0].low)
    assert resample(METRICS["f1"], labels, reference, candidate, samples=500, seed=4) != whole[0]
