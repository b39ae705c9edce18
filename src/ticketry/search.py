"""How a mask is found: a spec becomes steps, which can be printed and priced before any is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ticketry.config import search_seed
from ticketry.core.schedule import grid_levels, sparsity_levels
from ticketry.errors import ConfigError
from ticketry.pruning import Rule
from ticketry.recipes import Recipe
from ticketry.searchspec import (
    CALIBRATED,
    PASSES,
    SYNFLOW_EXAMPLES,
    SYNFLOW_ROUNDS,
    SearchSpec,
)
from ticketry.steps import Step

WARM_EPOCHS = 1.0
WARM_LEARNING_RATE = 3e-3

DEFAULT_RATE = 0.2
"""Fraction of the remaining weights that a round of IMP removes when nothing else is asked for
(Frankle & Carbin 2019, arXiv 1803.03635)."""


@dataclass(frozen=True)
class Sizes:
    """How many examples each split has, after ``--train-samples``."""

    train: int
    validation: int
    test: int

    def passes(self, recipe: Recipe, *, budget: float = 1.0) -> int:
        """Examples seen in one training with ``budget`` times the recipe's epochs."""
        batch = min(recipe.batch_size, self.train)
        return max(1, round(recipe.epochs * budget * self.train / batch)) * batch


@dataclass(frozen=True)
class Search:
    """The steps of a search.

    Attributes:
        steps: in order.
        mask_key: the step that leaves the final mask.
        sparsities: after each round.
        weights_key: the step that leaves the weights the ticket starts from; None for θ0.
        rewind_step: where in the schedule the ticket starts.
    """

    steps: tuple[Step, ...]
    mask_key: str
    sparsities: tuple[float, ...]
    weights_key: str | None = None
    rewind_step: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that the search draws from; replicates must not use them."""
        seeds = [step.params["seed"] for step in self.steps if "seed" in step.params]
        return tuple(dict.fromkeys(seeds))


def search_levels(search: SearchSpec) -> tuple[float, ...]:
    """Return the sparsity after each round; the last is exactly the one asked for."""
    if search.method != "imp":
        return (search.sparsity,)
    if search.grid is not None:
        return grid_levels(search.grid)
    if search.levels is None and search.rate is None:
        return sparsity_levels(search.sparsity, rate=DEFAULT_RATE)
    return sparsity_levels(
        search.sparsity, levels=search.levels, rate=search.rate, rate_of=search.rate_of
    )


def warm_head_step(recipe: Recipe, sizes: Sizes, context_key: str) -> Step:
    """Return the step that warms up a fresh head once, with the base held at θ0.

    It sees every block at least once, at a rate fit for a fresh layer and not at the fine-tuning's:
    with that rate and budget the head had hardly learned more than how frequent tokens are.
    Its seed is always 0, so every search and arm of a context starts from one γ0, as from one θ0.
    Its passes through the base are forward ones.
    """
    epochs = max(WARM_EPOCHS, recipe.epochs)
    return Step(
        name="warm-up of the head",
        kind="warm-head",
        params={"seed": 0, "epochs": epochs, "learning_rate": WARM_LEARNING_RATE},
        context_key=context_key,
        eval_passes=sizes.passes(dataclasses.replace(recipe, epochs=epochs)) + sizes.validation,
        searching=True,
    )


def unsearched(head: Step | None) -> Step | None:
    """Return a step that warms up a head for something else than a search."""
    return None if head is None else dataclasses.replace(head, searching=False)


def with_head(
    params: Mapping[str, Any], needs: tuple[str, ...], head_key: str | None
) -> dict[str, Any]:
    """Return a step's ``params`` and ``needs``, with the warmed-up head that it starts with.

    The head comes last among the needs, so that the others' places keep their meaning.

    Args:
        params: of a step that starts at θ0.
        needs: the same.
        head_key: of :func:`warm_head_step`; None where the task warms up no head.
    """
    if head_key is None:
        return {"params": params, "needs": needs}
    return {"params": {**params, "head": head_key}, "needs": (*needs, head_key)}


def plan_search(
    search: SearchSpec,
    recipe: Recipe,
    seed: int,
    sizes: Sizes,
    context_key: str,
    head_key: str | None = None,
) -> Search:
    """Lay out a search as steps.

    Args:
        search: method, criterion, pattern, allocation, rewinding and levels.
        recipe: how a round is trained.
        seed: the run's seed.
        sizes: examples per split.
        context_key: the fingerprint of the run's context.
        head_key: of :func:`warm_head_step`, where the task warms up a head.
    Returns:
        The steps in order, and which ones leave the mask and the weights to start from.

    Raises:
        ConfigError: a rewind step that lies beyond a training.

    Source: Chen et al. 2020, arXiv 2007.12223, Algorithm 1 (rewinding to θ0); Frankle et al. 2019,
        arXiv 1903.01611 (to step k); Renda et al. 2020, arXiv 2003.02389 (learning-rate rewinding);
        Zhu & Gupta 2017, arXiv 1710.01878 (gradual); one-shot on θ0 is "essential sparsity",
        Jaiswal et al. 2023, arXiv 2306.03805.
    """
    shared: dict[str, Any] = {"seed": search_seed(seed), "rule": Rule.of(search).to_json()}
    calibration = _calibration_passes(search, recipe, sizes)
    if not search.trains:
        if not (calibration or search.criterion == "random"):
            del shared["seed"]  # nothing is drawn: the mask is the same for every seed
        step = theta0_step(search.sparsity, shared, context_key, calibration)
        if calibration:
            step = dataclasses.replace(step, **with_head(step.params, step.needs, head_key))
        return Search((step,), step.key, (search.sparsity,))
    if search.method == "gradual":
        return _gradual(search, recipe, sizes, shared, context_key, head_key)
    steps_each = sizes.passes(recipe) // min(recipe.batch_size, sizes.train)
    if search.rewind_step is not None and search.rewind_step >= steps_each:
        raise ConfigError(
            f"--rewind-step is {search.rewind_step}, but a training has {steps_each} steps; "
            "expected fewer, so that something is left to train."
        )
    return _rounds(search, recipe, sizes, shared, context_key, calibration, head_key)


def _rounds(
    search: SearchSpec,
    recipe: Recipe,
    sizes: Sizes,
    shared: Mapping[str, Any],
    context_key: str,
    calibration: int,
    head_key: str | None,
) -> Search:
    """Rounds of training and pruning; the first is dense."""
    levels = search_levels(search)
    first_step = search.rewind_step or 0
    batch = min(recipe.batch_size, sizes.train)
    steps: list[Step] = []
    for level, sparsity in enumerate(levels, start=1):
        needs: tuple[str, ...] = (steps[-1].key,) if steps else ()
        if search.rewind == "step" and steps:
            needs = (steps[-1].key, steps[0].key)
        params: dict[str, Any] = {
            **shared,
            "level": level,
            "density": 1.0 - sparsity,
            "rewind": search.rewind,
        }
        if search.rewind == "step":
            params["rewind_step"] = first_step
        elif search.rewind == "none":
            params["rounds"] = len(levels)
        skipped = first_step * batch if level > 1 else 0
        # Later rounds of the other ways go on from weights that hold their own head.
        at_theta0 = level == 1 or search.rewind == "pretrained"
        steps.append(
            Step(
                name=f"search level {level} of {len(levels)}, to {sparsity:.1%} sparsity",
                kind="level",
                context_key=context_key,
                **with_head(params, needs, head_key if at_theta0 else None),
                train_passes=sizes.passes(recipe) - skipped,
                eval_passes=sizes.validation,
                calibration_passes=calibration,
                searching=True,
            )
        )
    weights = None
    if search.starts_rewound:
        weights = steps[0 if search.rewind == "step" else -1].key
    return Search(tuple(steps), steps[-1].key, levels, weights, first_step)


def _gradual(
    search: SearchSpec,
    recipe: Recipe,
    sizes: Sizes,
    shared: Mapping[str, Any],
    context_key: str,
    head_key: str | None,
) -> Search:
    """One training that prunes on its way."""
    params = {
        **shared,
        "density": 1.0 - search.sparsity,
        "start": search.gradual_start,
        "end": search.gradual_end,
        "updates": search.gradual_updates,
        "keep_weights": search.starts_rewound,
    }
    step = Step(
        name=f"gradual search, to {search.sparsity:.1%} sparsity",
        kind="gradual",
        **with_head(params, (), head_key),
        context_key=context_key,
        train_passes=sizes.passes(recipe),
        eval_passes=sizes.validation,
        searching=True,
    )
    weights = step.key if search.starts_rewound else None
    return Search((step,), step.key, (search.sparsity,), weights)


def _calibration_passes(search: SearchSpec, recipe: Recipe, sizes: Sizes) -> int:
    """Return the examples seen forward and backward to score weights once."""
    if search.criterion not in CALIBRATED:
        return 0
    batch = min(recipe.batch_size, sizes.train)
    if search.criterion == "synflow":
        return SYNFLOW_ROUNDS * min(SYNFLOW_EXAMPLES, batch)
    batches = min(search.calibration_batches, sizes.passes(recipe) // batch)
    return batches * batch * PASSES[search.criterion]


def theta0_step(
    sparsity: float, shared: Mapping[str, Any], context_key: str, calibration: int = 0
) -> Step:
    """Return the step that prunes the pre-trained weights with no training."""
    return Step(
        name=f"one-shot mask of θ0 at {sparsity:.1%} sparsity",
        kind="theta0-mask",
        params={"density": 1.0 - sparsity, **shared},
        context_key=context_key,
        calibration_passes=calibration,
        searching=True,
    )
