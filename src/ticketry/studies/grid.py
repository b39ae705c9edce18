"""From a plan to cells and steps: every training of a study, each once, before any is run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ticketry.config import verification_seeds
from ticketry.errors import ConfigError
from ticketry.pruning import Rule, check_rule
from ticketry.recipes import Recipe
from ticketry.scene import Scene, prepare
from ticketry.search import Search, plan_search
from ticketry.searchspec import UNIT_PATTERNS, SearchSpec
from ticketry.steps import Step
from ticketry.studies.cells import DENSE, CellKey, Found, Grid, Layout
from ticketry.studies.nominal import NominalScene, NominalScenes
from ticketry.studies.spec import SAME, ArmSpec, StudySpec
from ticketry.verification import Start, plan_verification


class Scenes:
    """The scenes of a study, each prepared once."""

    def __init__(self, spec: StudySpec, say: Callable[[str], None]) -> None:
        self.spec = spec
        self.say = say
        self._made: dict[str, Scene] = {}

    def of(self, task: str, arm: ArmSpec | None = None) -> Scene:
        """Return what trainings on a task work on; an arm may search with a recipe of its own."""
        spec = self.spec.find_spec(task, arm, None if arm is None else arm.sparsities[0])
        pattern = spec.search.pattern if spec.search.pattern in UNIT_PATTERNS else "unstructured"
        key = f"{task} {spec.recipe} {pattern}"
        if key not in self._made:
            self._made[key] = prepare(
                spec.model,
                spec.revision,
                spec.data,
                spec.recipe,
                spec.scope,
                device=spec.device,
                threads=spec.threads,
                say=self.say,
                pattern=pattern,
            )
        return self._made[key]

    def target(self, task: str, arm: ArmSpec) -> Scene:
        """Return what an arm's masks are fine-tuned on: always by the task's own recipe."""
        return self.of(task, dataclasses.replace(arm, recipe={}))

    @property
    def all(self) -> tuple[Scene, ...]:
        """Every scene so far."""
        return tuple(self._made.values())


def lay_out(spec: StudySpec, say: Callable[[str], None], *, nominal: bool = False) -> Grid:
    """Lay a plan out as cells and steps; loads models and data, trains nothing.

    Args:
        spec: the plan.
        say: given a line about each download.
        nominal: by the sizes that the plan states; nothing is loaded, and nothing can be run.

    Raises:
        InputError: a task's data or the model cannot be used, or an arm does not fit the model.
    """
    scenes: Any = NominalScenes(spec) if nominal else Scenes(spec, say)
    layout = Layout()
    found: list[Found] = []
    for target in spec.targets:
        if target != SAME:
            scenes.of(target)
    for number in range(spec.masks):
        for target in _targets(spec):
            dense_cells(spec, scenes.of(target), target, number, layout)
    for arm in spec.arms:
        for source in arm.sources or (None,):
            for number in range(arm.masks if source else spec.masks):
                found += _arm(spec, scenes, arm, source, number, layout)
    return layout.grid(scenes, _targets(spec), found, overlaps=spec.overlaps)


def _targets(spec: StudySpec) -> tuple[str, ...]:
    """Return every task that any mask is fine-tuned on."""
    named = [*spec.targets]
    for arm in spec.arms:
        named += arm.sources if arm.targets == (SAME,) else arm.targets
    return tuple(dict.fromkeys(name for name in named if name != SAME))


def dense_cells(spec: StudySpec, scene: Scene, target: str, number: int, layout: Layout) -> None:
    """Lay out the dense fine-tunings that one mask of every cell is paired with."""
    seeds = verification_seeds(spec.seed + number, spec.fine_tunings)
    # The mask of a verification is not looked at for its dense arm.
    plan = plan_verification(
        Start("", 0.0),
        scene.recipe,
        seeds,
        (),
        scene.sizes,
        scene.context_key,
        head_key=scene.head_key,
    )
    _warm_head(scene, number, layout)
    named = _named(plan.dense, f"dense on {target}")
    layout.add(number, named)
    layout.cell(CellKey(DENSE, None, target, 0.0), number, named)
    if spec.half_budget:
        half = _named(plan.half_budget[:1], f"dense on {target} at half the budget")
        layout.add(number, half)
        layout.half.setdefault(target, []).extend(half)


def _arm(
    spec: StudySpec,
    scenes: Any,
    arm: ArmSpec,
    source: str | None,
    number: int,
    layout: Layout,
) -> list[Found]:
    """Lay out one search of an arm and the fine-tunings of its masks."""
    targets = arm.sources if arm.targets == (SAME,) else arm.targets
    if source is not None and arm.targets == (SAME,):
        targets = (source,)
    looked_at = {spec.sparsity_of.get(target) for target in targets}
    if None not in looked_at:  # no deeper than anybody looks
        least = tuple(s for s in arm.sparsities if s in looked_at)
        arm = dataclasses.replace(arm, sparsities=least)
    masks = []
    if source is not None:
        masks = search_masks(spec, scenes, arm, source, source, number, layout)
        for target in targets:
            _check_tensors(arm, source, scenes.of(source, arm), target, scenes.target(target, arm))
    for target in targets:
        if source is None:  # a mask of the weights alone, made where it is fine-tuned
            masks = search_masks(spec, scenes, arm, None, target, number, layout)
        for mask in masks:
            wanted = spec.sparsity_of.get(target)
            if wanted is None or math.isclose(wanted, mask.sparsity):
                fine_tune(spec, scenes, arm, mask, target, layout)
    return masks


def _check_tensors(arm: ArmSpec, source: str, of: Scene, target: str, on: Scene) -> None:
    """Refuse masks for a target whose model has other tensors in scope."""
    if dict(of.shapes) == dict(on.shapes):
        return
    strange = sorted({*of.shapes.items()} ^ {*on.shapes.items()})[0][0]
    raise ConfigError(
        f"arm {arm.name}: masks found on {source} do not fit the model of {target}: "
        f"{strange} is {_shape(of, strange)} in {source}'s model and {_shape(on, strange)} in "
        f"{target}'s. Give the arm targets whose model has the same tensors, or targets: same."
    )


def _shape(scene: Scene, name: str) -> str:
    shape = scene.shapes.get(name)
    return "missing" if shape is None else "×".join(map(str, shape))


def search_masks(
    spec: StudySpec,
    scenes: Any,
    arm: ArmSpec,
    source: str | None,
    task: str,
    number: int,
    layout: Layout,
) -> list[Found]:
    """Return an arm's masks of one search seed, one for each of its sparsities."""
    found: list[Found] = []
    scene = scenes.of(task, arm)
    _warm_head(scene, number, layout)
    for sparsity in arm.sparsities:
        search = spec.find_spec(task, arm, sparsity).search
        search = _with_rewind_step(search, arm, scene.recipe, scene)
        if not isinstance(scene, NominalScene):
            check_rule(Rule.of(search), scene.shapes, 1.0 - sparsity, scene.units, scene.input_axes)
        planned = plan_search(
            search,
            scene.recipe,
            spec.seed + number,
            scene.sizes,
            scene.context_key,
            scene.head_key,
        )
        level = _level(planned, sparsity)
        where = f" on {source}" if source else ""
        steps = tuple(
            dataclasses.replace(step, name=f"{arm.name}{where}, mask {number + 1}: {step.name}")
            for step in planned.steps[: level + 1]
        )
        layout.add(number, steps)
        weights = planned.weights_key
        if weights is not None and search.rewind != "step":
            weights = steps[-1].key  # where this level's training ended
        found.append(
            Found(
                arm.name,
                source,
                number,
                sparsity,
                Start(
                    steps[-1].key,
                    sparsity,
                    search.pattern,
                    weights,
                    planned.rewind_step if weights else 0,
                ),
                steps,
                scene.context_key,
            )
        )
    return found


def _with_rewind_step(search: SearchSpec, arm: ArmSpec, recipe: Recipe, scene: Scene) -> SearchSpec:
    if arm.rewind_share is None:
        return search
    steps = scene.sizes.passes(recipe) // min(recipe.batch_size, scene.sizes.train)
    return dataclasses.replace(search, rewind_step=max(1, round(arm.rewind_share * steps)))


def _level(planned: Search, sparsity: float) -> int:
    """Return which step of a search leaves the mask of a sparsity; a plan was checked for it."""
    return next(i for i, s in enumerate(planned.sparsities) if math.isclose(s, sparsity))


def fine_tune(
    spec: StudySpec, scenes: Any, arm: ArmSpec, mask: Found, target: str, layout: Layout
) -> None:
    """Lay out the fine-tunings of one mask on one target, and those of its controls."""
    scene = scenes.target(target, arm)
    seeds = verification_seeds(spec.seed + mask.number, arm.fine_tunings)
    _warm_head(scene, mask.number, layout)
    plan = plan_verification(
        mask.start,
        scene.recipe,
        seeds,
        (),
        scene.sizes,
        scene.context_key,
        head_key=scene.head_key,
    )
    key = CellKey(arm.name, mask.source, target, mask.sparsity)
    named = _named(plan.ticket, f"{key.label}, mask {mask.number + 1}")
    layout.add(mask.number, named)
    layout.cell(key, mask.number, named, mask.start.mask_key)
    for control in spec.controls:
        if control.of != arm.name or mask.sparsity not in control.sparsities:
            continue
        plan = plan_verification(
            mask.start,
            scene.recipe,
            seeds[: control.fine_tunings],
            (control.name,),
            scene.sizes,
            scene.context_key,
            head_key=scene.head_key,
        )
        key = CellKey(arm.name, mask.source, target, mask.sparsity, control.name)
        named = _named(plan.controls[control.name], f"{key.label}, mask {mask.number + 1}")
        layout.add(mask.number, (*plan.mask_steps, *named))
        layout.cell(key, mask.number, named)


def _warm_head(scene: Scene, number: int, layout: Layout) -> None:
    """Lay out the warm-up of a task's head, where it has one, before the steps that start so."""
    if scene.head is not None:
        named = dataclasses.replace(scene.head, name=f"warm-up of the head for {scene.data.name}")
        layout.add(number, [named])


def _named(steps: Sequence[Step], name: str) -> tuple[Step, ...]:
    """Return steps under a study's names; names are no part of a step's key."""
    return tuple(
        dataclasses.replace(step, name=f"{name}, seed {step.params['seed']}") for step in steps
    )
