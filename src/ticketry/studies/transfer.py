"""``transfer``: tickets that were brought along, on every task of a named set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ticketry.config import verification_seeds
from ticketry.errors import ConfigError, InputError
from ticketry.steps import (
    given_mask_key,
    given_weights_key,
    put_given_mask,
    put_given_weights,
)
from ticketry.store import Store
from ticketry.studies.cells import Found, Grid, Layout
from ticketry.studies.grid import Scenes, dense_cells, fine_tune, search_masks
from ticketry.studies.options import find_faults
from ticketry.studies.planwords import RECIPE_OPTIONS, SEARCH_OPTIONS
from ticketry.studies.running import StudyPlace, StudyResult, run_grid
from ticketry.studies.spec import ArmSpec, StudySpec
from ticketry.tasks.registry import task_faults
from ticketry.ticket import Ticket
from ticketry.verification import Start
from ticketry.weightsfile import dump_weights

ARM = "ticket"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked of some tickets.

    Attributes:
        tasks: that every ticket is fine-tuned on.
        options: of ``find``, for the recipe.
        fine_tunings: of each ticket on each task.
        same_task: also search each task's own ticket at the tickets' sparsity.
        seed: of the first ticket's fine-tunings.
    """

    tasks: tuple[str, ...]
    options: Mapping[str, Any]
    fine_tunings: int = 3
    same_task: bool = True
    seed: int = 1


def run_transfer(tickets: Mapping[str, Ticket], wanted: Wanted, place: StudyPlace) -> StudyResult:
    """Fine-tune tickets on tasks and set them against dense and against each task's own ticket.

    Tickets that were found on one task at one sparsity are masks of one source: their interval is
    over masks. A ticket that stands alone speaks for itself, over its fine-tunings.

    Args:
        tickets: path or hub id -> ticket.
        wanted: tasks and how.
        place: the folder of the records, and how to run.

    Raises:
        ConfigError: unknown tasks and other faults of the options, all at once.
        TicketError: a ticket that is of another base or does not fit it; named.
    """
    spec = _spec(tickets, wanted)
    grid = _lay_out(spec, tickets, wanted, place.say)
    identity = {
        **spec.to_json(),
        "kind": "transfer",
        "tickets": sorted(ticket.mask.digest() for ticket in tickets.values()),
        "same_task": wanted.same_task,
    }

    def bring(store: Store) -> None:
        for ticket in tickets.values():
            put_given_mask(store, ticket.mask)
            if ticket.rewind is not None:
                put_given_weights(store, dump_weights(ticket.rewind.weights))

    return run_grid(spec, grid, place, identity=identity, bring=bring)


def _spec(tickets: Mapping[str, Ticket], wanted: Wanted) -> StudySpec:
    faults = []
    if not tickets:
        faults.append("no ticket was given; name at least one folder or hub id.")
    if not wanted.tasks:
        faults.append("--tasks is empty; name the tasks, such as movies,tweets.")
    if wanted.fine_tunings < 2:
        faults.append(
            f"--fine-tunings is {wanted.fine_tunings}; expected at least 2, because one run has "
            "no spread to judge by."
        )
    faults += [fault for task in wanted.tasks for fault in task_faults(task)]
    bases = {ticket.base.sha256: (name, ticket) for name, ticket in tickets.items()}
    if len(bases) > 1:
        said = "; ".join(f"{name} is of {ticket.base.name}" for name, ticket in bases.values())
        faults.append(
            f"the tickets are of different base models: {said}. Give those of one base at a time."
        )
    if faults:
        raise ConfigError(faults)
    first = next(iter(tickets.values()))
    groups = _groups(tickets)
    recipe = {name: wanted.options[name] for name in RECIPE_OPTIONS if name in wanted.options}
    if "recipe" not in recipe and (known := first.spec.get("recipe")):
        recipe = {"recipe": known["name"], **recipe}
    spec = StudySpec(
        study="transfer",
        title=f"{len(tickets)} ticket{'s' if len(tickets) > 1 else ''} on "
        f"{', '.join(wanted.tasks)}",
        model=str(wanted.options.get("model") or first.base.name),
        revision=wanted.options.get("revision") or first.base.revision,
        tasks={task: {} for task in wanted.tasks},
        targets=wanted.tasks,
        recipe=recipe,
        arms=(),
        scope=tuple(first.mask),
        seed=wanted.seed,
        device=str(wanted.options.get("device") or "auto"),
        threads=int(wanted.options.get("threads") or 1),
        masks=max(map(len, groups.values())),
        fine_tunings=wanted.fine_tunings,
    )
    if faults := find_faults(spec):
        raise ConfigError(faults)
    return spec


def _groups(tickets: Mapping[str, Ticket]) -> dict[tuple[str, float], list[Ticket]]:
    """Return the tickets by source and sparsity."""
    groups: dict[tuple[str, float], list[Ticket]] = {}
    for name, ticket in tickets.items():
        groups.setdefault((_source(name, ticket), _sparsity(ticket)), []).append(ticket)
    return groups


def _source(name: str, ticket: Ticket) -> str:
    task = (ticket.evidence or {}).get("task")
    return str(task) if task else name


def _sparsity(ticket: Ticket) -> float:
    return round(ticket.sparsity, 4)


def _arm(spec: StudySpec, ticket: Ticket, sparsity: float) -> ArmSpec:
    """Return how a ticket was found, so that each task's own can be found likewise."""
    known = ticket.spec.get("search") or {}
    search = {name: known[name] for name in SEARCH_OPTIONS if known.get(name) not in (None, [], ())}
    if "grid" in search:
        search["grid"] = list(search["grid"])
        sparsity = float(search["grid"][-1])
    elif isinstance(known.get("sparsity"), float):
        sparsity = known["sparsity"]
    return ArmSpec(
        ARM, search, {}, spec.targets, spec.targets, (sparsity,), spec.masks, spec.fine_tunings
    )


def _lay_out(
    spec: StudySpec,
    tickets: Mapping[str, Ticket],
    wanted: Wanted,
    say: Callable[[str], None],
) -> Grid:
    scenes = Scenes(spec, say)
    _check_fit(spec, tickets, say)
    layout = Layout()
    found: list[Found] = []
    for number in range(spec.masks):
        for target in spec.targets:
            dense_cells(spec, scenes.of(target), target, number, layout)
    # A task that is a file goes by its path here, and by its own name in a ticket's evidence.
    labels = {scenes.of(target).data.name: target for target in spec.targets}
    groups = {
        (labels.get(source, source), sparsity): members
        for (source, sparsity), members in _groups(tickets).items()
    }
    for (source, sparsity), members in groups.items():
        arm = _arm(spec, members[0], sparsity)
        for number, ticket in enumerate(members):
            mask = _given(source, sparsity, number, ticket, scenes.of(spec.targets[0]).context_key)
            _check_seeds(spec, ticket, number)
            found.append(mask)
            for target in spec.targets:
                fine_tune(spec, scenes, arm, mask, target, layout)
    if wanted.same_task:
        for sparsity in dict.fromkeys(sparsity for _, sparsity in groups):
            member = next(m[0] for (_, s), m in groups.items() if s == sparsity)
            arm = _arm(spec, member, sparsity)
            for target in spec.targets:
                if (target, sparsity) in groups:
                    continue  # it was brought along
                for number in range(spec.masks):
                    for mask in search_masks(spec, scenes, arm, target, target, number, layout):
                        own = dataclasses.replace(mask, sparsity=sparsity)
                        found.append(own)
                        fine_tune(spec, scenes, arm, own, target, layout)
    return layout.grid(scenes, spec.targets, found, overlaps=True)


def _check_fit(spec: StudySpec, tickets: Mapping[str, Ticket], say: Callable[[str], None]) -> None:
    """Refuse a ticket that does not fit the model, by its name, before anything is trained."""
    from ticketry.models.loading import load_backbone, resolve

    backbone = load_backbone(resolve(spec.model, spec.revision, say=say))
    for name, ticket in tickets.items():
        try:
            ticket.validate(backbone)
        except InputError as error:
            raise type(error)(f"{name}: {error}") from error


def _check_seeds(spec: StudySpec, ticket: Ticket, number: int) -> None:
    seeds = (ticket.evidence or {}).get("seeds", {}).get("search", [])
    ours = verification_seeds(spec.seed + number, spec.fine_tunings)
    if clash := sorted({*ours} & {*seeds}):
        raise ConfigError(
            f"--seed {spec.seed} gives fine-tunings the seeds {clash}, which a ticket's search "
            "used; choose another --seed."
        )


def _given(source: str, sparsity: float, number: int, ticket: Ticket, context_key: str) -> Found:
    pattern = str((ticket.spec.get("search") or {}).get("pattern", "unstructured"))
    key = given_mask_key(ticket.mask)
    start = Start(key, sparsity, pattern)
    if ticket.rewind is not None:
        weights = given_weights_key(dump_weights(ticket.rewind.weights))
        start = Start(key, sparsity, pattern, weights, ticket.rewind.step)
    return Found(ARM, source, number, sparsity, start, (), context_key)
