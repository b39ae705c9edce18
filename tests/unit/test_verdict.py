from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ticketry.errors import InputError, TicketError
from ticketry.metrics import METRICS, ClassCounts, Metric
from ticketry.metrics.classes import accuracy_from_counts
from ticketry.records import Arm, Replicate
from ticketry.verdict import Verdict, judge

N = 1_000
ACCURACY = METRICS["accuracy"]


def arm(
    name: str,
    wrong: Sequence[int],
    *,
    n: int = N,
    seeds: Sequence[int] | None = None,
    validation: Sequence[float] | None = None,
    half: Sequence[float] = (),
) -> Arm:
    """An arm whose replicates get the first ``wrong`` of ``n`` test examples wrong (all are 0)."""
    seeds = seeds if seeds is not None else range(1, len(wrong) + 1)
    validation = validation if validation is not None else [0.85] * len(wrong)
    return Arm(
        name,
        tuple(
            Replicate(seed, score, (n - count) / n, (1,) * count + (0,) * (n - count))
            for seed, score, count in zip(seeds, validation, wrong, strict=True)
        ),
        tuple(half),
    )


def verdict(
    dense: Sequence[int] | Arm,
    ticket: Sequence[int] | Arm,
    *,
    n: int = N,
    margin: float = 0.01,
    controls: Mapping[str, Arm] | None = None,
    **others: Any,
) -> Verdict:
    return judge(
        dense=dense if isinstance(dense, Arm) else arm("dense", dense, n=n),
        ticket=ticket if isinstance(ticket, Arm) else arm("ticket", ticket, n=n),
        controls=controls or {},
        labels=[0] * n,
        metric=others.pop("metric", ACCURACY),
        margin=margin,
        **others,
    )


# --- worked by hand ---------------------------------------------------------------------------


def test_yes_worked_by_hand() -> None:
    # Scores: dense .850 .848 .846 (mean .848, std .002), ticket .850 .852 .848 (mean .850).
    # Gains by seed: 0, .004, .002: mean .002, std .002.
    # t(.95, 2) = 2.919986; reach = 2.919986 * .002 / sqrt(3) = .0033717.
    found = verdict([150, 152, 154], [150, 148, 152])
    assert found.noninferior == "yes"
    assert (found.dense_mean, found.ticket_mean) == (pytest.approx(0.848), pytest.approx(0.850))
    assert found.dense_std == pytest.approx(0.002)
    assert found.difference == pytest.approx(0.002)
    assert found.spread == pytest.approx(0.002)
    assert found.seed_ci_low == pytest.approx(0.002 - 0.0033717, abs=1e-6)
    assert found.seed_ci_high == pytest.approx(0.002 + 0.0033717, abs=1e-6)
    # 4 + 2 examples are won by one replicate of three each: 6/3 of 1,000, as the difference says.
    # Lower end, with one imaginary example lost: Poisson(6)/3,000 - Poisson(1)/1,000, 5%: -.0013.
    assert found.example_ci_low == pytest.approx(-0.0013, abs=4e-4)
    assert found.overall_ci_low <= min(found.seed_ci_low, found.example_ci_low)
    assert (found.replicates_needed, found.examples_needed) == (None, None)
    assert found.matches_paper
    assert found.matches_strict


def test_seed_ends_are_those_of_scipys_paired_t() -> None:
    gains = np.array([-0.012, 0.004, 0.000, -0.003])
    found = verdict([1_500] * 4, [1_620, 1_460, 1_500, 1_530], n=10_000)
    interval = stats.ttest_1samp(gains, 0.0).confidence_interval(0.90)  # 5% on each side
    assert found.seed_ci_low == pytest.approx(interval.low)
    assert found.seed_ci_high == pytest.approx(interval.high)


def test_no_worked_by_hand() -> None:
    # Gains -.050 -.051 -.046: mean -.049, std .0026458; reach 2.919986 * .0026458 / sqrt(3)
    # = .0044604, so the upper end is -.0445396, below -.01.
    found = verdict([100, 101, 102], [150, 152, 148])
    assert found.noninferior == "no"
    assert found.seed_ci_high == pytest.approx(-0.049 + 0.0044604, abs=1e-6)
    assert found.example_ci_high < -0.01
    assert not found.matches_paper
    assert not found.matches_strict
    assert (found.replicates_needed, found.examples_needed) == (None, None)


def test_inconclusive_by_seeds_says_how_many_replicates_would_decide() -> None:
    # Gains -.012 .004 0: mean -.0026667, std .0083267. An end above -.01 needs
    # t(.95, n-1) * .0083267 / sqrt(n) < .0073333: n = 5: 2.131847 * .0037238 = .0079386, no;
    # n = 6: 2.015048 * .0033994 = .0068499, yes.
    found = verdict([1_500] * 3, [1_620, 1_460, 1_500], n=10_000)
    assert found.noninferior == "inconclusive"
    assert found.seed_ci_low == pytest.approx(-0.0026667 - 2.919986 * 0.0048074, abs=1e-6)
    assert found.example_ci_low > -0.01
    assert (found.replicates_needed, found.examples_needed) == (6, None)
    assert "About 6 replicates would decide." in found.sentences()[0]


def test_inconclusive_towards_no_counts_the_upper_end() -> None:
    # Gains -.024 -.008 -.012: mean -.0146667, std .0083267; the upper end is to fall below -.01:
    # t * .0083267 / sqrt(n) < .0046667: n = 10: 1.833113 * .0026331 = .0048268, no;
    # n = 11: 1.812461 * .0025106 = .0045503, yes. Examples decide nothing here: there are few.
    found = verdict([15, 15, 15], [39, 23, 27], n=1_000)
    assert found.noninferior == "inconclusive"
    assert found.seed_ci_high > -0.01
    assert (found.replicates_needed, found.examples_needed) == (11, None)


def test_too_few_test_examples_say_how_many_would_decide() -> None:
    # No example differs: by the rule of three the loss may still be 3/n, so 3/n < .01: n > 300.
    found = verdict([15, 15, 15], [15, 15, 15], n=100)
    assert found.noninferior == "inconclusive"
    assert found.example_ci_low == pytest.approx(-0.03, abs=0.0101)
    assert found.replicates_needed is None
    assert found.examples_needed is not None
    assert 250 <= found.examples_needed <= 450
    assert "test examples (there are 100) would decide" in found.sentences()[0]
    assert verdict([90, 90, 90], [90, 90, 90], n=600).noninferior == "yes"


def test_a_difference_on_the_margin_can_never_be_decided() -> None:
    # Gains -.02 .0 -.01: mean exactly on the margin.
    found = verdict([100, 100, 100], [120, 100, 110])
    assert found.noninferior == "inconclusive"
    assert (found.replicates_needed, found.examples_needed) == (None, None)
    assert "No number up to 1,000 replicates" in found.sentences()[0]


def test_an_end_exactly_on_the_margin_is_not_beyond_it() -> None:
    # Every seed loses exactly .01 (in floats .10000000000000009 and the like): neither yes nor no.
    found = verdict([2_000] * 3, [3_000] * 3, n=100_000)
    assert found.noninferior == "inconclusive"


# --- readings ---------------------------------------------------------------------------------


def test_readings_of_the_papers_use_the_sample_standard_deviation() -> None:
    # Dense .84 .85 .86: mean .85, std (ddof 1) .01, (ddof 0) .00816. Ticket at .84 and at .839.
    assert verdict([160, 150, 140], [160, 160, 160]).matches_paper  # .84 = .85 - .01
    assert not verdict([160, 150, 140], [160, 161, 160]).matches_paper
    assert not verdict([160, 150, 140], [160, 160, 160]).matches_strict
    assert verdict([160, 150, 140], [140, 160, 150]).matches_strict  # equal means


def test_a_spread_of_zero_rests_on_test_examples_and_says_so() -> None:
    found = verdict([150, 150], [150, 150], n=2_500)
    assert (found.spread, found.seed_ci_low) == (0.0, 0.0)
    assert found.noninferior == "yes"
    assert -0.002 < found.example_ci_low < 0
    assert any("only the one over test examples guards" in s for s in found.sentences())


def test_a_spread_of_zero_alone_says_neither_yes_nor_no() -> None:
    # 100 examples, both seeds 2 points worse: the interval by seeds is the point -.02.
    worse = verdict([15, 15], [17, 17], n=100)
    assert worse.seed_ci_high < -0.01
    assert worse.noninferior == "inconclusive"
    assert verdict([17, 17], [17, 17], n=100).noninferior == "inconclusive"


def test_winning_needs_the_control_beaten() -> None:
    far, near = arm("random-layerwise", [250, 255, 251]), arm("random-layerwise", [151, 153, 155])
    won = verdict([150, 152, 154], [150, 148, 152], controls={"random-layerwise": far})
    # Gains over the control .100 .107 .099: mean .102.
    assert won.winning is True
    assert won.controls["random-layerwise"].beaten
    assert won.controls["random-layerwise"].difference == pytest.approx(0.102)
    assert won.controls["random-layerwise"].mean == pytest.approx(0.748)
    assert won.sentences()[0].startswith("Winning ticket: the ticket scored 85.0% against 84.8%")
    chance = verdict([150, 152, 154], [150, 148, 152], controls={"random-layerwise": near})
    assert chance.noninferior == "yes"
    assert chance.winning is False
    assert chance.sentences()[0].startswith("Matching, but so is chance: ")
    assert "Control random-layerwise, not shown to be beaten" in chance.sentences()[1]


def test_winning_is_unknown_without_the_control_and_false_without_a_yes() -> None:
    other = {"random": arm("random", [250, 255, 251])}
    found = verdict([150, 152, 154], [150, 148, 152], controls=other)
    assert found.winning is None
    assert found.controls["random"].beaten
    assert any("random-layerwise control was not run" in s for s in found.sentences())
    control = {"random-layerwise": arm("random-layerwise", [400, 401, 402])}
    assert verdict([100, 101, 102], [150, 152, 148], controls=control).winning is False


@pytest.mark.parametrize(
    ("half", "gain", "stamped"),
    [([0.83, 0.83, 0.84], 0.0167, True), ([0.85, 0.84, 0.85], 0.0033, False), ([], None, None)],
)
def test_undertrained_reference(half: list[float], gain: float | None, stamped: bool) -> None:
    # Validation at full budget is .85 in all seeds; the margin is .01.
    found = verdict(arm("dense", [150, 152, 154], half=half), [150, 148, 152])
    assert found.budget_gain == (None if gain is None else pytest.approx(gain, abs=1e-4))
    assert found.undertrained_reference is stamped
    said = " ".join(found.sentences())
    assert ("Stamped undertrained_reference" in said) is (stamped is True)
    named = said.startswith("Matching ticket (undertrained reference): ")
    assert named is (stamped is True)
    assert ("not checked" in said) is (stamped is None)


def test_a_gain_of_exactly_the_margin_is_not_stamped() -> None:
    dense = arm("dense", [150, 152], validation=[0.85, 0.85], half=[0.84, 0.84])
    assert verdict(dense, [150, 152]).undertrained_reference is False


def test_lower_is_better_is_the_mirror_image() -> None:
    error = Metric(
        name="error",
        margin=0.01,
        direction="lower",
        fn=lambda y, p: 1 - ACCURACY.fn(y, p),
        outputs=ClassCounts(lambda counts: 1 - accuracy_from_counts(counts)),
        percent=True,
    )

    def errors(name: str, wrong: Sequence[int], half: Sequence[float] = ()) -> Arm:
        right = arm(name, wrong)
        return Arm(
            name,
            tuple(
                dataclasses.replace(r, test_score=1 - r.test_score, validation_score=0.15)
                for r in right.replicates
            ),
            tuple(half),
        )

    for ticket in ([150, 148, 152], [190, 180, 199]):
        a = verdict([150, 152, 154], ticket)
        b = judge(
            dense=errors("dense", [150, 152, 154], half=[0.17] * 3),
            ticket=errors("ticket", ticket),
            controls={},
            labels=[0] * N,
            metric=error,
            margin=0.01,
        )
        assert (a.noninferior, a.matches_paper, a.matches_strict) == (
            b.noninferior,
            b.matches_paper,
            b.matches_strict,
        )
        assert b.difference == pytest.approx(a.difference)
        assert b.seed_ci_low == pytest.approx(a.seed_ci_low)
        assert b.example_ci_low == pytest.approx(a.example_ci_low, abs=2e-3)
        assert b.budget_gain == pytest.approx(0.02)  # half the budget had more errors
        assert b.undertrained_reference is True
        assert "lower is better" in b.sentences()[0]


def test_three_replicates_rarely_say_yes_and_the_words_say_so() -> None:
    # statistics.md: margin of one std, independent arms (spread of gains sqrt(2) stds): a quarter.
    rng = np.random.default_rng(0)
    gains = rng.normal(0, math.sqrt(2), (100_000, 3))
    ends = gains.mean(1) - 2.919986 * gains.std(1, ddof=1) / math.sqrt(3)
    simulated = (ends > -1).mean()
    assert 0.2 < simulated < 0.3
    # Gains -.012 .004 0 have spread .0083267; the same ratio of margin and spread:
    found = verdict([1_500] * 3, [1_620, 1_460, 1_500], n=10_000, margin=0.0083267 / math.sqrt(2))
    assert found.equal_ticket_pass_rate == pytest.approx(simulated, abs=0.01)
    said = " ".join(found.sentences())
    assert "With 3 replicates this test rarely says yes" in said
    assert f"by seeds about {100 * found.equal_ticket_pass_rate:.0f}% of the time" in said


def test_words_keep_an_end_apart_from_the_margin() -> None:
    # An end at -1.04 points may not be printed as -1.0 where 1.0 is allowed.
    found = dataclasses.replace(verdict([150, 152, 154], [150, 148, 152]), seed_ci_low=-0.0104)
    assert "at worst -1.04 by seeds" in found.sentences()[0]
    assert "allowed: 1.00" in found.sentences()[0]


# --- bad input --------------------------------------------------------------------------------


def test_arms_of_other_seeds_are_refused_by_name() -> None:
    other = arm("ticket", [150, 151, 152], seeds=[1, 2, 4])
    with pytest.raises(
        InputError, match=r"ticket has the seeds \[1, 2, 4\], dense has \[1, 2, 3\]; .*same seeds"
    ):
        verdict([150, 152, 154], other)
    controls = {"random": arm("random", [1, 2])}
    with pytest.raises(InputError, match=r"control random has the seeds \[1, 2\], dense has"):
        verdict([150, 152, 154], [150, 152, 154], controls=controls)


def test_one_replicate_is_refused() -> None:
    with pytest.raises(InputError, match=r"dense has 1 replicates; at least 2 .* no spread"):
        verdict([150], [150])


def test_a_seed_given_twice_is_refused() -> None:
    twice = arm("dense", [150, 151], seeds=[1, 1])
    with pytest.raises(InputError, match=r"dense has a seed twice: \[1, 1\]"):
        verdict(twice, [150, 151])


def test_predictions_of_a_wrong_length_are_refused() -> None:
    short = arm("ticket", [15, 15, 15], n=100)
    with pytest.raises(
        InputError, match=r"ticket, seed 1: 100 predictions for 1,000 test examples"
    ):
        verdict([150, 152, 154], short)


@pytest.mark.parametrize("score", [0.9, math.nan])
def test_a_score_that_is_not_its_predictions_is_refused(score: float) -> None:
    good = arm("ticket", [150, 151])
    bad = dataclasses.replace(
        good, replicates=(dataclasses.replace(good.replicates[0], test_score=score),
                          good.replicates[1]),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"ticket, seed 1: the recorded test score is .* 0.850000"):
        verdict([150, 151], bad)


@pytest.mark.parametrize("margin", [0.0, -0.01, math.nan, math.inf])
def test_a_margin_that_is_not_above_zero_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match="expected a finite number above 0"):
        verdict([150, 152], [150, 152], margin=margin)


def test_half_budget_scores_of_another_number_are_refused() -> None:
    with pytest.raises(InputError, match="dense has 1 scores at half the budget and 2 replicates"):
        verdict(arm("dense", [150, 152], half=[0.8]), [150, 152])


def test_labels_and_predictions_must_be_class_indices() -> None:
    with pytest.raises(InputError, match="test labels are empty"):
        judge(dense=arm("dense", [1, 2]), ticket=arm("ticket", [1, 2]), controls={}, labels=[],
              metric=ACCURACY, margin=0.01)  # fmt: skip
    bad = Arm("ticket", tuple(Replicate(s, 0.0, 0.0, (-1,) * N) for s in (1, 2)))
    with pytest.raises(InputError, match="ticket, seed 1 has predictions below 0"):
        verdict([150, 152], bad)


# --- properties -------------------------------------------------------------------------------


def test_seeds_pair_whatever_their_order() -> None:
    shuffled = arm("ticket", [152, 150, 148], seeds=[3, 1, 2])
    assert verdict([150, 152, 154], shuffled) == verdict([150, 152, 154], [150, 148, 152])


def test_json_round_trip() -> None:
    control = {"random-layerwise": arm("random-layerwise", [250, 255, 251])}
    found = verdict([150, 152, 154], [150, 148, 152], controls=control)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Verdict.from_json(json.loads(text)) == found
    assert Verdict.from_json(json.loads(text)).sentences() == found.sentences()


@pytest.mark.parametrize(
    ("key", "value"),
    [("margin", "0.01"), ("noninferior", "maybe"), ("controls", []), ("winning", 3),
     ("replicates", 2.5), ("controls", {"random": {"mean": 1}}), ("seed_ci_low", math.nan)],
)  # fmt: skip
def test_a_damaged_verdict_is_refused_by_name(key: str, value: Any) -> None:
    data = verdict([150, 152, 154], [150, 148, 152]).to_json()
    with pytest.raises(TicketError, match="the evidence is damaged"):
        Verdict.from_json({**data, key: value})
    del data[key]
    with pytest.raises(TicketError, match=f"'{key}' of its verdict is missing"):
        Verdict.from_json(data)


@settings(max_examples=60, deadline=None)
@given(
    wrong=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=6),
    n=st.sampled_from([60, 400]),
)
def test_answers_follow_from_the_ends(wrong: list[tuple[int, int]], n: int) -> None:
    dense, ticket = zip(*wrong, strict=True)
    found = verdict(dense, ticket, n=n, bootstrap_samples=200)
    lows = (found.seed_ci_low, found.example_ci_low, found.overall_ci_low)
    assert min(lows) == found.overall_ci_low
    assert (found.noninferior == "yes") == (min(lows) > -0.01 + 1e-12)
    highs = [found.example_ci_high] + [found.seed_ci_high] * (found.spread > 0)
    assert (found.noninferior == "no") == (min(highs) < -0.01 - 1e-12)
    needed = (found.replicates_needed, found.examples_needed)
    if found.noninferior != "inconclusive":
        assert needed == (None, None)
    assert found.replicates_needed is None or found.replicates_needed > found.replicates
    assert found.examples_needed is None or found.examples_needed > n
    assert all(np.isfinite(value) for value in lows)
    assert found.sentences()


# --- simulation -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "verdict_simulation.py"
    spec = importlib.util.spec_from_file_location("verdict_simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("mix", range(5))
@pytest.mark.parametrize(("points", "simulations"), [(-1.0, 300), (-1.3, 100)])
def test_truly_worse_tickets_rarely_earn_a_yes(
    simulation: ModuleType, mix: int, points: float, simulations: int
) -> None:
    noise = simulation.MIXES[mix]
    found = simulation.rates(noise, points / 100, 3, 800, simulations, seed=11)
    assert found.yes <= 0.05 + 2 * found.error, noise.name


def test_good_tickets_do_earn_a_yes(simulation: ModuleType) -> None:
    # Without this, a verdict that never says yes would pass the test above.
    noise = simulation.MIXES[2]
    assert simulation.rates(noise, 0.01, 5, 2_500, 60, seed=11).yes > 0.8


def test_the_overall_interval_is_what_keeps_mixed_noise_at_its_rate(
    simulation: ModuleType,
) -> None:
    # Ten replicates, seeds and examples of one size: the two ends alone pass too often.
    found = simulation.rates(simulation.MIXES[3], -0.01, 10, 600, 300, seed=3)
    assert found.yes <= 0.05 + 2 * found.error < 0.10
    assert found.two_ends > found.yes


def test_a_ticket_that_starts_elsewhere_is_not_called_winning() -> None:
    far = {"random-layerwise": arm("random-layerwise", [250, 255, 251])}
    scores = [150, 152, 154], [150, 148, 152]
    here = verdict(*scores, controls=far)
    elsewhere = verdict(*scores, controls=far, at_theta0=False)
    assert here.winning is True
    assert elsewhere.winning is None
    assert elsewhere.sentences()[0].startswith("Matching ticket: ")
    assert any("not called a winning ticket" in sentence for sentence in elsewhere.sentences())
    assert not any("not called a winning ticket" in sentence for sentence in here.sentences())
    old = {name: value for name, value in here.to_json().items() if name != "at_theta0"}
    assert Verdict.from_json(old).at_theta0  # evidence of version 0.1.0
