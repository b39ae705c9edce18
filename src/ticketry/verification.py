"""Replicates and controls: the steps that verify a mask, and their records read as arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ticketry.controls import parse_control
from ticketry.pruning import Rule
from ticketry.recipes import Recipe
from ticketry.records import Arm, Replicate
from ticketry.search import Sizes, theta0_step, with_head
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


@dataclass(frozen=True)
class Start:
    """What a verification trains: the mask, and the weights it starts from.

    Attributes:
        mask_key: the step that left the ticket's mask.
        sparsity: the ticket's, for the one-shot control.
        pattern: of the mask; random controls keep to it.
        weights_key: the step that left the weights the ticket carries; None for θ0.
        rewind_step: optimizer steps of the schedule that those weights have behind them.
    """

    mask_key: str
    sparsity: float
    pattern: str = "unstructured"
    weights_key: str | None = None
    rewind_step: int = 0


def plan_verification(
    start: Start,
    recipe: Recipe,
    seeds: Sequence[int],
    controls: Sequence[str],
    sizes: Sizes,
    context_key: str,
    *,
    keep_model: bool = False,
    head_key: str | None = None,
) -> Verification:
    """Lay out the verification of one mask as steps.

    Dense, ticket and controls share seeds pairwise: the same head, data order and dropout. A
    ticket that was rewound to step k, and its controls, train the steps after it; dense trains all.

    Args:
        start: the ticket.
        recipe: the one recipe of all arms.
        seeds: one per replicate, disjoint from the search's.
        controls: as :func:`ticketry.controls.parse_control` reads them.
        sizes: examples per split.
        context_key: the fingerprint of the run's context.
        keep_model: keep the fine-tuned model of the ticket's first replicate.
        head_key: of :func:`ticketry.search.warm_head_step`: the head that every arm starts with,
            whatever base it starts from; None where the task warms up none.
    """
    batch = min(recipe.batch_size, sizes.train)

    def arm(
        name: str, mask: str, needs: tuple[str, ...] = (), **params: object
    ) -> tuple[Step, ...]:
        skipped = start.rewind_step * batch if params.get("carried") else 0
        steps = []
        for number, seed in enumerate(seeds):
            keep = {"keep_model": True} if keep_model and name == "ticket" and not number else {}
            steps.append(
                Step(
                    name=f"{name}, seed {seed}",
                    kind="replicate",
                    context_key=context_key,
                    **with_head({"seed": seed, "mask": mask, **params, **keep}, needs, head_key),
                    train_passes=sizes.passes(recipe) - skipped,
                    eval_passes=sizes.validation + sizes.test,
                )
            )
        return tuple(steps)

    carried: dict[str, object] = {}
    needs: tuple[str, ...] = (start.mask_key,)
    if start.weights_key is not None:
        carried = {"carried": True}
        needs = (start.mask_key, start.weights_key)
        if start.rewind_step:
            carried["first_step"] = start.rewind_step
    half = tuple(
        Step(
            name=f"dense at half the budget, seed {seed}",
            kind="half-budget",
            context_key=context_key,
            **with_head({"seed": seed}, (), head_key),
            train_passes=sizes.passes(recipe, budget=0.5),
            eval_passes=sizes.validation,
        )
        for seed in seeds
    )
    mask_steps: list[Step] = []
    control_arms: dict[str, tuple[Step, ...]] = {}
    for text in controls:
        control, amount = parse_control(text)
        if control.name == "oneshot-theta0":
            step = theta0_step(start.sparsity, {"rule": Rule().to_json()}, context_key)
            step = dataclasses.replace(step, searching=False)
            mask_steps.append(step)
            control_arms[text] = arm(text, "given", (step.key,))
            continue
        params: dict[str, object] = {}
        if control.weights not in ("start", "pretrained"):
            params["weights"] = control.weights
        if amount is not None:
            params["amount"] = amount
        if start.pattern != "unstructured" and control.mask in ("random", "random-layerwise"):
            params["pattern"] = start.pattern
        # A base that is drawn anew has no step of the schedule behind it.
        from_start = {} if control.weights in ("reinit", "reinit-scope") else carried
        control_arms[text] = arm(
            text, control.mask, needs if from_start else needs[:1], **params, **from_start
        )
    return Verification(
        dense=arm("dense", "none"),
        half_budget=half,
        ticket=arm("ticket", "given", needs, **carried),
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
