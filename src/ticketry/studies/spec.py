"""A study as data: what ``PLAN.yaml`` may say, checked whole before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ticketry.config import FindSpec, canonical_json, fingerprint
from ticketry.options import build_find_spec

SCHEMA_VERSION = 1
SAME = "same"
"""``targets: same``: each mask is fine-tuned on the task it was found on."""


@dataclass(frozen=True)
class ArmSpec:
    """One way to come by masks.

    Attributes:
        name: as the plan calls it.
        search: how, as options of ``find`` without ``--sparsity``.
        recipe: options by which its search is trained otherwise than the task's recipe.
        sources: tasks it searches on; empty where the mask depends on none (one-shot on θ0).
        targets: tasks its masks are fine-tuned on, or ``("same",)``.
        sparsities: at which its masks are taken.
        masks: searches, each with a seed of its own.
        fine_tunings: of each mask on each target.
        rewind_share: step to rewind to, as a share of one training; for ``rewind: step``.
    """

    name: str
    search: Mapping[str, Any]
    recipe: Mapping[str, Any]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    sparsities: tuple[float, ...]
    masks: int
    fine_tunings: int
    rewind_share: float | None = None


@dataclass(frozen=True)
class ControlSpec:
    """A control of an arm's masks, at some of its sparsities."""

    name: str
    of: str
    sparsities: tuple[float, ...]
    fine_tunings: int = 1


@dataclass(frozen=True)
class Contrast:
    """A question about two arms: the mean over targets of score(a) - score(b), over searches."""

    name: str
    a: str
    b: str
    margin: float
    decide_by_overlap: bool = False


@dataclass(frozen=True)
class StudySpec:
    """A checked plan.

    Attributes:
        study: its name, such as a row of the paper (``B-F2``).
        title: one line for people.
        paper: the paper's row or figure that it repeats.
        tasks: label -> options of ``find`` that choose its data, change its recipe, or put another
            model of the same tensors in the place of the plan's.
        seed: of the first mask; mask m has ``seed + m``.
        half_budget: also train dense with half the budget, once a mask.
        sparsity_of: target -> the only sparsity at which it is looked at.
        overlaps: set all masks of one sparsity and the same tensors side by side.
        prunable: weights in scope, as far as a price without the model needs them.
        sizes: task -> ``train``, ``validation``, ``test`` examples and mean ``tokens``; likewise.
    """

    study: str
    title: str
    model: str
    tasks: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any]
    arms: tuple[ArmSpec, ...]
    controls: tuple[ControlSpec, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    targets: tuple[str, ...] = ()
    paper: str = ""
    revision: str | None = None
    scope: tuple[str, ...] = ("encoder",)
    seed: int = 1
    device: str = "auto"
    threads: int = 1
    masks: int = 3
    fine_tunings: int = 2
    half_budget: bool = True
    sparsity_of: Mapping[str, float] = field(default_factory=dict)
    overlaps: bool = True
    prunable: int = 0
    sizes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that decides the study's result."""
        return fingerprint(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        spec = {"schema_version": SCHEMA_VERSION, "kind": "study", **dataclasses.asdict(self)}
        for name in ("prunable", "sizes", "title", "paper"):  # no part of what is measured
            del spec[name]
        plain: dict[str, Any] = json.loads(canonical_json(spec))  # lists, not tuples
        return plain

    def find_spec(
        self, task: str, arm: ArmSpec | None = None, sparsity: float | None = None
    ) -> FindSpec:
        """Return what ``find`` would be told for one task, arm and sparsity.

        Raises:
            ConfigError: every fault of these options.
        """
        search = {} if arm is None else dict(arm.search)
        if sparsity is not None and "grid" not in search:
            search["sparsity"] = sparsity
        if arm is not None and arm.rewind_share is not None:
            search["rewind_step"] = 1  # the step itself follows from the size of the data
        chosen = {"task": task, **self.tasks[task]}
        if "data" in chosen:
            del chosen["task"]
        if "model" in chosen:
            chosen.setdefault("revision", None)  # the plan's is of the plan's model
        return build_find_spec(
            {
                "model": self.model,
                "revision": self.revision,
                "scope": list(self.scope),
                "device": self.device,
                "threads": self.threads,
                "seed": self.seed,
                **self.recipe,
                **chosen,
                **({} if arm is None else arm.recipe),
                **search,
            }
        )
