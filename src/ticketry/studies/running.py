"""Carry out a study: price it, run what is missing, keep a record of each step as it ends."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.errors import ConfigError, InputError, RunError
from ticketry.execute import Events, Silent, execute
from ticketry.files import write_bytes, write_json
from ticketry.runs import REPORT_FILE, check_run, open_run
from ticketry.steps import Step
from ticketry.store import Damage, Store
from ticketry.studies.adopting import keys_to_adopt
from ticketry.studies.around import environment
from ticketry.studies.cells import Grid
from ticketry.studies.grid import lay_out
from ticketry.studies.ledger import RECORDS_FILE, Ledger
from ticketry.studies.masks import KeptMasks, read_for_masks
from ticketry.studies.part import part_of
from ticketry.studies.pricing import price_lines, price_of, workers_of
from ticketry.studies.spec import StudySpec

CONTEXTS_FILE = "contexts.json"
SUMMARY_FILE = "summary.json"
PAGE_FILE = "summary.md"

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
        records: folders of other studies; what they measured of the same steps counts as done.
        keep_masks: keep the masks that may be read again beside the records.
        only: names or patterns of targets whose cells alone are run and shown this time.
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
    records: tuple[Path, ...] = ()
    keep_masks: bool = False
    only: tuple[str, ...] = ()

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
    _check_records(place.records)
    part = part_of(spec, place.only) if place.only else spec
    grid = lay_out(part, place.say, nominal=place.nominal)
    return run_grid(part, grid, place, identity=spec.to_json())


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
    masks = KeptMasks(place.out, grid, place.outputs, place.records)
    others = [Ledger(folder) for folder in place.records]
    _adopt(grid, ledger, others, masks, place, write=False)
    steps = missing(grid, ledger, place.outputs, masks)
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
        _adopt(grid, ledger, others, masks, place, write=True)
        if place.keep_masks:
            masks.keep_all(ledger)
        steps = _bring_masks(grid, ledger, masks, place)
        _keep_contexts(grid, place.out)
        try:
            done = _run(grid, steps, ledger, masks, place)
        finally:
            summary = summarise(spec, grid, ledger)
            if place.only:
                summary["only"] = list(place.only)
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


def _check_records(folders: Sequence[Path]) -> None:
    """Refuse folders that hold no records, all at once."""
    if faults := [
        f"--records {folder} holds no {RECORDS_FILE}; expected the folder of a study."
        for folder in folders
        if not (folder / RECORDS_FILE).is_file()
    ]:
        raise ConfigError(faults)


def _adopt(
    grid: Grid,
    ledger: Ledger,
    others: Sequence[Ledger],
    masks: KeptMasks,
    place: StudyPlace,
    *,
    write: bool,
) -> None:
    """Take over what other studies measured of the same steps."""
    keys, left = keys_to_adopt(
        grid, Ledger(place.out), others, lambda own: missing(grid, own, place.outputs, masks)
    )
    for folder, other in zip(place.records, others, strict=True):
        count = ledger.adopt(other, sorted(keys), write=write)
        if count and write:
            place.say(f"{count} steps of this study were measured in {folder.name} already")
    if left and write:
        place.say(
            f"{left} more were measured on another machine and rest on masks that are not kept, "
            "which this one would not find again to the bit: they are measured here"
        )


def missing(grid: Grid, ledger: Ledger, store: Store, masks: KeptMasks) -> list[Step]:
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
            stack += [
                need
                for need in by_key[key].needs
                if need in by_key  # others are brought along
                and not store.has(need)
                and not (need in read_for_masks(by_key[key]) and masks.has(need, ledger))
            ]
    return [step for step in grid.steps if step.key in wanted]


def _bring_masks(grid: Grid, ledger: Ledger, masks: KeptMasks, place: StudyPlace) -> list[Step]:
    """Put kept masks where the missing steps read them; return the missing steps."""
    store = place.outputs
    while True:
        steps = missing(grid, ledger, store, masks)
        made = {step.key for step in steps}
        needed = {
            need for step in steps if not store.has(step.key) for need in read_for_masks(step)
        }
        # Those of a damaged file are searched again, which may need others.
        wrong = [
            key
            for key in sorted(needed - made)
            if masks.has(key, ledger) and not store.has_mask(key) and not masks.bring(key, ledger)
        ]
        if not wrong:
            return steps
        place.say(f"{len(wrong)} damaged files of {masks.folder} were set aside; "
                  "their searches are done again")  # fmt: skip


def _run(
    grid: Grid, steps: Sequence[Step], ledger: Ledger, masks: KeptMasks, place: StudyPlace
) -> bool:
    store = place.outputs
    for scene in {scene.context.data_sha256: scene for scene in grid.all_scenes}.values():
        store.write_data(scene.context.data_sha256, scene.data.to_json())
    until = math.inf
    if place.max_hours is not None:
        until = time.monotonic() + 3600 * place.max_hours
    keeper = _Keeper(
        place.events or Silent(), ledger, environment(), masks if place.keep_masks else None
    )
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

    def __init__(
        self,
        events: Events,
        ledger: Ledger,
        around: Mapping[str, Any],
        masks: KeptMasks | None,
    ) -> None:
        self.events = events
        self.ledger = ledger
        self.around = around
        self.masks = masks

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
        # A search done again for its mask must find the same one, or the study would mix two.
        known = self.ledger.record(step.key).get("digest")
        if known is not None and known != record["digest"]:
            raise RunError(
                f"{step.name!r} was done again for its mask and found another one than its record "
                f"says ({record['digest'][:12]}, not {known[:12]}): this machine computes "
                "otherwise than the one of the records. Give a new --out, and this folder as one "
                "of its --records: what does not rest on such masks counts there, and the rest is "
                "measured here."
            )
        if self.masks is not None:
            self.masks.keep(step.key, self.ledger)


def _known_contexts(out: Path) -> dict[str, Any]:
    """Return the contexts written down before; none where the file is absent or damaged."""
    try:
        found = json.loads((out / CONTEXTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep_contexts(grid: Grid, out: Path) -> None:
    """Write down what each context's key stands for; paths of this machine stay out of it."""
    contexts = _known_contexts(out)  # records of a part that is not laid out this time stay known
    for key, context in grid.contexts.items():
        identity = context.identity
        scope = identity.pop("scope")
        contexts[key] = {**identity, "tensors": len(scope)}
    write_json(out / CONTEXTS_FILE, contexts)
