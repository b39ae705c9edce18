"""Cells, masks and steps: what a study is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ticketry.metrics.wording import say_sparsity
from ticketry.plan import weight
from ticketry.scene import Scene
from ticketry.steps import Context, Step
from ticketry.verification import Start

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
        return f"{what}{found} on {self.target} at {say_sparsity(self.sparsity)}"


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
    kernels: tuple[Step, ...] = ()
    all_scenes: tuple[Scene, ...] = ()

    def work(self, step: Step) -> float:
        """Return a step's work in FLOPs."""
        return weight(step) * self.flops[step.context_key]


@dataclass
class Layout:
    """What is gathered while a plan is laid out."""

    ranked: list[tuple[int, Step]] = field(default_factory=list)
    groups: dict[CellKey, dict[int, tuple[Step, ...]]] = field(default_factory=dict)
    masks: dict[CellKey, dict[int, str]] = field(default_factory=dict)
    half: dict[str, list[Step]] = field(default_factory=dict)

    def add(self, number: int, steps: Sequence[Step]) -> None:
        """Add steps of the masks of one number."""
        self.ranked += [(number, step) for step in steps]

    def cell(self, key: CellKey, number: int, steps: tuple[Step, ...], mask: str = "") -> None:
        """Add one mask's fine-tunings to a cell, and the step that leaves the mask."""
        self.groups.setdefault(key, {})[number] = steps
        if mask:
            self.masks.setdefault(key, {})[number] = mask

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step once: those of all first masks, then those of the second ones …"""
        ordered = sorted(self.ranked, key=lambda pair: pair[0])  # stable: mask by mask
        return tuple({step.key: step for _, step in ordered}.values())

    def cells(self) -> dict[CellKey, Cell]:
        """What was gathered, by cell."""
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

    def grid(
        self, scenes: Any, targets: Sequence[str], found: Sequence[Found], *, overlaps: bool
    ) -> Grid:
        """Return what was gathered, with the overlaps of all masks if wanted."""
        made = scenes.all
        alike = overlap_steps(found, made) if overlaps else ()
        emptied = kernel_steps(found, made)
        return Grid(
            steps=(*self.steps, *alike, *emptied),
            cells=self.cells(),
            half={target: tuple(steps) for target, steps in self.half.items()},
            found=tuple(found),
            contexts={scene.context_key: scene.context for scene in made},
            scenes={target: scenes.of(target) for target in targets},
            flops={scene.context_key: scene.flops_per_pass for scene in made},
            overlaps=alike,
            kernels=emptied,
            all_scenes=made,
        )


def overlap_steps(found: Sequence[Found], scenes: Sequence[Any]) -> tuple[Step, ...]:
    """Return a step for each sparsity at which there are two masks of the same tensors."""
    tensors = {scene.context_key: tuple(sorted(scene.shapes.items())) for scene in scenes}
    return tuple(
        _looking_at(f"overlaps of {len(keys)} masks", "overlaps", sparsity, masks, keys)
        for alike in dict.fromkeys(tensors[mask.context_key] for mask in found)
        for sparsity, masks, keys in _by_sparsity(
            [mask for mask in found if tensors[mask.context_key] == alike]
        )
        if len(keys) > 1
    )


def kernel_steps(found: Sequence[Found], scenes: Sequence[Any]) -> tuple[Step, ...]:
    """Return a step for each sparsity at which there are masks of tensors with kernels."""
    from ticketry.core.kernels import has_kernels

    having = {
        scene.context_key
        for scene in scenes
        if any(has_kernels(tuple(shape)) for shape in scene.shapes.values())
    }
    return tuple(
        _looking_at(f"kernels of {len(keys)} masks", "kernels", sparsity, masks, keys)
        for sparsity, masks, keys in _by_sparsity([m for m in found if m.context_key in having])
    )


def _looking_at(
    name: str, kind: str, sparsity: float, masks: Sequence[Found], keys: Sequence[str]
) -> Step:
    return Step(
        name=f"{name} at {say_sparsity(sparsity)} sparsity",
        kind=kind,
        params={},
        context_key=masks[0].context_key,
        needs=tuple(keys),
    )


def _by_sparsity(
    found: Sequence[Found],
) -> list[tuple[float, list[Found], tuple[str, ...]]]:
    """Return sparsity, masks, and the steps that leave them, each mask once."""
    by_sparsity: dict[float, list[Found]] = {}
    for mask in found:
        by_sparsity.setdefault(mask.sparsity, []).append(mask)
    rows = []
    for sparsity, masks in sorted(by_sparsity.items()):
        # A one-shot mask of θ0 is made on each target; it is one mask.
        once = {(mask.arm, mask.source, mask.start.mask_key): mask for mask in masks}
        first = {(m.arm, m.source, m.number): m for m in reversed(once.values())}
        keys = dict.fromkeys(mask.start.mask_key for mask in reversed(first.values()))
        rows.append((sparsity, masks, tuple(keys)))
    return rows
