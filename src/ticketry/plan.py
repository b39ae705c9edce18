"""A whole run as data: its steps, what they cost, and how that is printed before it is spent."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ticketry.recipes import Recipe
from ticketry.search import Search
from ticketry.steps import Step
from ticketry.store import Store
from ticketry.verification import Verification

FORWARD_SHARE = 1.0 / 3.0
"""A forward pass costs a third of a forward and a backward pass (the backward pass is two)."""


@dataclass(frozen=True)
class StepPlan(ABC):
    """Steps in order, each once, with what they are for and what they cost.

    Attributes:
        title: what the run does, for people.
        recipe: of the trainings.
    """

    title: str
    recipe: Recipe

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[Step]]:
        """What each step is for, such as ``ticket`` -> its steps."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step once; two parts that are the same training share it."""
        steps = {step.key: step for part in self.parts.values() for step in part}
        return tuple(steps.values())

    @property
    @abstractmethod
    def dense_passes(self) -> int:
        """Passes of one training of the dense model: the unit of cost."""

    def to_json(self, store: Store, seconds: float | None) -> dict[str, Any]:
        """Return the plan with its cost as JSON values."""
        part_of: dict[str, str] = {}
        for part, steps in self.parts.items():
            for step in steps:
                part_of.setdefault(step.key, part)  # a shared step is paid once
        return {
            "schema_version": 1,
            "title": self.title,
            "steps": [
                {
                    "name": step.name,
                    "kind": step.kind,
                    "part": part_of.get(step.key),
                    "key": step.key,
                    "needs": list(step.needs),
                    "train_passes": step.train_passes,
                    "eval_passes": step.eval_passes,
                    "calibration_passes": step.calibration_passes,
                    "dense_equivalents": round(dense_equivalents([step], self.dense_passes), 4),
                    "stored": store.has(step.key),
                }
                for step in self.steps
            ],
            "cost": self.cost(store, seconds),
        }

    def cost(self, store: Store, seconds: float | None) -> dict[str, Any]:
        """Return the cost: passes, dense-equivalents, and about how many seconds are left."""
        searching = [step for step in self.steps if step.searching]
        return {
            "trainings": sum(step.train_passes > 0 for step in self.steps),
            "train_passes": sum(step.train_passes for step in self.steps),
            "eval_passes": sum(step.eval_passes for step in self.steps),
            "dense_equivalents": round(dense_equivalents(self.steps, self.dense_passes), 2),
            "search_dense_equivalents": round(dense_equivalents(searching, self.dense_passes), 2),
            "steps_stored": sum(store.has(step.key) for step in self.steps),
            "steps": len(self.steps),
            "estimated_seconds": None if seconds is None else round(seconds),
        }

    def lines(self, store: Store, seconds: float | None, workers: int) -> list[str]:
        """Say the plan and its cost, a line each."""
        cost = self.cost(store, seconds)
        lines = [f"Plan: {self.title}", f"  recipe    {self.recipe.describe()}"]
        for name, steps in self.parts.items():
            trainings = [step for step in steps if step.train_passes]
            scoring = sum(step.calibration_passes for step in steps)
            scored = f", {scoring:,} passes to score weights" if scoring else ""
            if not trainings:
                read = sum(step.eval_passes for step in steps)
                reading = f", {read:,} evaluation passes" if read else ""
                warming = any(step.kind == "warm-head" for step in steps)
                how = "the head alone" if warming else "no training"
                lines.append(f"  {name:<28} {how}{scored}{reading}")
                continue
            passes = f"{trainings[0].train_passes:,} passes"
            seeds = ", ".join(dict.fromkeys(str(step.params["seed"]) for step in trainings))
            lines.append(f"  {name:<28} {len(trainings)} × {passes:<14} seeds {seeds}{scored}")
        about = "" if seconds is None else f", about {say_seconds(seconds)}"
        lines.append(
            f"  in all {cost['train_passes']:,} training and {cost['eval_passes']:,} evaluation "
            f"passes = {cost['dense_equivalents']:g} dense fine-tunings "
            f"({cost['search_dense_equivalents']:g} for the search){about} "
            f"with {max(workers, 1)} worker{'s' if workers > 1 else ''}"
        )
        if cost["steps_stored"]:
            lines.append(f"  {cost['steps_stored']} of {cost['steps']} steps are already stored")
        return lines


@dataclass(frozen=True)
class Plan(StepPlan):
    """The steps of a search and of a verification.

    Attributes:
        search: the steps of the search, None when a ticket was brought along.
        verification: the steps of the replicates and controls.
        head: the step that warms up a head which the others start with; None where there is none.
    """

    search: Search | None
    verification: Verification
    head: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step once; two arms that are the same training share it."""
        search = self.search.steps if self.search else ()
        head = () if self.head is None else (self.head,)
        steps = {step.key: step for step in (*head, *search, *self.verification.steps)}
        return tuple(steps.values())

    @property
    def parts(self) -> dict[str, Sequence[Step]]:
        """What each step is for: ``search``, ``dense``, …, ``control NAME`` -> its steps."""
        verification = self.verification
        return {
            **({} if self.head is None else {"warm-up of the head": (self.head,)}),
            **({"search": self.search.steps} if self.search else {}),
            "dense": verification.dense,
            "dense, half budget": verification.half_budget,
            "ticket": verification.ticket,
            **{f"control {name}": steps for name, steps in verification.controls.items()},
        }

    @property
    def dense_passes(self) -> int:
        """Passes of one training of the dense model: the unit of cost."""
        return self.verification.dense[0].train_passes


def dense_equivalents(steps: Sequence[Step], dense_passes: int) -> float:
    """Return the cost of steps in trainings of the dense model (statistics.md, "Cost").

    All passes are through the same dense network, so FLOPs are in proportion to passes.
    """
    return sum(weight(step) for step in steps) / dense_passes


def weight(step: Step) -> float:
    """Return a step's work in forward-and-backward passes."""
    return step.train_passes + step.calibration_passes + step.eval_passes * FORWARD_SHARE


def say_seconds(seconds: float) -> str:
    """Say a duration as people do."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{round(minutes)} min"
    return f"{minutes / 60:.1f} h"
