"""Replicates and controls: the steps that verify a mask, and their records read as arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ticketry.config import Recipe
from ticketry.records import Arm, Replicate
from ticketry.search import Sizes, theta0_step
from ticketry.steps import Step
from ticketry.store import Store


@dataclass(frozen=True)
class Verification:
    """The steps that verify one mask, by arm."""

    dense: tuple[Step, ...]
    half_budget: tuple[Step, ...]
    ticket: tuple[Step, ...]
    controls: Mapping[str, tuple[Step, ...]]
    mask_steps: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps: those that wait for nothing first, so that workers start at once."""
        controls = [step for steps in self.controls.values() for step in steps]
        return (*self.mask_steps, *self.dense, *self.half_budget, *self.ticket, *controls)


def plan_verification(
    mask_key: str,
    sparsity: float,
    recipe: Recipe,
    seeds: Sequence[int],
    controls: Sequence[str],
    sizes: Sizes,
    context_key: str,
    *,
    keep_model: bool = False,
) -> Verification:
    """Lay out the verification of one mask as steps.

    Dense, ticket and controls share seeds pairwise: the same head, data order and dropout.

    Args:
        mask_key: the step that leaves the ticket's mask.
        sparsity: the ticket's, for the one-shot control.
        recipe: the one recipe of all arms.
        seeds: one per replicate, disjoint from the search's.
        controls: names out of :data:`ticketry.config.CONTROLS`.
        sizes: examples per split.
        context_key: the fingerprint of the run's context.
        keep_model: keep the fine-tuned model of the ticket's first replicate.
    """

    def replicate(arm: str, seed: int, rule: str, needs: tuple[str, ...], keep: bool) -> Step:
        params: dict[str, object] = {"seed": seed, "mask": rule}
        if keep:
            params["keep_model"] = True
        return Step(
            name=f"{arm}, seed {seed}",
            kind="replicate",
            params=params,
            context_key=context_key,
            needs=needs,
            train_passes=sizes.passes(recipe),
            eval_passes=sizes.validation + sizes.test,
        )

    def arm(name: str, rule: str, needs: tuple[str, ...] = ()) -> tuple[Step, ...]:
        keep = keep_model and name == "ticket"
        return tuple(
            replicate(name, seed, rule, needs, keep and number == 0)
            for number, seed in enumerate(seeds)
        )

    half = tuple(
        Step(
            name=f"dense at half the budget, seed {seed}",
            kind="half-budget",
            params={"seed": seed},
            context_key=context_key,
            train_passes=sizes.passes(recipe, budget=0.5),
            eval_passes=sizes.validation,
        )
        for seed in seeds
    )
    mask_steps: list[Step] = []
    control_arms: dict[str, tuple[Step, ...]] = {}
    for name in controls:
        if name == "oneshot-theta0":
            shared: dict[str, float | str] = {"criterion": "magnitude", "min_layer_density": 0.0}
            step = dataclasses.replace(theta0_step(sparsity, shared, context_key), searching=False)
            mask_steps.append(step)
            control_arms[name] = arm(name, "given", (step.key,))
        else:
            control_arms[name] = arm(name, name, (mask_key,))
    return Verification(
        dense=arm("dense", "none"),
        half_budget=half,
        ticket=arm("ticket", "given", (mask_key,)),
        controls=control_arms,
        mask_steps=tuple(mask_steps),
    )


def read_arm(name: str, steps: Sequence[Step], store: Store, half: Sequence[Step] = ()) -> Arm:
    """Read an arm's replicates from the store."""
    records = [store.record(step.key) for step in steps]
    return Arm(
        name=name,
        replicates=tuple(
            Replicate(
                seed=record["seed"],
                validation_score=record["validation_score"],
                test_score=record["test_score"],
                predictions=tuple(record["predictions"]),
            )
            for record in records
        ),
        half_budget_validation=tuple(store.record(step.key)["validation_score"] for step in half),
    )
