"""What a study costs: all of it, and what is left."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.errors import ConfigError
from ticketry.metrics import say_sparsity
from ticketry.pace import Pace, kind_of
from ticketry.plan import say_seconds
from ticketry.steps import Step
from ticketry.studies.around import machine_of
from ticketry.studies.cells import DENSE, Grid
from ticketry.studies.ledger import Ledger
from ticketry.studies.spec import StudySpec

if TYPE_CHECKING:
    from ticketry.studies.running import StudyPlace

_SEEN_ENOUGH = 5
"""Timed steps from which on the price is what they took, not an estimate."""


def price_of(
    grid: Grid, ledger: Ledger, steps: Sequence[Step], place: StudyPlace
) -> dict[str, Any]:
    """Return what a study costs: all of it, and what is left."""
    dense = {cell.target: grid.cells[cell].groups[0][0] for cell in grid.cells if cell.arm == DENSE}
    one = max(grid.work(step) for step in dense.values()) if dense else 1.0
    mean = sum(grid.work(step) for step in dense.values()) / max(len(dense), 1) or one
    workers = workers_of(grid, place)
    if place.flops_per_s is None:
        seconds = None if place.nominal else _seconds(grid, ledger, steps, workers)
    else:
        seconds = sum(grid.work(step) for step in steps) / place.flops_per_s
    trainings = [step for step in grid.steps if step.train_passes]
    return {
        "cells": len(grid.cells),
        "masks": len({found.start.mask_key for found in grid.found}),
        "steps": len(grid.steps),
        "trainings": len(trainings),
        "trainings_left": sum(step.train_passes > 0 for step in steps),
        "dense_equivalents": round(sum(grid.work(s) for s in grid.steps) / mean, 1),
        "dense_equivalents_left": round(sum(grid.work(s) for s in steps) / mean, 1),
        "train_passes": sum(step.train_passes for step in grid.steps),
        "workers": max(workers, 1),
        "seconds_left": None if seconds is None else round(seconds),
        "flops_per_s": place.flops_per_s,
    }


def _seconds(grid: Grid, ledger: Ledger, steps: Sequence[Step], workers: int) -> float | None:
    """Estimate how long the rest takes, kind by kind of training.

    By what the kind's trainings took here so far, else by a few of its steps timed now.
    """
    here = machine_of(platform.node())
    timed = {
        line["key"]: seconds
        for line, seconds in ledger.seconds()
        if line["environment"].get("machine") == here and seconds > 0
    }
    kinds = {scene.context_key: kind_of(scene) for scene in grid.all_scenes}
    scenes = {kinds[scene.context_key]: scene for scene in grid.all_scenes}
    pace, total = Pace(), 0.0
    for kind in dict.fromkeys(kinds[step.context_key] for step in steps):
        left = [step for step in steps if kinds[step.context_key] == kind]
        known = [
            step
            for step in grid.steps
            if step.key in timed and step.train_passes and kinds[step.context_key] == kind
        ]
        work = sum(grid.work(step) for step in left)
        if len(known) >= _SEEN_ENOUGH:
            per_flop = sum(timed[step.key] for step in known) / sum(map(grid.work, known))
            total += work * per_flop / max(workers, 1)
            continue
        seconds = pace.seconds(scenes[kind], work, workers)
        if seconds is None:
            return None
        total += seconds
    return total


def price_lines(spec: StudySpec, grid: Grid, price: Mapping[str, Any]) -> list[str]:
    """Say what a study is and costs, a line each."""
    lines = [f"Study {spec.study}: {spec.title}"]
    arms = {arm.name: arm for arm in spec.arms}
    for name, arm in arms.items():
        sources = ", ".join(arm.sources) or "no task"
        lines.append(
            f"  {name:<18} masks of {sources} at {', '.join(map(say_sparsity, arm.sparsities))}"
        )
    for control in spec.controls:
        lines.append(
            f"  {control.name:<18} of {control.of} at "
            f"{', '.join(map(say_sparsity, control.sparsities))}"
        )
    left = price["seconds_left"]
    about = "" if left is None else f", about {say_seconds(left)}"
    lines.append(
        f"  {price['cells']} cells from {price['masks']} masks: {price['trainings']:,} trainings "
        f"= {price['dense_equivalents']:,g} dense fine-tunings of mean length"
    )
    how = f"with {price['workers']} worker{'s' if price['workers'] > 1 else ''}"
    if price["flops_per_s"] is not None:
        how = f"at {price['flops_per_s'] / 1e12:g} TFLOP/s sustained"
    lines.append(
        f"  {price['trainings_left']:,} trainings are left "
        f"({price['dense_equivalents_left']:,g} dense fine-tunings){about} {how}"
    )
    return lines


def workers_of(grid: Grid, place: StudyPlace) -> int:
    """Return how many trainings run side by side."""
    if place.workers is not None:
        if place.workers < 0:
            raise ConfigError(
                f"--workers is {place.workers}; expected 0 (in this process) or more."
            )
        return place.workers
    context = next(iter(grid.contexts.values()))
    if context.device != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // context.threads)
