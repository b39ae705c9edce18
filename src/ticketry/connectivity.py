"""Linear mode connectivity: the steps that measure it, and their records read as barriers.

Source: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis"
(arXiv 1912.05671), section 2, "instability analysis". One network is trained several times from
the same weights, where only SGD's noise differs: the order of the data and dropout. Between two
ends W and V of such trainings the error is read at (1 − α)·W + α·V. The barrier is

    max over α of error(α) − (error(W) + error(V)) / 2,

the ends included; a network is stable to SGD noise when it is (nearly) zero.

Noise is all that may differ, so the head is the same too: it is part of the weights that the paper
starts from. Two fresh heads would be two starts, and the barrier between their classes would be
read as SGD's. All trainings share the head of the first seed; the one of the first seed is the
training that ``verify`` makes of it.

What differs from the paper: 11 points instead of 30; errors on the validation split, as test data
are read once, for a verdict; and instead of 2% the metric's own margin, fixed before any run. Every
tensor lies on the line, LayerNorm's too. There is no batch normalisation to read anew: a model
that has it is refused. Pruned weights are zero at both ends, so also between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ticketry.errors import RunError
from ticketry.metrics import get_metric, say_difference, unit_of
from ticketry.recipes import Recipe
from ticketry.search import Sizes, with_head
from ticketry.steps import Step
from ticketry.store import Store
from ticketry.verification import Start

POINTS = 11
"""On a line, both ends included."""


@dataclass(frozen=True)
class Connectivity:
    """The steps that measure how connected the trainings of one arm are.

    Attributes:
        ends: trainings that keep their weights, one a seed.
        lines: what lies between each two of them.
    """

    ends: tuple[Step, ...]
    lines: tuple[Step, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps; the ends first."""
        return (*self.ends, *self.lines)


def connectivity_steps(
    start: Start | None,
    recipe: Recipe,
    seeds: Sequence[int],
    sizes: Sizes,
    context_key: str,
    head_key: str | None = None,
) -> Connectivity:
    """Lay out the trainings of one arm that share their start, and the lines between them.

    A training is the unit of resume: each end is a step of its own and keeps its weights. A line
    reads two of them, and takes the scores at the ends from their records.

    Args:
        start: the ticket; None for the dense model.
        recipe: of every training.
        seeds: two or more, of the noise; the first one's head is the head of all.
        sizes: examples per split.
        context_key: the fingerprint of the run's context.
        head_key: of :func:`ticketry.search.warm_head_step`: the head of all, in place of a fresh
            one; None where the task warms up none.

    Raises:
        ValueError: fewer than two seeds, or one twice.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {list(seeds)}; expected two or more that differ")
    name = "dense" if start is None else "ticket"
    params: dict[str, object] = {"mask": "none" if start is None else "given"}
    needs: tuple[str, ...] = () if start is None else (start.mask_key,)
    skipped = 0
    if start is not None and start.weights_key is not None:
        needs = (start.mask_key, start.weights_key)
        params["carried"] = True
        if start.rewind_step:
            params["first_step"] = start.rewind_step
            skipped = start.rewind_step * min(recipe.batch_size, sizes.train)
    ends = tuple(
        Step(
            name=f"{name}, noise of seed {seed}",
            kind="endpoint",
            context_key=context_key,
            **with_head({"seed": seed, "shared_seed": seeds[0], **params}, needs, head_key),
            train_passes=sizes.passes(recipe) - skipped,
            eval_passes=sizes.validation,
        )
        for seed in seeds
    )
    lines = tuple(
        Step(
            name=f"{name}, between seeds {a.params['seed']} and {b.params['seed']}",
            kind="connectivity",
            params={
                "seeds": [a.params["seed"], b.params["seed"]],
                "shared_seed": seeds[0],
                "points": POINTS,
            },
            context_key=context_key,
            needs=(a.key, b.key),
            eval_passes=(POINTS - 2) * sizes.validation,
        )
        for a, b in combinations(ends, 2)
    )
    return Connectivity(ends, lines)


@dataclass(frozen=True)
class Line:
    """Scores between the ends of two trainings.

    Attributes:
        seeds: of the noise at either end.
        alphas: 0 to 1; 0 is the first end.
        scores: of the validation split, at each of them.
        barrier: see this module's head, in the metric's own unit; never negative.
        at: the alpha with the largest error.
    """

    seeds: tuple[int, int]
    alphas: tuple[float, ...]
    scores: tuple[float, ...]
    barrier: float
    at: float


def barrier(scores: Sequence[float], sign: float) -> tuple[float, int]:
    """Return the height of the error barrier, and where it is.

    Args:
        scores: along a line, both ends included.
        sign: 1 where a higher score is better, -1 where a lower one is.
    """
    errors = [-sign * score for score in scores]
    place = max(range(len(errors)), key=errors.__getitem__)
    return errors[place] - (errors[0] + errors[-1]) / 2, place


def read_lines(connectivity: Connectivity, store: Store, metric: str) -> tuple[Line, ...]:
    """Read an arm's lines from the store.

    Raises:
        RunError: a record that is not of this line.
    """
    lines = []
    for step in connectivity.lines:
        record = store.record(step.key)
        scores = tuple(record["validation_scores"])
        if len(scores) != step.params["points"] or len(record["alphas"]) != len(scores):
            raise RunError(
                f"the stored step {step.key[:12]} ({step.name}) has {len(scores)} scores; expected "
                f"{step.params['points']}. Delete {store.folder(step.key)} and run the same "
                "command again."
            )
        height, place = barrier(scores, get_metric(metric).sign)
        a, b = step.params["seeds"]
        alphas = tuple(record["alphas"])
        lines.append(Line((a, b), alphas, scores, height, alphas[place]))
    return tuple(lines)


_ROUNDING = 1e-12


def read_arm(
    connectivity: Connectivity, store: Store, metric: str, margin: float
) -> dict[str, Any]:
    """Return an arm's ends, lines, largest barrier, and whether it is stable, as JSON values."""
    lines = read_lines(connectivity, store, metric)
    highest = max(line.barrier for line in lines)
    return {
        "ends": [
            {"seed": record["seed"], "validation_score": record["validation_score"]}
            for record in (store.record(step.key) for step in connectivity.ends)
        ],
        "lines": [
            {
                "seeds": list(line.seeds),
                "alphas": list(line.alphas),
                "validation_scores": list(line.scores),
                "barrier": line.barrier,
                "at": line.at,
            }
            for line in lines
        ],
        "barrier": highest,
        "stable": highest <= margin + _ROUNDING,
    }


def say_stability(name: str, arm: Mapping[str, Any], metric: str, margin: float) -> str:
    """Say in one line whether an arm is stable to SGD noise."""
    height = say_difference(metric, arm["barrier"], decimals=2)
    sign, word = ("≤", "stable") if arm["stable"] else (">", "not stable")
    return (
        f"{name}: {word} to SGD noise (barrier {height}{unit_of(metric)} {sign} margin "
        f"{say_difference(metric, margin)})."
    )
