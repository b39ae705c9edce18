"""What the verbs do: a plan, its execution, and what the records say."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ticketry.config import FindSpec, verification_seeds
from ticketry.errors import ConfigError, RunError
from ticketry.evidence import search_evidence
from ticketry.execute import Events, execute
from ticketry.files import read_json, write_json
from ticketry.given import (
    fresh_seeds,
    given_run,
    given_start,
    known_search,
    put_given,
    search_seeds,
    spec_for,
)
from ticketry.models.weights import base_part
from ticketry.outcome import judge_run, keep_run, read_mask, write_model
from ticketry.pace import Pace
from ticketry.parallel import launched
from ticketry.plan import Plan, StepPlan, weight
from ticketry.pruning import Rule, check_rule
from ticketry.report import require_report
from ticketry.reproduce import find_command, verify_command
from ticketry.runs import PLAN_FILE, TICKET_FOLDER, check_run, is_finished, open_run
from ticketry.scene import Scene, prepare
from ticketry.search import Search, plan_search, unsearched
from ticketry.steps import WEIGHTS_FILE
from ticketry.store import Store
from ticketry.tasks.registry import refuse_joint
from ticketry.ticket import Rewind, Ticket
from ticketry.verification import Start, plan_verification
from ticketry.weightsfile import load_weights

Say = Callable[[str], None]


def _quiet(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Place:
    """Where a run lies and who works on it; nothing here decides a result.

    Attributes:
        out: the run's folder.
        store: shared outputs of steps; by default inside ``out``.
        workers: trainings side by side; by default one a core; 0 trains in this process.
        events: told what happens; by default nobody.
        say: given lines for people.
        plan_only: print the plan and its cost, and stop.
    """

    out: Path
    store: Path | None = None
    workers: int | None = None
    events: Events | None = None
    say: Say = _quiet
    plan_only: bool = False

    @property
    def outputs(self) -> Store:
        """The store."""
        return Store(self.store if self.store else self.out / "store")


@dataclass(frozen=True)
class Result:
    """What a verb leaves.

    Attributes:
        ticket: with its evidence; None when only the plan was asked for.
        plan: the plan and its cost as JSON values.
        out: the run's folder.
    """

    ticket: Ticket | None
    plan: Mapping[str, Any]
    out: Path


def default_out(spec: FindSpec) -> Path:
    """Return the folder of a run that names none."""
    return Path("runs") / f"find-{spec.fingerprint[:8]}"


def run_find(spec: FindSpec, place: Place) -> Result:
    """Carry out a find spec; see :func:`ticketry.api.find`."""
    require_report()
    run = spec.to_json()
    if (kept := _finished(place, run)) is not None:
        return kept
    scene = set_scene(spec, place)
    # What no selection can do is said now, not after the trainings.
    density = 1.0 - spec.search.sparsity
    check_rule(Rule.of(spec.search), scene.shapes, density, scene.units, scene.input_axes)
    search = plan_search(
        spec.search, scene.recipe, spec.seed, scene.sizes, scene.context_key, scene.head_key
    )
    start = Start(
        search.mask_key,
        spec.search.sparsity,
        spec.search.pattern,
        search.weights_key,
        search.rewind_step if search.weights_key else 0,
    )
    verification = plan_verification(
        start,
        scene.recipe,
        verification_seeds(spec.seed, spec.replicates),
        spec.controls,
        scene.sizes,
        scene.context_key,
        keep_model=spec.keep_model,
        head_key=scene.head_key,
    )
    title = _find_title(spec, search.sparsities, scene)
    plan = Plan(title, scene.recipe, search, verification, scene.head)
    priced = price(plan, scene, place)
    if place.plan_only:
        return Result(None, priced, place.out)
    # Only now is anything written: a fault of model or data leaves no folder behind.
    with open_run(place.out, run):
        wall_s = carry_out(plan, priced, scene, place)
        mask = read_mask(place.outputs, search.mask_key)
        evidence = judge_run(
            plan,
            scene,
            place.outputs,
            mask,
            search=search_evidence(plan, place.outputs, asdict(spec.search)),
            search_seeds=search.seeds,
            command=find_command(spec, place.out),
        )
        ticket = Ticket(mask, scene.base, run, evidence, _rewind(search, place.outputs))
        _keep(ticket, plan, scene, place, wall_s, spec.keep_model)
    return Result(ticket, priced, place.out)


def run_verify(ticket: Ticket, options: Mapping[str, Any], place: Place) -> Result:
    """Carry out a verification; see :func:`ticketry.api.verify`."""
    spec = spec_for(ticket, {**options, "replicates": options.get("replicates") or 5})
    seeds, used = fresh_seeds(spec, ticket), search_seeds(ticket)
    require_report()
    run = given_run(spec, ticket, "verify")
    if (kept := _finished(place, run)) is not None:
        return kept
    scene = set_scene(spec, place, ticket)
    verification = plan_verification(
        given_start(ticket),
        scene.recipe,
        seeds,
        spec.controls,
        scene.sizes,
        scene.context_key,
        keep_model=spec.keep_model,
        head_key=scene.head_key,
    )
    title = f"verify a ticket at {ticket.sparsity:.1%} sparsity in {spec.model}"
    plan = Plan(
        f"{title} on {scene.data.name}", scene.recipe, None, verification, unsearched(scene.head)
    )
    priced = price(plan, scene, place)
    if place.plan_only:
        return Result(None, priced, place.out)
    with open_run(place.out, run):
        put_given(ticket, place.outputs)
        wall_s = carry_out(plan, priced, scene, place)
        evidence = judge_run(
            plan,
            scene,
            place.outputs,
            ticket.mask,
            search=known_search(ticket),
            search_seeds=used,
            command=verify_command(spec, place.out),
        )
        verified = dataclasses.replace(ticket, evidence=evidence)
        _keep(verified, plan, scene, place, wall_s, spec.keep_model)
    return Result(verified, priced, place.out)


def run_train(ticket: Ticket, options: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    """Carry out the training of a sparse model; see :func:`ticketry.api.train`."""
    spec = spec_for(ticket, {**options, "keep_model": True})
    if place.out.exists() and (not place.out.is_dir() or any(place.out.iterdir())):
        raise RunError(
            f"--out {place.out} exists and is not empty; nothing was changed. Give a new folder."
        )
    work = place.out.with_name(place.out.name + ".work")
    run = given_run(spec, ticket, "train")
    check_run(work, run)
    scene = set_scene(spec, place, ticket)
    verification = plan_verification(
        given_start(ticket),
        scene.recipe,
        verification_seeds(spec.seed, 1),
        (),
        scene.sizes,
        scene.context_key,
        keep_model=True,
        head_key=scene.head_key,
    )
    (step,) = verification.ticket
    workers = min(workers_for(place, scene), 1)
    store = Store(work / "store")
    with open_run(work, run):
        put_given(ticket, store)
        store.write_data(scene.context.data_sha256, scene.data.to_json())
        steps = [step] if scene.head is None else [scene.head, step]
        execute(steps, scene.context, store, workers=workers, events=place.events)
        write_model(store, step.key, place.out)
        record = store.record(step.key)
    shutil.rmtree(work, ignore_errors=True)
    kept = {name: value for name, value in record.items() if name != "predictions"}
    return {**kept, "objective": scene.data.objective}


def _rewind(search: Search, store: Store) -> Rewind | None:
    """Return the weights that a search left for its ticket to start from."""
    if search.weights_key is None:
        return None
    weights = base_part(load_weights(store.read(search.weights_key, WEIGHTS_FILE)))
    return Rewind(weights, search.rewind_step)


def _finished(place: Place, run: Mapping[str, Any]) -> Result | None:
    """Refuse a folder of another run; return a finished run's result at once, if it is whole."""
    if place.plan_only:
        return None
    check_run(place.out, run)
    if not is_finished(place.out, place.outputs):
        return None
    place.say(f"{place.out} is finished; nothing was done again")
    plan = read_json(place.out / PLAN_FILE, "the plan")
    return Result(Ticket.from_pretrained(place.out / TICKET_FOLDER), plan, place.out)


def set_scene(spec: FindSpec, place: Place, ticket: Ticket | None = None) -> Scene:
    """Bring together what a run works on; see :func:`ticketry.scene.prepare`.

    Raises:
        ConfigError: a joint task, on which nothing is verified.
    """
    refuse_joint(spec.data.task)
    return prepare(
        spec.model,
        spec.revision,
        spec.data,
        spec.recipe,
        spec.scope,
        device=spec.device,
        threads=spec.threads,
        say=place.say,
        ticket=ticket,
        pattern=spec.search.pattern,
    )


def _find_title(spec: FindSpec, sparsities: tuple[float, ...], scene: Scene) -> str:
    search = spec.search
    if search.method == "imp":
        how = f"imp with {len(sparsities)} level{'s' if len(sparsities) > 1 else ''}"
    else:
        how = search.method + (f" from {search.source}" if search.method == "one-shot" else "")
    if search.criterion != "magnitude":
        how += f", criterion {search.criterion}"
    if search.pattern != "unstructured":
        how += f", pattern {search.pattern}"
    if search.allocation != "global":
        how += f", allocation {search.allocation}"
    if search.rewind != "pretrained":
        how += f", rewind {search.rewind}"
        how += f" {search.rewind_step}" if search.rewind_step else ""
    return (
        f"find a ticket at {spec.search.sparsity:.1%} sparsity by {how}, and verify it, "
        f"in {spec.model} on {scene.data.name}"
    )


def price(plan: StepPlan, scene: Scene, place: Place) -> dict[str, Any]:
    """Say the plan and its cost before anything is spent."""
    store = place.outputs
    workers = workers_for(place, scene)
    left = [weight(step) for step in plan.steps if not store.has(step.key)]
    side_by_side = min(max(workers, 1), max(len(left), 1))
    seconds = Pace().seconds(scene, sum(left) * scene.flops_per_pass, side_by_side)
    for line in plan.lines(store, seconds, workers):
        place.say(line)
    for note in scene.notes:
        place.say(f"  note: {note}")
    return plan.to_json(store, seconds)


def carry_out(plan: StepPlan, priced: Mapping[str, Any], scene: Scene, place: Place) -> float:
    """Make every step's output exist; return the seconds it took now."""
    store = place.outputs
    started = time.monotonic()
    write_json(place.out / PLAN_FILE, priced)
    store.write_data(scene.context.data_sha256, scene.data.to_json())
    execute(
        plan.steps, scene.context, store, workers=workers_for(place, scene), events=place.events
    )
    return time.monotonic() - started


def _keep(
    ticket: Ticket, plan: Plan, scene: Scene, place: Place, wall_s: float, keep_model: bool
) -> None:
    keep_run(
        ticket,
        plan,
        scene,
        place.outputs,
        place.out,
        wall_s=wall_s,
        workers=workers_for(place, scene),
        keep_model=keep_model,
    )


def workers_for(place: Place, scene: Scene) -> int:
    """Return how many trainings go side by side; 0: in this process."""
    if place.workers is not None:
        if place.workers < 0:
            raise ConfigError(
                f"--workers is {place.workers}; expected 0 (in this process) or more."
            )
        return 0 if launched() > 1 else place.workers
    if launched() > 1:
        return 0  # the launched processes are the workers, all on one training
    if scene.context.device != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // scene.context.threads)
