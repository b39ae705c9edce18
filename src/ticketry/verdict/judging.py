"""From the arms of a run to its verdict, with every check on the records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ticketry.errors import InputError
from ticketry.metrics import Metric, Resampled, resample
from ticketry.records import Arm, Replicate
from ticketry.verdict.intervals import compare, needed, pass_rate
from ticketry.verdict.reading import TINY, Answer, Comparison, ControlReading, Verdict

CHANCE = "random-layerwise"
"""The control that a winning ticket has to beat."""

_SCORE_TOLERANCE = 1e-6


def judge(
    *,
    dense: Arm,
    ticket: Arm,
    controls: Mapping[str, Arm],
    labels: Sequence[Any],
    metric: Metric,
    margin: float,
    at_theta0: bool = True,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """Judge one mask from its fine-tunings.

    When every seed gives the same gain, the interval by seeds has no width and says nothing; the
    one over test examples, which always has width, then guards alone, and the words say so.

    Args:
        dense: the unpruned reference, with the validation scores at half the budget if run.
        ticket: the same seeds with the mask.
        controls: name -> the same seeds with a control's masks.
        labels: of the test examples, as the metric reads them: class indices, numbers, a 0 or 1 for
            each label; none where texts are their own labels.
        metric: what the scores are.
        margin: largest loss that still counts as not worse, in the metric's unit; above 0.
        at_theta0: whether the ticket starts from the pre-trained weights; one that starts from
            others is not called winning.
        bootstrap_samples: draws over test examples, at least 100.
        seed: of the draws; equal records and seeds give equal verdicts.

    Raises:
        InputError: arms that are not paired by seed, fewer than two replicates, predictions of a
            wrong length, a score that is not its predictions', or a margin that is not above 0.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise InputError(f"the margin is {margin}; expected a finite number above 0.")
    if bootstrap_samples < 100:
        raise InputError(f"bootstrap_samples is {bootstrap_samples}; expected at least 100.")
    arms = {"dense": dense, "ticket": ticket, **{f"control {n}": a for n, a in controls.items()}}
    seeds = dense.seeds
    _check_pairing(arms)
    _check_half_budget(dense)
    truth, runs = _predictions(arms, seeds, labels, metric)
    scores = {name: np.array(_by_seed(arm, seeds)[1]) for name, arm in arms.items()}

    def against(reference: str) -> tuple[Comparison, Resampled]:
        drawn = resample(
            metric, truth, runs[reference], runs["ticket"], samples=bootstrap_samples, seed=seed
        )
        return compare(metric.sign * (scores["ticket"] - scores[reference]), drawn), drawn

    against_dense, drawn = against("dense")
    answer: Answer = "inconclusive"
    if against_dense.surely_above(-margin):
        answer = "yes"
    elif against_dense.surely_below(-margin):
        answer = "no"
    readings = {}
    for name, arm in controls.items():
        reading, _ = against(f"control {name}")
        readings[name] = ControlReading(
            **dataclasses.asdict(reading), mean=arm.mean, beaten=reading.surely_above(0.0)
        )
    replicates_needed, examples_needed = None, None
    if answer == "inconclusive":
        replicates_needed, examples_needed = needed(
            against_dense, drawn, margin, len(seeds), len(truth)
        )
    gain = _budget_gain(dense, metric)
    chance = readings.get(CHANCE)
    return Verdict(
        **dataclasses.asdict(against_dense),
        metric=metric.name,
        direction=metric.direction,
        margin=float(margin),
        dense_mean=dense.mean,
        dense_std=dense.std,
        ticket_mean=ticket.mean,
        ticket_std=ticket.std,
        replicates=len(seeds),
        test_examples=len(truth),
        noninferior=answer,
        winning=answer == "yes" and chance.beaten if chance is not None and at_theta0 else None,
        at_theta0=at_theta0,
        matches_paper=metric.sign * (ticket.mean - dense.mean) >= -dense.std - TINY,
        matches_strict=metric.sign * (ticket.mean - dense.mean) >= -TINY,
        replicates_needed=replicates_needed,
        examples_needed=examples_needed,
        budget_gain=gain,
        undertrained_reference=None if gain is None else gain > margin + TINY,
        equal_ticket_pass_rate=pass_rate(margin, against_dense.spread, len(seeds)),
        controls=readings,
    )


def _budget_gain(dense: Arm, metric: Metric) -> float | None:
    if not dense.half_budget_validation:
        return None
    full = [replicate.validation_score for replicate in dense.replicates]
    gain = metric.sign * (np.mean(full) - np.mean(dense.half_budget_validation))
    return float(gain)


def _check_pairing(arms: Mapping[str, Arm]) -> None:
    faults = []
    wanted = arms["dense"].seeds
    for name, arm in arms.items():
        if len(arm.replicates) < 2:
            faults.append(
                f"{name} has {len(arm.replicates)} replicates; at least 2 are needed, because one "
                "run has no spread to judge by."
            )
        elif len(set(arm.seeds)) < len(arm.seeds):
            faults.append(f"{name} has a seed twice: {list(arm.seeds)}.")
        elif set(arm.seeds) != set(wanted):
            faults.append(
                f"{name} has the seeds {sorted(arm.seeds)}, dense has {sorted(wanted)}; arms are "
                "paired by seed, so run the same seeds in all of them."
            )
    if faults:
        raise InputError(" ".join(faults))


def _check_half_budget(dense: Arm) -> None:
    half = len(dense.half_budget_validation)
    if half not in (0, len(dense.replicates)):
        raise InputError(
            f"dense has {half} scores at half the budget and {len(dense.replicates)} replicates; "
            "expected one for each seed, or none."
        )


def _by_seed(arm: Arm, seeds: Sequence[int]) -> tuple[list[Replicate], list[float]]:
    found = {replicate.seed: replicate for replicate in arm.replicates}
    ordered = [found[seed] for seed in seeds]
    return ordered, [replicate.test_score for replicate in ordered]


def _predictions(
    arms: Mapping[str, Arm], seeds: Sequence[int], labels: Sequence[Any], metric: Metric
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return labels and each arm's runs (replicates, examples, …), in the order of ``seeds``."""
    replicates = {name: _by_seed(arm, seeds)[0] for name, arm in arms.items()}
    truth, read = metric.outputs.read(
        labels,
        {f"{name}, seed {r.seed}": r.predictions for name, rs in replicates.items() for r in rs},
    )
    runs = {}
    for name, rs in replicates.items():
        runs[name] = np.stack([read[f"{name}, seed {r.seed}"] for r in rs])
        for replicate, score in zip(rs, metric.outputs.scores(truth, runs[name]), strict=True):
            # A verdict on scores that the saved predictions do not give would rest on nothing.
            if not abs(replicate.test_score - score) <= _SCORE_TOLERANCE:
                raise InputError(
                    f"{name}, seed {replicate.seed}: the recorded test score is "
                    f"{replicate.test_score}, but its predictions give {metric.name} {score:.6f}; "
                    "the record is damaged, or it was scored on other labels."
                )
    return truth, runs
