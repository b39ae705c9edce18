"""How a mask is found: a spec becomes steps, which can be printed and priced before any is run."""

from __future__ import annotations

from dataclasses import dataclass

from ticketry.config import Recipe, SearchSpec, search_seed
from ticketry.core.schedule import sparsity_levels
from ticketry.steps import Step

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
    """The steps of a search, and the key of the step that leaves the final mask."""

    steps: tuple[Step, ...]
    mask_key: str
    sparsities: tuple[float, ...]

    @property
    def level_steps(self) -> tuple[Step, ...]:
        """The steps that are rounds with a training."""
        return tuple(step for step in self.steps if step.kind == "level")


def search_levels(search: SearchSpec) -> tuple[float, ...]:
    """Return the sparsity after each round; the last is exactly the one asked for."""
    if search.method == "one-shot":
        return (search.sparsity,)
    if search.levels is None and search.rate is None:
        return sparsity_levels(search.sparsity, rate=DEFAULT_RATE)
    return sparsity_levels(
        search.sparsity, levels=search.levels, rate=search.rate, rate_of=search.rate_of
    )


def plan_search(
    search: SearchSpec, recipe: Recipe, seed: int, sizes: Sizes, context_key: str
) -> Search:
    """Lay out a search as steps.

    Every round trains from θ0 (true rewind) with the search's own seed, prunes the smallest
    weights of what it kept so far, and leaves only a mask.

    Args:
        search: method, source of the scores and levels.
        recipe: how a round is trained.
        seed: the run's seed.
        sizes: examples per split.
        context_key: the fingerprint of the run's context.
    Returns:
        The steps in order, and which one leaves the mask.
    Source: Chen et al. 2020, arXiv 2007.12223, Algorithm 1 (rewinding to θ0); one-shot on θ0 is
        "essential sparsity", Jaiswal et al. 2023, arXiv 2306.03805.
    """
    shared: dict[str, float | str] = {
        "criterion": search.criterion,
        "min_layer_density": search.min_layer_density,
    }
    if search.method == "one-shot" and search.source == "theta0":
        step = theta0_step(search.sparsity, shared, context_key)
        return Search((step,), step.key, (search.sparsity,))
    levels = search_levels(search)
    steps: list[Step] = []
    for level, sparsity in enumerate(levels, start=1):
        params = {
            "seed": search_seed(seed),
            "level": level,
            "density": 1.0 - sparsity,
            **shared,
        }
        steps.append(
            Step(
                name=f"search level {level} of {len(levels)}, to {sparsity:.1%} sparsity",
                kind="level",
                params=params,
                context_key=context_key,
                needs=(steps[-1].key,) if steps else (),
                train_passes=sizes.passes(recipe),
                eval_passes=sizes.validation,
                searching=True,
            )
        )
    return Search(tuple(steps), steps[-1].key, levels)


def theta0_step(sparsity: float, shared: dict[str, float | str], context_key: str) -> Step:
    """Return the step that prunes the pre-trained weights with no training."""
    return Step(
        name=f"one-shot mask of θ0 at {sparsity:.1%} sparsity",
        kind="theta0-mask",
        params={"density": 1.0 - sparsity, **shared},
        context_key=context_key,
        searching=True,
    )
