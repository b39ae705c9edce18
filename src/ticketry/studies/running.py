"""Carry out a study: price it, run what is missing, keep a record of each step as it ends."""

from __future__ import annotations

import functools
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ticketry import __version__
from ticketry.errors import ConfigError, InputError, RunError
from ticketry.execute import Events, Silent, execute
from ticketry.files import write_bytes, write_json
from ticketry.metrics import say_sparsity
from ticketry.plan import estimate_seconds, say_seconds
from ticketry.runs import REPORT_FILE, check_run, open_run
from ticketry.steps import Step
from ticketry.store import Damage, Store
from ticketry.studies.cells import DENSE, Grid
from ticketry.studies.grid import lay_out
from ticketry.studies.ledger import Ledger
from ticketry.studies.spec import StudySpec

CONTEXTS_FILE = "contexts.json"
SUMMARY_FILE = "summary.json"
PAGE_FILE = "summary.md"
_SEEN_ENOUGH = 5
"""Timed steps from which on the price is what they took, not an estimate."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class StudyPlace:
    """Where a study lies and how it is run; nothing here decides a result.

    Attributes:
        out: the study's folder.
        store: masks, weights and checkpoints; by default ``OUT/store``.
        workers: trainings side by side; by default one a core.
        max_hours: no training is begun after so many hours; those under way are finished.
        plan_only: print the price and stop.
        nominal: price by the sizes that the plan states; with ``plan_only``.
        flops_per_s: of another machine to price for; by default this one's are estimated.
    """

    out: Path
    store: Path | None = None
    workers: int | None = None
    max_hours: float | None = None
    events: Events | None = None
    say: Say = lambda line: None
    plan_only: bool = False
    nominal: bool = False
    flops_per_s: float | None = None

    @property
    def outputs(self) -> Store:
        """The store."""
        return Store(self.store if self.store else self.out / "store")


@dataclass(frozen=True)
class StudyResult:
    """What a call leaves: the summary, the price, and whether all is measured."""

    summary: Mapping[str, Any]
    price: Mapping[str, Any]
    complete: bool


def run_study(spec: StudySpec, place: StudyPlace) -> StudyResult:
    """Carry out a study, or go on with it.

    Raises:
        RunMismatchError: the folder is another plan's.
        RunLockedError: another process is at work in it.
        InputError: a model, data or combination that cannot be used.
    """
    if place.max_hours is not None and not place.max_hours > 0:
        raise ConfigError(f"--max-hours is {place.max_hours}; expected a number above 0.")
    if place.nominal and not place.plan_only:
        raise ConfigError("--nominal prices a plan by stated sizes; it goes with --plan.")
    check_run(place.out, spec.to_json())
    grid = lay_out(spec, place.say, nominal=place.nominal)
    return run_grid(spec, grid, place)


def run_grid(
    spec: StudySpec,
    grid: Grid,
    place: StudyPlace,
    *,
    identity: Mapping[str, Any] | None = None,
    bring: Callable[[Store], None] = lambda store: None,
) -> StudyResult:
    """Carry out a study that is laid out.

    Args:
        spec: the study.
        grid: its cells and steps.
        place: where, and how.
        identity: what decides its result, as JSON values; by default the spec.
        bring: puts into the store what the steps read and none of them makes.
    """
    from ticketry.studies.summary import summarise
    from ticketry.studies.wording import page

    identity = spec.to_json() if identity is None else identity
    check_run(place.out, identity)
    ledger = Ledger(place.out)
    steps = missing(grid, ledger, place.outputs)
    price = price_of(grid, ledger, steps, place)
    for line in price_lines(spec, grid, price):
        place.say(line)
    if place.plan_only:
        return StudyResult({}, price, not steps)
    with open_run(place.out, identity):
        bring(place.outputs)
        ledger = Ledger(place.out)  # what was there before the lock may have grown since
        if count := ledger.set_aside():
            place.say(f"{count} damaged lines of {ledger.path} were set aside; only their steps "
                      "are done again")  # fmt: skip
        steps = missing(grid, ledger, place.outputs)
        _keep_contexts(grid, place.out)
        try:
            done = _run(grid, steps, ledger, place)
        finally:
            summary = summarise(spec, grid, ledger)
            write_json(place.out / SUMMARY_FILE, summary)
            write_bytes(place.out / PAGE_FILE, page(summary).encode())
            _write_report(summary, place)
    return StudyResult(summary, price, done)


def _write_report(summary: Mapping[str, Any], place: StudyPlace) -> None:
    """Write the page, unless what draws it is not installed: a study is not lost for that."""
    from ticketry.report import require_report
    from ticketry.report.studying import render_study
    from ticketry.studies.wording import opening, sections

    try:
        require_report()
    except InputError as error:
        place.say(f"note: no {REPORT_FILE} is written: {error}")
        return
    text = render_study(summary, opening(summary), sections(summary))
    write_bytes(place.out / REPORT_FILE, text.encode())


def missing(grid: Grid, ledger: Ledger, store: Store) -> list[Step]:
    """Return the steps to run: those without a record, and those whose masks these need again.

    A record that was committed counts as done, wherever its mask is by now.
    """
    by_key = {step.key: step for step in grid.steps}
    wanted: set[str] = set()
    stack = [step.key for step in grid.steps if step.key not in ledger]
    while stack:
        key = stack.pop()
        if key in wanted:
            continue
        wanted.add(key)
        # What a stored step needs is not read any more.
        if not store.has(key):
            needs = [need for need in by_key[key].needs if not store.has(need)]
            stack += [need for need in needs if need in by_key]  # others are brought along
    return [step for step in grid.steps if step.key in wanted]


def _run(grid: Grid, steps: Sequence[Step], ledger: Ledger, place: StudyPlace) -> bool:
    store = place.outputs
    for scene in {scene.context.data_sha256: scene for scene in grid.all_scenes}.values():
        store.write_data(scene.context.data_sha256, scene.data.to_json())
    until = math.inf
    if place.max_hours is not None:
        until = time.monotonic() + 3600 * place.max_hours
    keeper = _Keeper(place.events or Silent(), ledger, environment())
    # Finished but not recorded: a crash between the two, or another study that shares the store.
    keeper.adopt([step for step in steps if store.has(step.key)], store)
    return execute(
        steps,
        grid.contexts,
        store,
        workers=workers_of(grid, place),
        events=keeper,
        until=until,
    )


class _Keeper:
    """Writes each finished step into the ledger, and passes events on."""

    def __init__(self, events: Events, ledger: Ledger, around: Mapping[str, Any]) -> None:
        self.events = events
        self.ledger = ledger
        self.around = around

    def begin(self, steps: Sequence[Step], found: int) -> None:
        """Pass on."""
        self.events.begin(steps, found)

    def damaged(self, step: Step, damage: Damage) -> None:
        """Pass on."""
        self.events.damaged(step, damage)

    def progress(self, step: Step, done: int, total: int) -> None:
        """Pass on."""
        self.events.progress(step, done, total)

    def end(self) -> None:
        """Pass on."""
        self.events.end()

    def finished(self, step: Step, record: Mapping[str, Any], seconds: float) -> None:
        """Record a step before anybody hears of it."""
        self._keep(step, record, seconds)
        self.events.finished(step, record, seconds)

    def adopt(self, steps: Sequence[Step], store: Store) -> None:
        """Record steps whose outputs are there already, if they are whole."""
        from ticketry.recordform import check_output

        for step in steps:
            if check_output(step, store) is None:
                seconds = float(store.times(step.key).get("seconds", 0.0))
                self._keep(step, store.record(step.key), seconds)

    def _keep(self, step: Step, record: Mapping[str, Any], seconds: float) -> None:
        if step.key not in self.ledger:
            self.ledger.add(step, record, seconds, self.around)
            return
        # A search done again for its mask must find the same one, or the study would mix two.
        known = self.ledger.record(step.key).get("digest")
        if known is not None and known != record["digest"]:
            raise RunError(
                f"{step.name!r} was done again for its mask and found another one than its record "
                f"says ({record['digest'][:12]}, not {known[:12]}): this machine computes "
                "otherwise than the one of the records. Give a new --out to measure all here."
            )


def price_of(
    grid: Grid, ledger: Ledger, steps: Sequence[Step], place: StudyPlace
) -> dict[str, Any]:
    """Return what a study costs: all of it, and what is left."""
    dense = {cell.target: grid.cells[cell].groups[0][0] for cell in grid.cells if cell.arm == DENSE}
    one = max(grid.work(step) for step in dense.values()) if dense else 1.0
    mean = sum(grid.work(step) for step in dense.values()) / max(len(dense), 1) or one
    workers = workers_of(grid, place)
    if place.flops_per_s is None:
        seconds = _seconds(grid, ledger, steps, workers)
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
    """Estimate how long the rest takes: by what was timed here so far, else by a matrix product."""
    here = platform.node()
    timed = {
        line["key"]: seconds
        for line, seconds in ledger.seconds()
        if line["environment"].get("machine") == _machine(here) and seconds > 0
    }
    known = [step for step in grid.steps if step.key in timed and step.train_passes]
    if len(known) >= _SEEN_ENOUGH:
        rate = sum(timed[step.key] for step in known) / sum(grid.work(step) for step in known)
        return rate * sum(grid.work(step) for step in steps) / max(workers, 1)
    total = 0.0
    for key, context in grid.contexts.items():
        part = [step for step in steps if step.context_key == key]
        if not part:
            continue
        seconds = estimate_seconds(
            part,
            flops_per_pass=grid.flops[key],
            threads=context.threads,
            workers=workers,
            device=context.device,
            dtype=str(context.recipe["dtype"]),
        )
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


def _machine(node: str) -> str:
    """Return what tells machines apart without naming one."""
    from ticketry.config import fingerprint

    return fingerprint([node, platform.machine(), os.cpu_count()])[:12]


@functools.cache
def environment() -> dict[str, Any]:
    """Return what a record was measured with."""
    return {
        "ticketry": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers")},
        "cores": os.cpu_count(),
        "machine": _machine(platform.node()),
    }


def _commit() -> str | None:
    """Return the commit of ticketry's own source, ``+`` behind it if it was changed since."""
    source = Path(__file__).parent
    try:
        run = functools.partial(
            subprocess.run, cwd=source, capture_output=True, text=True, check=True, timeout=10
        )
        head = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "--", str(source.parent)]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _keep_contexts(grid: Grid, out: Path) -> None:
    """Write down what each context's key stands for; paths of this machine stay out of it."""
    contexts = {}
    for key, context in grid.contexts.items():
        identity = context.identity
        scope = identity.pop("scope")
        contexts[key] = {**identity, "tensors": len(scope)}
    write_json(out / CONTEXTS_FILE, contexts)
