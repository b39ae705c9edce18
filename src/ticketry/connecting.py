"""The job behind ``connect``: is a ticket stable to SGD noise, and is the dense model?

OUT/connectivity.json   ends, lines, barriers; beside it run.json, plan.json, store/ and the rest
                        of a run's folder (:mod:`ticketry.runs`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.connectivity import (
    POINTS,
    Connectivity,
    connectivity_steps,
    read_arm,
    say_stability,
)
from ticketry.errors import ConfigError, RunError
from ticketry.files import read_json, write_json
from ticketry.forms import Number, Whole, faults_of
from ticketry.given import fresh_seeds, given_run, given_start, put_given, spec_for
from ticketry.jobs import Place, carry_out, price, set_scene, workers_for
from ticketry.metrics import get_metric
from ticketry.outcome import measured_times
from ticketry.plan import StepPlan
from ticketry.reproduce import connect_command
from ticketry.runs import PLAN_FILE, TIMES_FILE, check_run, finish_run, is_finished, open_run
from ticketry.scene import Scene
from ticketry.search import unsearched
from ticketry.steps import Step
from ticketry.ticket import Ticket

CONNECTIVITY_FILE = "connectivity.json"
_NOT_HERE = {
    "controls": "a barrier is read of the ticket and of dense alone",
    "keep_model": "every end's weights lie in the store",
}


_ARM = {
    "ends": [{"seed": Whole(), "validation_score": Number()}],
    "lines": [{"seeds": [Whole()], "alphas": [Number()], "validation_scores": [Number()]}],
    "barrier": Number(),
    "stable": bool,
}
_FORM = {
    "metric": str,
    "margin": Number(),
    "head_of_seed": Whole(),
    "validation_examples": Whole(),
    "arms": {"ticket": _ARM, "dense": _ARM},
}


@dataclass(frozen=True)
class Connected:
    """What a run leaves.

    Attributes:
        record: as written; None when only the plan was asked for.
        plan: the plan and its cost as JSON values.
        out: the run's folder.
    """

    record: Mapping[str, Any] | None
    plan: Mapping[str, Any]
    out: Path


@dataclass(frozen=True)
class ConnectPlan(StepPlan):
    """Ends and lines of dense and of the ticket."""

    dense: Connectivity
    ticket: Connectivity
    head: Step | None = None

    @property
    def parts(self) -> Mapping[str, Sequence[Step]]:
        """What each step is for."""
        return {
            **({} if self.head is None else {"warm-up of the head": (self.head,)}),
            "dense": self.dense.ends,
            "ticket": self.ticket.ends,
            "dense, on the line": self.dense.lines,
            "ticket, on the line": self.ticket.lines,
        }

    @property
    def dense_passes(self) -> int:
        """Passes of one training of the dense model."""
        return self.dense.ends[0].train_passes


def run_connect(ticket: Ticket, options: Mapping[str, Any], place: Place) -> Connected:
    """Measure linear mode connectivity; see :func:`ticketry.api.connect`."""
    if given := [name for name in _NOT_HERE if options.get(name)]:
        raise ConfigError(
            [
                f"--{name.replace('_', '-')} is no option of connect: {_NOT_HERE[name]}."
                for name in given
            ]
        )
    wanted = options.get("replicates")
    replicates = 2 if wanted is None else wanted
    spec = spec_for(ticket, {**options, "replicates": replicates, "controls": "none"})
    seeds = fresh_seeds(spec, ticket)
    run = given_run(spec, ticket, "connect")
    if not place.plan_only:
        check_run(place.out, run)
        if is_finished(place.out, place.outputs):
            place.say(f"{place.out} is finished; nothing was done again")
            plan_json = read_json(place.out / PLAN_FILE, "the plan")
            return Connected(_read_record(place.out / CONNECTIVITY_FILE), plan_json, place.out)
    scene = set_scene(spec, place, ticket)
    dense, given_ticket = (
        connectivity_steps(
            start, scene.recipe, seeds, scene.sizes, scene.context_key, scene.head_key
        )
        for start in (None, given_start(ticket))
    )
    title = (
        f"linear mode connectivity of a ticket at {ticket.sparsity:.1%} sparsity in {spec.model} "
        f"on {scene.data.name}"
    )
    plan = ConnectPlan(title, scene.recipe, dense, given_ticket, unsearched(scene.head))
    priced = price(plan, scene, place)
    if place.plan_only:
        return Connected(None, priced, place.out)
    with open_run(place.out, run):
        put_given(ticket, place.outputs)
        wall_s = carry_out(plan, priced, scene, place)
        found = _record(ticket, plan, scene, place)
        found["command"] = connect_command(spec, place.out)
        workers = workers_for(place, scene)
        times = measured_times(plan, scene, place.outputs, wall_s=wall_s, workers=workers)
        write_json(place.out / TIMES_FILE, times)
        write_json(place.out / CONNECTIVITY_FILE, found)
        keys = [step.key for step in plan.steps]
        finish_run(place.out, place.outputs, keys, [place.out / CONNECTIVITY_FILE], scene.inputs)
    return Connected(found, priced, place.out)


def _read_record(path: Path) -> Mapping[str, Any]:
    """Read a finished run's record; its hash tells damage, its form whether it can be said."""
    record: Mapping[str, Any] = read_json(path, "the record")
    if faults := faults_of(record, _FORM):
        raise RunError(
            f"{path} cannot be used: {faults[0]}. Delete it and run the same command again; "
            "it is written anew from the stored steps."
        )
    return record


def _record(ticket: Ticket, plan: ConnectPlan, scene: Scene, place: Place) -> dict[str, Any]:
    data, store = scene.data, place.outputs
    return {
        "schema_version": 1,
        "task": data.name,
        "data_sha256": data.sha256,
        "metric": data.metric,
        "direction": get_metric(data.metric).direction,
        "margin": data.margin,
        "split": "validation",
        "validation_examples": scene.sizes.validation,
        "sparsity": ticket.sparsity,
        "mask_digest": ticket.mask.digest(),
        "base": {
            "name": scene.base.name,
            "revision": scene.base.revision,
            "sha256": scene.base.sha256,
        },
        "head_of_seed": plan.ticket.ends[0].params["shared_seed"],
        "recipe": dict(scene.context.recipe),
        "arms": {
            name: read_arm(arm, store, data.metric, data.margin)
            for name, arm in (("ticket", plan.ticket), ("dense", plan.dense))
        },
        "cost": plan.cost(store, None),
    }


def connect_lines(record: Mapping[str, Any]) -> list[str]:
    """Say a record in lines for people: the ticket's, dense's, and what they were read on."""
    said = [
        say_stability(name.capitalize(), record["arms"][name], record["metric"], record["margin"])
        for name in ("ticket", "dense")
    ]
    seeds = [str(end["seed"]) for end in record["arms"]["ticket"]["ends"]]
    return [
        *said,
        f"Read at {POINTS} points between each two of {len(seeds)} trainings (noise of seeds "
        f"{', '.join(seeds)}; all with the head of seed {record['head_of_seed']}), on "
        f"{record['validation_examples']:,} validation examples.",
    ]
