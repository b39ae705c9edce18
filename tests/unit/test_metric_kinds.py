"""Metrics of numbers, of several labels and of tokens: worked by hand, and against peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ticketry.errors import InputError
from ticketry.metrics import (
    METRICS,
    Metric,
    metrics_for,
    resample,
    say_difference,
    say_score,
    scale_of,
    unit_of,
)
from ticketry.metrics.resampling import draws
from ticketry.records import Arm, Replicate
from ticketry.verdict import Verdict, judge

OTHERS = [
    name
    for name in METRICS
    if name not in metrics_for("classification")
    and not {"detection", "segmentation"} & set(METRICS[name].objectives)  # have files of their own
    and METRICS[name].fn is not METRICS["accuracy"].fn  # tested with the metrics of classes
]


def test_pearson_worked_by_hand() -> None:
    # x - 2: -1 0 1, y - 3: -2 1 1: 3 / sqrt(2 * 6).
    assert METRICS["pearson"].fn([1, 2, 3], [1, 4, 4]) == pytest.approx(3 / math.sqrt(12))


def test_spearman_worked_by_hand_with_ties() -> None:
    # Ranks 1 2 3 and 1 2.5 2.5: -1 0 1 and -1 .5 .5: 1.5 / sqrt(2 * 1.5).
    assert METRICS["spearman"].fn([1, 2, 30], [1, 4, 4]) == pytest.approx(1.5 / math.sqrt(3))


def test_micro_f1_and_exact_match_worked_by_hand() -> None:
    # 2 hits; 3 set, 4 predicted: 4/7. One example of three right in full.
    labels, predictions = [[1, 0], [1, 1], [0, 0]], [[1, 0], [1, 0], [1, 1]]
    assert METRICS["micro-f1"].fn(labels, predictions) == pytest.approx(4 / 7)
    assert METRICS["exact-match"].fn(labels, predictions) == pytest.approx(1 / 3)


def test_nats_per_token_weigh_documents_by_their_tokens() -> None:
    assert METRICS["loss"].fn((), [(10.0, 4), (2.0, 2)]) == pytest.approx(2.0)


def test_hidden_tokens_weigh_the_same_in_any_block() -> None:
    assert METRICS["mlm-accuracy"].fn((), [(1, 10), (5, 5)]) == pytest.approx(6 / 15)
    assert METRICS["mlm-accuracy"].margin == 0.005
    assert metrics_for("masked-lm") == ("mlm-accuracy", "loss")


def test_a_model_that_says_one_thing_of_all_correlates_with_nothing() -> None:
    for name in ("pearson", "spearman"):
        metric = METRICS[name]
        assert metric.fn([1.0, 2.0, 3.0], [0.1] * 3) == 0.0
        assert metric.fn([0.1] * 3, [1.0, 2.0, 3.0]) == 0.0
        # A mean of equal values that is not quite that value.
        assert metric.outputs.scores(np.arange(7.0), np.full((1, 7), 0.1)).tolist() == [0.0]


def random_task(
    name: str, replicates: int, examples: int, rng: np.random.Generator
) -> tuple[Any, Any, Any]:
    """Return labels as they are recorded, and predictions of two arms."""
    objective = METRICS[name].objectives[0]
    if objective == "regression":
        labels = np.round(rng.normal(size=examples), 1)  # with ties
        shape = (2, replicates, examples)
        runs = np.round(labels + rng.normal(size=shape) * [[[0.5]], [[0.6]]], 2)
        return labels.tolist(), runs[0].tolist(), runs[1].tolist()
    if objective == "multi-label":
        labels = rng.random((examples, 3)) < 0.4
        flips = rng.random((2, replicates, examples, 3)) < [[[[0.1]]], [[[0.12]]]]
        runs = (labels ^ flips).astype(int)
        return labels.astype(int).tolist(), runs[0].tolist(), runs[1].tolist()
    if objective == "token-classification":
        return random_tags(replicates, examples, rng)
    if objective.startswith("extractive-qa"):
        return random_answers(replicates, examples, rng, none=objective.endswith("v2"))
    tokens = rng.integers(5, 200, examples)
    if objective == "masked-lm":
        shares = rng.uniform(0.3, 0.7, examples) + rng.normal(size=(2, replicates, 1)) * 0.02
        right = rng.binomial(tokens, shares)
        runs = np.stack([right, np.broadcast_to(tokens, right.shape)], axis=-1)
        return (), runs[0].tolist(), runs[1].tolist()
    each = 3 + rng.normal(size=examples) / 3
    nats = (each + rng.normal(size=(2, replicates, examples)) * 0.05) * tokens
    runs = np.stack([nats, np.broadcast_to(tokens, nats.shape)], axis=-1)
    return (), runs[0].tolist(), runs[1].tolist()


def random_answers(
    replicates: int, examples: int, rng: np.random.Generator, *, none: bool
) -> tuple[Any, Any, Any]:
    """Answers of up to three words of ten, each kept, left out or replaced."""
    words = [f"w{i}" for i in range(10)]
    golds = [[words[i] for i in rng.integers(0, 10, rng.integers(1, 4))] for _ in range(examples)]
    labels = [
        ((" ".join(g), 0), (g[0], 0)) if not none or rng.random() < 0.7 else () for g in golds
    ]
    arms: list[list[list[str]]] = []
    for wrong in (0.2, 0.23):
        runs = []
        for _ in range(replicates):
            said = [[w for w in g if rng.random() > wrong] for g in golds]
            empty = [none and rng.random() < (0.2 if answers else 0.8) for answers in labels]
            runs.append(["" if e else " ".join(s) for s, e in zip(said, empty, strict=True)])
        arms.append(runs)
    return labels, arms[0], arms[1]


def random_tags(replicates: int, examples: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Sentences of four words; each tag of a run is now and then another one."""
    names = np.array(["O", "B-A", "I-A", "B-B", "I-B"])
    tags = rng.choice(5, p=[0.6, 0.15, 0.1, 0.1, 0.05], size=(examples, 4))
    wrong = rng.random((2, replicates, examples, 4)) < [[[[0.1]]], [[[0.12]]]]
    runs = np.where(wrong, rng.integers(0, 5, wrong.shape), tags)
    said = [[[" ".join(row) for row in names[run]] for run in arm] for arm in runs]
    return [" ".join(row) for row in names[tags]], said[0], said[1]


def arrays(metric: Metric, labels: Any, *arms: Any) -> tuple[Any, ...]:
    named = {f"{a} {r}": run for a, arm in enumerate(arms) for r, run in enumerate(arm)}
    truth, read = metric.outputs.read(labels, named)
    runs = [np.stack([read[f"{a} {r}"] for r in range(len(arm))]) for a, arm in enumerate(arms)]
    return truth, *runs


@pytest.mark.parametrize("name", OTHERS)
def test_scores_of_saved_predictions_are_those_of_the_peer(name: str) -> None:
    metric = METRICS[name]
    labels, one, _ = random_task(name, 3, 60, np.random.default_rng(3))
    truth, runs = arrays(metric, labels, one)
    wanted = [metric.fn(labels, run) for run in one]
    assert metric.outputs.scores(truth, runs) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.integers(-3, 3), st.sampled_from([-1.0, 0.5, 2.0, 1e6])), min_size=2
    ),
    draw=st.randoms(use_true_random=False),
)
def test_correlations_of_drawn_examples_are_scipys(pairs: list[Any], draw: Any) -> None:
    labels, run = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    drawn = [draw.randrange(len(labels)) for _ in labels]
    weights = np.bincount(drawn, minlength=len(labels)).astype(float)
    from ticketry.metrics.numbers import _spearman_weighted

    found = _spearman_weighted(labels, run[None])(weights[None])[0, 0]
    assert found == pytest.approx(METRICS["spearman"].fn(labels[drawn], run[drawn]), abs=1e-9)


RECOMPUTED: dict[str, Callable[[Any, Any], float]] = {
    "pearson": lambda y, p: float(stats.pearsonr(y, p).statistic),
    "spearman": lambda y, p: float(stats.spearmanr(y, p).statistic),
    "micro-f1": lambda y, p: float(2 * (y * p).sum() / (y.sum() + p.sum())),
    "exact-match": lambda y, p: float((np.asarray(y) == p).all(1).mean()),
    "loss": lambda y, p: float(p[:, 0].sum() / p[:, 1].sum()),
    "mlm-accuracy": lambda y, p: float(p[:, 0].sum() / p[:, 1].sum()),
    "entity-f1": lambda y, p: float(2 * p[:, 0].sum() / p[:, 1].sum()),
    **dict.fromkeys(
        ("squad-f1", "squad-em", "squad-v2-f1", "squad-v2-em"), lambda y, p: float(p.mean())
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_ends_agree_with_a_plain_bootstrap_that_recomputes(name: str) -> None:
    metric = METRICS[name]
    labels, *arms = random_task(name, 2, 300, np.random.default_rng(4))
    truth, reference, candidate = arrays(metric, labels, *arms)
    found = resample(metric, truth, reference, candidate, samples=4_000, seed=0)
    rng = np.random.default_rng(5)
    plain = []
    for _ in range(500):
        drawn = rng.integers(0, 300, 300)
        before, after = (
            np.mean([RECOMPUTED[name](truth[drawn], run[drawn]) for run in arm])
            for arm in (reference, candidate)
        )
        plain.append(metric.sign * (after - before))
    spread = np.std(plain)
    low, high = np.quantile(plain, [0.05, 0.95])
    # The imaginary example only widens, by what one example does.
    assert low - 1.0 * spread < found.low < low + 0.25 * spread
    assert high - 0.25 * spread < found.high < high + 1.0 * spread
    assert found.variance == pytest.approx(np.var(plain), rel=0.35)


def test_draws_are_those_of_a_bootstrap() -> None:
    rows = np.concatenate(list(draws(51, 4_000, np.random.default_rng(0))))
    assert rows.shape == (4_000, 51)
    assert set(rows.sum(1)) == {50.0}  # the last of the 51 is the imaginary one
    assert rows.var(0).mean() == pytest.approx(50 * (1 / 51) * (50 / 51), rel=0.05)


@pytest.mark.parametrize("name", ["micro-f1", "exact-match"])
def test_label_sets_that_agree_on_a_small_test_set_are_not_certain(name: str) -> None:
    labels = np.array([[1, 0], [0, 1]] * 50)
    same = np.tile(labels, (3, 1, 1))
    found = resample(METRICS[name], labels, same, same, samples=5_000, seed=0)
    assert found.low <= -0.0145
    assert found.high >= 0.0145


def verdict_of(name: str, shift: float = 0.0) -> Verdict:
    metric = METRICS[name]
    labels, one, other = random_task(name, 3, 400, np.random.default_rng(6))
    if name == "loss":
        other = [[(n + shift * t, t) for n, t in run] for run in other]

    def arm(who: str, runs: Any) -> Arm:
        half = tuple(metric.fn(labels, run) + 0.5 * metric.sign for run in runs)
        return Arm(
            who,
            tuple(
                Replicate(seed, metric.fn(labels, run), metric.fn(labels, run), tuple(run))
                for seed, run in enumerate(runs, start=1)
            ),
            half if who == "dense" else (),
        )

    return judge(
        dense=arm("dense", one),
        ticket=arm("ticket", other),
        controls={"random-layerwise": arm("random-layerwise", one)},
        labels=labels,
        metric=metric,
        margin=metric.margin,
        bootstrap_samples=500,
    )


@pytest.mark.parametrize("name", OTHERS)
def test_every_metric_gives_a_verdict_that_json_keeps(name: str) -> None:
    found = verdict_of(name)
    assert Verdict.from_json(found.to_json()) == found
    assert found.test_examples == 400
    assert found.budget_gain == pytest.approx(-0.5)  # half the budget was better by 0.5
    assert found.undertrained_reference is False


def test_a_lower_loss_is_better_in_every_reading() -> None:
    better, worse = verdict_of("loss", -0.2), verdict_of("loss", 0.2)
    assert better.ticket_mean < better.dense_mean
    assert (better.noninferior, better.matches_paper, better.matches_strict) == ("yes", True, True)
    assert better.controls["random-layerwise"].beaten
    assert better.winning
    assert better.difference == pytest.approx(0.2, abs=0.02)
    assert (worse.noninferior, worse.matches_paper, worse.matches_strict) == ("no", False, False)
    assert not worse.controls["random-layerwise"].beaten
    said = worse.sentences()[0]
    assert "nats per token (perplexity " in said
    assert "where lower is better" in said
    assert "positive = better" in said
    assert "allowed: 0.010)" in said


def test_a_margin_wider_than_the_metrics_own_is_said() -> None:
    import dataclasses

    usual = verdict_of("loss")
    assert not any("The task allows" in s for s in usual.sentences())
    wide = dataclasses.replace(usual, margin=0.05)
    assert any(
        s.startswith("The task allows a loss of 0.0500 nats per token, more than the 0.0100 that")
        for s in wide.sentences()
    )


def test_numbers_as_people_say_them() -> None:
    assert say_score("loss", 3.2144) == "3.214 nats per token (perplexity 24.89)"
    assert say_score("spearman", 0.5) == "0.500"
    assert say_difference("loss", -0.0041, sign=True) + unit_of("loss") == "-0.004 nats per token"
    assert [scale_of(name) for name in ("loss", "spearman", "micro-f1")] == [1.0, 1.0, 100.0]


@pytest.mark.parametrize(
    ("name", "labels", "runs", "message"),
    [
        ("pearson", [1.0, math.nan], {"a": [1.0, 2.0]}, "labels are empty or not finite numbers"),
        ("pearson", [], {}, "labels are empty or not finite numbers"),
        ("pearson", [1.0, 2.0], {"a": [1.0]}, "a: 1 predictions for 2 test examples"),
        ("spearman", [1.0, 2.0], {"a": [1.0, math.inf]}, "a has predictions that are not finite"),
        ("spearman", [1.0, 2.0], {"a": [[1, 2], [3]]}, "a has predictions that are not finite"),
        ("micro-f1", [[0, 2]], {}, "labels are empty or not a 0 or 1 for each label"),
        ("micro-f1", [[0, 1]], {"a": [[0, 1, 1]]}, "a has predictions of another kind; expected a "
         "0 or 1 for each of 2 labels"),
        ("exact-match", [[0, 1]], {"a": [[0, 1], [1, 1]]}, "a: 2 predictions for 1 test examples"),
        ("loss", (), {"a": [[1.0, 2.0, 3.0]]}, "a has predictions of another kind; expected nats"),
        ("loss", (), {"a": [[1.0, 0]]}, "not finite nats and at least one token"),
        ("loss", (), {"a": [[1.0, 2]], "b": [[1.0, 3]]}, "b was read on other test documents"),
        ("loss", (), {}, "there are no predictions"),
        ("mlm-accuracy", (), {"a": [1.0]}, "expected predicted and hidden tokens of each test blo"),
        ("mlm-accuracy", (), {"a": [[6, 5]]}, "fewer tokens than none, or more than were hidden"),
        ("mlm-accuracy", (), {"a": [[-1, 5]]}, "fewer tokens than none, or more than were hidden"),
        ("accuracy", [0, 1], {"a": [0.5, 1.0]}, "a has predictions of another kind; expected cla"),
        ("accuracy", [0, 1], {"a": [[0], [0, 1]]}, "a has predictions of another kind"),
    ],
)  # fmt: skip
def test_records_of_another_kind_are_refused(
    name: str, labels: Any, runs: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        METRICS[name].outputs.read(labels, runs)


@pytest.mark.parametrize(
    ("name", "labels", "predictions"),
    [
        ("pearson", [1.0, 2.0], [1.0]),
        ("micro-f1", [[0, 1]], [[0]]),
        ("loss", (), [1.0]),
    ],
)
def test_a_score_of_too_few_predictions_is_refused(
    name: str, labels: Any, predictions: Any
) -> None:
    with pytest.raises(InputError, match="predictions"):
        METRICS[name].fn(labels, predictions)


def test_metrics_of_an_objective_come_with_the_usual_one_first() -> None:
    assert metrics_for("regression") == ("spearman", "pearson")
    assert metrics_for("classification")[0] == "accuracy"
    assert metrics_for("no such objective") == ()
