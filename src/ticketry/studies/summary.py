"""What a study's records say: every cell against dense, its controls and the same-task mask.

Masks are the unit of replication (statistics.md): an interval is over masks, each the mean of its
fine-tunings, and over test examples. A cell whose masks are all one mask (one-shot on θ0) has its
fine-tunings as units and speaks about that mask alone.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ticketry.errors import RunError
from ticketry.metrics import get_metric, resample
from ticketry.studies.cells import DENSE, Cell, CellKey, Grid
from ticketry.studies.ledger import Ledger
from ticketry.studies.spec import StudySpec
from ticketry.verdict.intervals import compare
from ticketry.verdict.reading import TINY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticketry.metrics.resampling import Resampled

SCHEMA_VERSION = 1
_DRAWS = 2_000


@dataclass(frozen=True)
class _Pair:
    """Fine-tunings of a cell and of a reference, paired by seed, by unit."""

    units: tuple[tuple[tuple[str, str], ...], ...]

    @property
    def flat(self) -> list[tuple[str, str]]:
        return [pair for unit in self.units for pair in unit]


def summarise(spec: StudySpec, grid: Grid, ledger: Ledger) -> dict[str, Any]:
    """Return the study's table, curves, universality and contrasts as JSON values.

    Cells without two complete units stand in it without a verdict, so partial results can be used.
    """
    reader = _Summary(spec, grid, ledger)
    cells = [reader.cell(cell) for cell in grid.cells.values()]
    from ticketry.studies.questions import (
        contrasts,
        curves,
        overlaps,
        universality,
        zero_kernels,
    )

    by_key = dict(zip(grid.cells, cells, strict=True))
    near = overlaps(grid, ledger)
    recorded = [step for step in grid.steps if step.key in ledger]
    return {
        "schema_version": SCHEMA_VERSION,
        "study": spec.study,
        "title": spec.title,
        "paper": spec.paper,
        "model": ", ".join(dict.fromkeys(s.base.name for s in grid.scenes.values())),
        "plan_sha256": spec.fingerprint,
        "masks": spec.masks,
        "fine_tunings": spec.fine_tunings,
        "steps": len(grid.steps),
        "steps_recorded": len(recorded),
        "trainings_recorded": sum(step.train_passes > 0 for step in recorded),
        "trainings": sum(step.train_passes > 0 for step in grid.steps),
        "hours": round(sum(s for _, s in ledger.seconds()) / 3600, 2),
        "targets": {name: reader.target(name) for name in grid.scenes},
        "cells": cells,
        "curves": curves(by_key),
        "universality": universality(spec, by_key),
        "overlaps": near,
        **({"kernels": zero_kernels(grid, ledger)} if grid.kernels else {}),
        "contrasts": contrasts(spec, grid, ledger, near),
    }


class _Summary:
    """Reads cells, with each target's labels and metric at hand."""

    def __init__(self, spec: StudySpec, grid: Grid, ledger: Ledger) -> None:
        self.spec = spec
        self.grid = grid
        self.ledger = ledger
        self.read: dict[str, tuple[NDArray[Any], Mapping[str, NDArray[Any]]]] = {}

    def target(self, name: str) -> dict[str, Any]:
        """Return what a target is, and whether its dense reference has learned what it can."""
        data = self.grid.scenes[name].data
        metric = get_metric(data.metric)
        dense = self.grid.cells[CellKey(DENSE, None, name, 0.0)]
        half = [step for step in self.grid.half.get(name, ()) if step.key in self.ledger]
        gain = None
        if half:
            seeds = {step.params["seed"] for step in half}
            full = [
                self.ledger.record(step.key)["validation_score"]
                for step in dense.steps
                if step.params["seed"] in seeds and step.key in self.ledger
            ]
            if len(full) == len(half):
                halves = [self.ledger.record(step.key)["validation_score"] for step in half]
                gain = metric.sign * (statistics.fmean(full) - statistics.fmean(halves))
        return {
            "metric": data.metric,
            "margin": data.margin,
            "direction": metric.direction,
            "train": len(data.train),
            "test": len(data.test),
            "data_sha256": data.sha256,
            "prunable": self.grid.scenes[name].prunable,
            "recipe": self.grid.scenes[name].recipe.describe(),
            "budget_gain": gain,
            "undertrained_reference": None if gain is None else gain > data.margin + TINY,
        }

    def cell(self, cell: Cell) -> dict[str, Any]:
        """Return one cell: scores by mask, and how it stands against its references."""
        key = cell.key
        done = [
            [self.ledger.record(step.key)["test_score"] for step in group]
            for group in cell.groups
            if all(step.key in self.ledger for step in group)
        ]
        means = [statistics.fmean(group) for group in done]
        flat = [score for group in done for score in group]
        found: dict[str, Any] = {
            **dataclasses.asdict(key),
            "scores": done,
            "mean": statistics.fmean(means) if means else None,
            "std_masks": statistics.stdev(means) if len(means) > 1 else None,
            "std_all": statistics.stdev(flat) if len(flat) > 1 else None,
            "one_mask": len(set(cell.mask_keys)) == 1,
            "groups": len(cell.groups),
            "groups_recorded": len(done),
            "against": {},
        }
        if key.arm != DENSE:
            for name, other in self._references(key).items():
                if (reading := self._against(cell, other)) is not None:
                    found["against"][name] = reading
        return found

    def _references(self, key: CellKey) -> dict[str, Cell]:
        references = {"dense": CellKey(DENSE, None, key.target, 0.0)}
        if key.control is None:
            if key.source not in (None, key.target):
                references["same-task"] = dataclasses.replace(key, source=key.target)
            for control in self.spec.controls:
                if control.of == key.arm:
                    references[control.name] = dataclasses.replace(key, control=control.name)
        return {
            name: self.grid.cells[other]
            for name, other in references.items()
            if other in self.grid.cells
        }

    def _against(self, cell: Cell, other: Cell) -> dict[str, Any] | None:
        pair = self._pair(cell, other)
        if len(pair.units) < 2:
            return None
        data = self.grid.scenes[cell.key.target].data
        metric = get_metric(data.metric)
        gains = np.array(
            [
                statistics.fmean(
                    metric.sign * (self._score(candidate) - self._score(reference))
                    for candidate, reference in unit
                )
                for unit in pair.units
            ]
        )
        drawn = self._draws(cell.key.target, pair.flat)
        reading = compare(gains, drawn)
        answer = "inconclusive"
        if reading.surely_above(-data.margin):
            answer = "yes"
        elif reading.surely_below(-data.margin):
            answer = "no"
        references = [self._score(reference) for _, reference in pair.flat]
        mean_reference = statistics.fmean(references)
        spread = statistics.stdev(references)
        return {
            **dataclasses.asdict(reading),
            "units": len(pair.units),
            "noninferior": answer,
            "beaten": reading.surely_above(0.0),
            "matches_paper": reading.difference >= -spread - TINY,
            "matches_strict": reading.difference >= -TINY,
            "reference_mean": mean_reference,
            "reference_std": spread,
        }

    def _pair(self, cell: Cell, other: Cell) -> _Pair:
        """Pair fine-tunings of equal seeds; a unit is a mask, or a fine-tuning of an only mask."""
        by_seed = {step.params["seed"]: step.key for step in other.steps}
        units = []
        for group in cell.groups:
            pairs = tuple(
                (step.key, by_seed[step.params["seed"]])
                for step in group
                if step.params["seed"] in by_seed
            )
            if pairs and all(a in self.ledger and b in self.ledger for a, b in pairs):
                units.append(pairs)
        only_one = len(set(cell.mask_keys)) == 1 and cell.key.control is None
        if only_one and len(set(other.mask_keys)) <= 1:
            units = [(pair,) for unit in units for pair in unit]
        return _Pair(tuple(units))

    def _score(self, key: str) -> float:
        return float(self.ledger.record(key)["test_score"])

    def _draws(self, target: str, pairs: Sequence[tuple[str, str]]) -> Resampled:
        metric = get_metric(self.grid.scenes[target].data.metric)
        truth, runs = self._runs(target)
        candidate = np.stack([runs[a] for a, _ in pairs])
        reference = np.stack([runs[b] for _, b in pairs])
        return resample(metric, truth, reference, candidate, samples=_DRAWS, seed=0)

    def _runs(self, target: str) -> tuple[NDArray[Any], Mapping[str, NDArray[Any]]]:
        """Return a target's labels and all its recorded fine-tunings, which are read once.

        Raises:
            RunError: a record's score does not follow from its predictions.
        """
        if target not in self.read:
            data = self.grid.scenes[target].data
            metric = get_metric(data.metric)
            keys = [
                step.key
                for cell in self.grid.cells.values()
                if cell.key.target == target
                for step in cell.steps
                if step.key in self.ledger
            ]
            truth, runs = metric.outputs.read(data.test.labels, _Predictions(self.ledger, keys))
            for key, run in runs.items():
                (score,) = metric.outputs.scores(truth, run[None])
                if abs(score - self._score(key)) > 1e-6:
                    raise RunError(
                        f"the record of {self.ledger.lines[key]['name']!r} says {metric.name} "
                        f"{self._score(key):.6f}, but its predictions give {score:.6f}; delete its "
                        f"line in {self.ledger.path} and run the same command again."
                    )
            self.read[target] = truth, runs
        return self.read[target]


class _Predictions(Mapping[str, Sequence[Any]]):
    """Fine-tunings' predictions by step key, each unpacked when it is asked for.

    Unpacked boxes are large: one run at a time is held, not a study's.
    """

    def __init__(self, ledger: Ledger, keys: Sequence[str]) -> None:
        self._ledger = ledger
        self._keys = tuple(dict.fromkeys(keys))

    def __getitem__(self, key: str) -> Sequence[Any]:
        return self._ledger.predictions(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
