"""From a plan to cells and steps: every training of a study, each once, before any is run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ticketry.config import Recipe, verification_seeds
from ticketry.plan import weight
from ticketry.pruning import Rule, check_rule
from ticketry.scene import Scene, prepare
from ticketry.search import Search, plan_search
from ticketry.searchspec import UNIT_PATTERNS, SearchSpec
from ticketry.steps import Context, Step
from ticketry.studies.nominal import NominalScene, NominalScenes
from ticketry.studies.spec import SAME, ArmSpec, StudySpec
from ticketry.verification import Start, plan_verification

DENSE = "dense"


@dataclass(frozen=True)
class CellKey:
    """What a cell is about.

    Attributes:
        arm: a method of the plan, :data:`DENSE`, or ``control of arm``.
        source: the task its masks were found on; None where they depend on none.
        target: the task that is fine-tuned on.
        sparsity: of the masks; 0 for dense.
        control: the control's name, where it is one.
    """

    arm: str
    source: str | None
    target: str
    sparsity: float
    control: str | None = None

    @property
    def label(self) -> str:
        """For people."""
        if self.arm == DENSE:
            return f"dense on {self.target}"
        what = f"{self.control} of {self.arm}" if self.control else self.arm
        found = f" from {self.source}" if self.source else ""
        return f"{what}{found} on {self.target} at {self.sparsity:.0%}"


@dataclass(frozen=True)
class Cell:
    """One entry of a study's table: masks, and the fine-tunings of each.

    Attributes:
        groups: mask -> the steps of its fine-tunings, in the order of their seeds.
        mask_keys: the step that left each mask; empty for dense.
    """

    key: CellKey
    groups: tuple[tuple[Step, ...], ...]
    mask_keys: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All fine-tunings."""
        return tuple(step for group in self.groups for step in group)


@dataclass(frozen=True)
class Found:
    """A mask to be: the steps that search it and what is trained from it."""

    arm: str
    source: str | None
    number: int
    sparsity: float
    start: Start
    search: tuple[Step, ...]
    context_key: str


@dataclass(frozen=True)
class Grid:
    """A study laid out.

    Attributes:
        steps: every step once, in the order in which they are run: a whole first mask of every
            cell before the second, so that partial results are usable at any time.
        cells: what is read from them.
        half: target -> the dense trainings with half the budget.
        found: every mask.
        contexts: by their keys.
        scenes: target -> what its fine-tunings work on.
        flops: context -> FLOPs of one forward and backward pass.
    """

    steps: tuple[Step, ...]
    cells: Mapping[CellKey, Cell]
    half: Mapping[str, tuple[Step, ...]]
    found: tuple[Found, ...]
    contexts: Mapping[str, Context]
    scenes: Mapping[str, Scene]
    flops: Mapping[str, float]
    overlaps: tuple[Step, ...] = ()
    all_scenes: tuple[Scene, ...] = ()

    def work(self, step: Step) -> float:
        """Return a step's work in FLOPs."""
        return weight(step) * self.flops[step.context_key]


@dataclass
class _Layout:
    """What is gathered while a plan is laid out."""

    ranked: list[tuple[int, Step]] = field(default_factory=list)
    groups: dict[CellKey, dict[int, tuple[Step, ...]]] = field(default_factory=dict)
    masks: dict[CellKey, dict[int, str]] = field(default_factory=dict)
    half: dict[str, list[Step]] = field(default_factory=dict)

    def add(self, number: int, steps: Sequence[Step]) -> None:
        self.ranked += [(number, step) for step in steps]

    def cell(self, key: CellKey, number: int, steps: tuple[Step, ...], mask: str = "") -> None:
        self.groups.setdefault(key, {})[number] = steps
        if mask:
            self.masks.setdefault(key, {})[number] = mask

    @property
    def steps(self) -> tuple[Step, ...]:
        ordered = sorted(self.ranked, key=lambda pair: pair[0])  # stable: mask by mask
        return tuple({step.key: step for _, step in ordered}.values())

    def cells(self) -> dict[CellKey, Cell]:
        return {
            key: Cell(
                key,
                tuple(groups[number] for number in sorted(groups)),
                tuple(self.masks.get(key, {}).get(number, "") for number in sorted(groups))
                if key in self.masks
                else (),
            )
            for key, groups in self.groups.items()
        }


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
    layout = _Layout()
    found: list[Found] = []
    for target in spec.targets:
        if target != SAME:
            scenes.of(target)
    for number in range(spec.masks):
        for target in _targets(spec):
            _dense(spec, scenes.of(target), target, number, layout)
    for arm in spec.arms:
        for source in arm.sources or (None,):
            for number in range(arm.masks if source else spec.masks):
                found += _arm(spec, scenes, arm, source, number, layout)
    steps = layout.steps
    contexts = {scene.context_key: scene.context for scene in scenes.all}
    flops = {scene.context_key: scene.flops_per_pass for scene in scenes.all}
    overlaps = _overlaps(found) if spec.overlaps else ()
    return Grid(
        steps=(*steps, *overlaps),
        cells=layout.cells(),
        half={target: tuple(steps) for target, steps in layout.half.items()},
        found=tuple(found),
        contexts=contexts,
        scenes={target: scenes.of(target) for target in _targets(spec)},
        flops=flops,
        overlaps=overlaps,
        all_scenes=scenes.all,
    )


def _overlaps(found: Sequence[Found]) -> tuple[Step, ...]:
    """Return a step for each sparsity at which there are two masks of the same tensors."""
    by_sparsity: dict[float, list[Found]] = {}
    for mask in found:
        by_sparsity.setdefault(mask.sparsity, []).append(mask)
    steps = []
    for sparsity, masks in sorted(by_sparsity.items()):
        # A one-shot mask of θ0 is made on each target; it is one mask.
        once = {(mask.arm, mask.source, mask.start.mask_key): mask for mask in masks}
        first = {(m.arm, m.source, m.number): m for m in reversed(once.values())}
        keys = dict.fromkeys(mask.start.mask_key for mask in reversed(first.values()))
        if len(keys) > 1:
            steps.append(
                Step(
                    name=f"overlaps of {len(keys)} masks at {sparsity:.0%} sparsity",
                    kind="overlaps",
                    params={},
                    context_key=masks[0].context_key,
                    needs=tuple(keys),
                )
            )
    return tuple(steps)


def _targets(spec: StudySpec) -> tuple[str, ...]:
    """Return every task that any mask is fine-tuned on."""
    named = [*spec.targets]
    for arm in spec.arms:
        named += arm.sources if arm.targets == (SAME,) else arm.targets
    return tuple(dict.fromkeys(name for name in named if name != SAME))


def _dense(spec: StudySpec, scene: Scene, target: str, number: int, layout: _Layout) -> None:
    seeds = verification_seeds(spec.seed + number, spec.fine_tunings)
    # The mask of a verification is not looked at for its dense arm.
    plan = plan_verification(
        Start("", 0.0), scene.recipe, seeds, (), scene.sizes, scene.context_key
    )
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
    layout: _Layout,
) -> list[Found]:
    """Lay out one search of an arm and the fine-tunings of its masks."""
    targets = arm.sources if arm.targets == (SAME,) else arm.targets
    if source is not None and arm.targets == (SAME,):
        targets = (source,)
    wanted = {spec.sparsity_of.get(target) for target in targets}
    if None not in wanted:  # no deeper than anybody looks
        arm = dataclasses.replace(arm, sparsities=tuple(s for s in arm.sparsities if s in wanted))
    masks = []
    if source is not None:
        masks = _search(spec, scenes, arm, source, source, number, layout)
    for target in targets:
        if source is None:  # a mask of the weights alone, made where it is fine-tuned
            masks = _search(spec, scenes, arm, None, target, number, layout)
        for mask in masks:
            wanted = spec.sparsity_of.get(target)
            if wanted is None or math.isclose(wanted, mask.sparsity):
                _fine_tune(spec, scenes, arm, mask, target, layout)
    return masks


def _search(
    spec: StudySpec,
    scenes: Any,
    arm: ArmSpec,
    source: str | None,
    task: str,
    number: int,
    layout: _Layout,
) -> list[Found]:
    """Return an arm's masks of one search seed, one for each of its sparsities."""
    found: list[Found] = []
    scene = scenes.of(task, arm)
    for sparsity in arm.sparsities:
        search = spec.find_spec(task, arm, sparsity).search
        search = _with_rewind_step(search, arm, scene.recipe, scene)
        if not isinstance(scene, NominalScene):
            check_rule(Rule.of(search), scene.shapes, 1.0 - sparsity, scene.units, scene.input_axes)
        planned = plan_search(
            search, scene.recipe, spec.seed + number, scene.sizes, scene.context_key
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


def _fine_tune(
    spec: StudySpec, scenes: Any, arm: ArmSpec, mask: Found, target: str, layout: _Layout
) -> None:
    scene = scenes.target(target, arm)
    seeds = verification_seeds(spec.seed + mask.number, arm.fine_tunings)
    place = (scene.recipe,)
    plan = plan_verification(mask.start, *place, seeds, (), scene.sizes, scene.context_key)
    key = CellKey(arm.name, mask.source, target, mask.sparsity)
    named = _named(plan.ticket, f"{key.label}, mask {mask.number + 1}")
    layout.add(mask.number, named)
    layout.cell(key, mask.number, named, mask.start.mask_key)
    for control in spec.controls:
        if control.of != arm.name or mask.sparsity not in control.sparsities:
            continue
        plan = plan_verification(
            mask.start,
            *place,
            seeds[: control.fine_tunings],
            (control.name,),
            scene.sizes,
            scene.context_key,
        )
        key = CellKey(arm.name, mask.source, target, mask.sparsity, control.name)
        named = _named(plan.controls[control.name], f"{key.label}, mask {mask.number + 1}")
        layout.add(mask.number, (*plan.mask_steps, *named))
        layout.cell(key, mask.number, named)


def _named(steps: Sequence[Step], name: str) -> tuple[Step, ...]:
    """Return steps under a study's names; names are no part of a step's key."""
    return tuple(
        dataclasses.replace(step, name=f"{name}, seed {step.params['seed']}") for step in steps
    )
