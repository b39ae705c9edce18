"""The verbs: find, verify, train. Each is a plan, its execution, and what is read from the records."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.config import DataSpec, FindSpec, Recipe, fingerprint, verification_seeds
from ticketry.config import search_seed as seed_of_search
from ticketry.errors import ConfigError, RunError
from ticketry.evidence import build_evidence, search_evidence, times, warnings_of
from ticketry.execute import Events, Silent, execute, missing_steps
from ticketry.files import swap_folder, write_bytes, write_json
from ticketry.options import as_names, build_data, build_find_spec, build_recipe, check_types
from ticketry.plan import Plan, estimate_seconds
from ticketry.runs import (
    PLAN_FILE,
    REPORT_FILE,
    TICKET_FOLDER,
    TIMES_FILE,
    finish_run,
    is_finished,
    open_run,
)
from ticketry.scene import Scene, prepare
from ticketry.search import plan_search
from ticketry.steps import copy_model, put_given_mask
from ticketry.store import Store
from ticketry.ticket import Ticket
from ticketry.verify import plan_verification, read_arm

Say = Callable[[str], None]


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


def find(
    model: str,
    task: str | None = None,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    events: Events | None = None,
    **options: Any,
) -> Ticket:
    """Find a ticket, verify it, and keep it in a run's folder.

    Args:
        model: ``"minilm"``, a folder in Hugging Face's layout, or a hub id.
        task: a name that ``ticketry tasks`` lists; or give ``data=``, ``text_column=`` and
            ``label_column=`` for a file or hub dataset.
        out: the run's folder; by default ``runs/find-`` and the spec's fingerprint. The same call
            continues a run that was interrupted, and returns at once when it is finished.
        store: shared outputs of steps; by default inside ``out``.
        workers: trainings side by side; by default one a core; 0 trains in this process.
        events: told what happens; by default nobody.
        options: as on the command line, with ``_``: ``sparsity=0.4``, ``method="imp"``,
            ``levels=2``, ``replicates=3``, ``controls="random-layerwise"``, ``scope="encoder"`` …
    Returns:
        The ticket with its evidence; ``ticket.verdict`` may be negative or inconclusive.

    Raises:
        InputError: a fault of the options, the model, the data or the folder.
        TrainingError: a loss that is not finite; the run stays resumable.
    """
    spec = build_find_spec({"model": model, "task": task, **options})
    folder = Path(out) if out is not None else Path("runs") / f"find-{spec.fingerprint[:8]}"
    result = run_find(spec, folder, store=store, workers=workers, events=events)
    assert result.ticket is not None
    return result.ticket


def run_find(
    spec: FindSpec,
    out: Path,
    *,
    store: str | Path | None = None,
    workers: int | None = None,
    events: Events | None = None,
    say: Say = lambda _: None,
    plan_only: bool = False,
) -> Result:
    """Carry out a find spec; see :func:`find`."""
    events = events or Silent()
    outputs = Store(Path(store) if store else out / "store")
    with _run_folder(out, spec.to_json(), plan_only):
        if not plan_only and is_finished(out, outputs):
            say(f"{out} is finished; nothing was done again")
            return Result(Ticket.from_pretrained(out / TICKET_FOLDER), _stored_plan(out), out)
        scene = prepare(
            spec.model, spec.revision, spec.data, spec.recipe, spec.scope,
            device=spec.device, threads=spec.threads, say=say,
        )  # fmt: skip
        plan = _plan_find(spec, scene)
        count = _workers(workers, spec.threads, scene.context.device)
        priced = _price(plan, scene, outputs, out, count, say, plan_only)
        if plan_only:
            return Result(None, priced, out)
        assert plan.search is not None
        started = time.monotonic()
        _execute(plan, scene, outputs, count, events)
        method = {**dataclasses.asdict(spec.search)}
        evidence = _evidence(
            plan, scene, outputs, plan.search.mask_key,
            search=search_evidence(plan, outputs, method),
            search_seeds=[seed_of_search(spec.seed)] if plan.search.level_steps else [],
            command=find_command(spec, out),
        )  # fmt: skip
        mask = _mask(outputs, plan.search.mask_key)
        ticket = Ticket(mask, scene.base, spec.to_json(), evidence)
        _keep(ticket, plan, scene, outputs, out, time.monotonic() - started, count, spec.keep_model)
    return Result(ticket, priced, out)


def verify(
    ticket: Ticket | str | Path,
    task: str | None = None,
    *,
    out: str | Path,
    store: str | Path | None = None,
    workers: int | None = None,
    events: Events | None = None,
    say: Say = lambda _: None,
    plan_only: bool = False,
    **options: Any,
) -> Result:
    """Verify a ticket on a task by fresh replicates and controls.

    Args:
        ticket: a ticket, its folder or its hub id.
        task: as in :func:`find`; likewise ``data=`` and its columns.
        out: the run's folder; gets the ticket with the new evidence, and a report.
        store: shared outputs of steps.
        workers: trainings side by side.
        events: told what happens.
        say: given lines for people.
        plan_only: print the plan and its cost, and stop.
        options: ``replicates`` (default 5), ``controls``, ``seed`` and the recipe's options.

    Raises:
        InputError: as in :func:`find`; also seeds that the ticket's search has used.
    """
    if not isinstance(ticket, Ticket):
        ticket = Ticket.from_pretrained(ticket)
    events = events or Silent()
    options = {"task": task, **options}
    replicates = options.pop("replicates", None) or 5
    # One check for all verbs: the ticket's own model and sparsity complete the options.
    spec = build_find_spec(
        {
            **options,
            "model": options.get("model") or ticket.base.name,
            "revision": options.get("revision") or ticket.base.revision,
            "recipe": options.get("recipe") or _recipe_name(ticket),
            "sparsity": ticket.sparsity,
            "scope": list(ticket.mask),
            "replicates": replicates,
        }
    )
    seeds = verification_seeds(spec.seed, spec.replicates)
    used = _search_seeds(ticket)
    if clash := sorted(set(seeds) & set(used)):
        raise ConfigError(
            f"--seed {spec.seed} gives replicates the seeds {clash}, which this ticket's search "
            "used; choose another --seed."
        )
    folder = Path(out)
    outputs = Store(Path(store) if store else folder / "store")
    run = {**spec.to_json(), "kind": "verify", "mask_digest": ticket.mask.digest()}
    with _run_folder(folder, run, plan_only):
        if not plan_only and is_finished(folder, outputs):
            say(f"{folder} is finished; nothing was done again")
            kept = Ticket.from_pretrained(folder / TICKET_FOLDER)
            return Result(kept, _stored_plan(folder), folder)
        scene = prepare(
            spec.model, spec.revision, spec.data, spec.recipe, spec.scope,
            device=spec.device, threads=spec.threads, say=say, ticket=ticket,
        )  # fmt: skip
        mask_key = put_given_mask(outputs, ticket.mask)
        verification = plan_verification(
            mask_key, ticket.sparsity, scene.recipe, seeds, spec.controls, scene.sizes,
            scene.context_key, keep_model=spec.keep_model,
        )  # fmt: skip
        title = f"verify a ticket at {ticket.sparsity:.1%} sparsity in {spec.model} on "
        plan = Plan(title + scene.data.name, scene.recipe, None, verification)
        count = _workers(workers, spec.threads, scene.context.device)
        priced = _price(plan, scene, outputs, folder, count, say, plan_only)
        if plan_only:
            return Result(None, priced, folder)
        started = time.monotonic()
        _execute(plan, scene, outputs, count, events)
        evidence = _evidence(
            plan, scene, outputs, mask_key,
            search=_known_search(ticket), search_seeds=used,
            command=f"ticketry verify TICKET {_data_flags(spec.data)} "
            f"--replicates {spec.replicates} --seed {spec.seed} --out {folder}",
        )  # fmt: skip
        verified = Ticket(ticket.mask, ticket.base, ticket.spec, evidence)
        wall_s = time.monotonic() - started
        _keep(verified, plan, scene, outputs, folder, wall_s, count, spec.keep_model)
    return Result(verified, priced, folder)


def train(
    ticket: Ticket | str | Path,
    task: str | None = None,
    *,
    out: str | Path,
    workers: int | None = None,
    events: Events | None = None,
    say: Say = lambda _: None,
    **options: Any,
) -> Mapping[str, Any]:
    """Fine-tune a ticket and write a sparse model that plain transformers loads.

    Args:
        ticket: a ticket, its folder or its hub id.
        task: as in :func:`find`; likewise ``data=`` and its columns.
        out: the model's folder: weights, head, tokenizer, label names. A run that was cut short
            continues from ``OUT.work``, which is removed at the end.
        workers: 0 trains in this process, any other number in one of its own.
        events: told what happens.
        say: given lines for people.
        options: ``seed`` and the recipe's options.
    Returns:
        The training's record: ``validation_score``, ``test_score``, ``seed``, ``mask_digest`` ….

    Raises:
        InputError: as in :func:`find`.
    """
    if not isinstance(ticket, Ticket):
        ticket = Ticket.from_pretrained(ticket)
    options = {"task": task, **options}
    spec = build_find_spec(
        {
            **options,
            "model": options.get("model") or ticket.base.name,
            "revision": options.get("revision") or ticket.base.revision,
            "recipe": options.get("recipe") or _recipe_name(ticket),
            "sparsity": ticket.sparsity,
            "scope": list(ticket.mask),
            "keep_model": True,
        }
    )
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"--out {folder} exists and is not empty; nothing was changed. "
                       "Give a new folder.")  # fmt: skip
    work = folder.with_name(folder.name + ".work")
    outputs = Store(work / "store")
    run = {**spec.to_json(), "kind": "train", "mask_digest": ticket.mask.digest()}
    with open_run(work, run):
        scene = prepare(
            spec.model, spec.revision, spec.data, spec.recipe, spec.scope,
            device=spec.device, threads=spec.threads, say=say, ticket=ticket,
        )  # fmt: skip
        mask_key = put_given_mask(outputs, ticket.mask)
        verification = plan_verification(
            mask_key, ticket.sparsity, scene.recipe, verification_seeds(spec.seed, 1), (),
            scene.sizes, scene.context_key, keep_model=True,
        )  # fmt: skip
        (step,) = verification.ticket
        outputs.write_data(scene.context.data_sha256, scene.data.to_json())
        execute(
            [step], scene.context, outputs,
            workers=1 if workers is None else min(workers, 1), events=events,
        )  # fmt: skip
        _write_model(outputs, step.key, folder)
        record = outputs.record(step.key)
    _remove(work)
    return {name: value for name, value in record.items() if name != "predictions"}


# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _run_folder(out: Path, run: Mapping[str, Any], plan_only: bool) -> Iterator[None]:
    """Hold the run's folder; a plan alone touches nothing."""
    if plan_only:
        yield
        return
    with open_run(out, run):
        yield


def _plan_find(spec: FindSpec, scene: Scene) -> Plan:
    search = plan_search(spec.search, scene.recipe, spec.seed, scene.sizes, scene.context_key)
    verification = plan_verification(
        search.mask_key, spec.search.sparsity, scene.recipe,
        verification_seeds(spec.seed, spec.replicates), spec.controls, scene.sizes,
        scene.context_key, keep_model=spec.keep_model,
    )  # fmt: skip
    how = spec.search.method
    if how == "one-shot":
        how += " on θ0" if spec.search.source == "theta0" else " on trained weights"
    else:
        how += f" with {len(search.sparsities)} levels"
    title = (
        f"find a ticket at {spec.search.sparsity:.1%} sparsity by {how}, and verify it, "
        f"in {spec.model} on {scene.data.name}"
    )
    return Plan(title, scene.recipe, search, verification)


def _price(
    plan: Plan, scene: Scene, store: Store, out: Path, workers: int, say: Say, plan_only: bool
) -> dict[str, Any]:
    left = [step for step in plan.steps if not store.has(step.key)]
    seconds = estimate_seconds(
        left,
        flops_per_pass=scene.flops_per_pass,
        threads=scene.context.threads,
        workers=workers,
        device=scene.context.device,
    )
    for line in plan.lines(store, seconds, workers):
        say(line)
    for note in scene.notes:
        say(f"  note: {note}")
    priced = plan.to_json(store, seconds)
    if not plan_only:
        write_json(out / PLAN_FILE, {**priced, "cost": None})
    return priced


def _execute(plan: Plan, scene: Scene, store: Store, workers: int, events: Events) -> None:
    store.write_data(scene.context.data_sha256, scene.data.to_json())
    execute(plan.steps, scene.context, store, workers=workers, events=events)


def _mask(store: Store, key: str) -> Any:
    from ticketry.maskfile import load_mask
    from ticketry.steps import MASK_FILE

    return load_mask(store.read(key, MASK_FILE))


def _evidence(
    plan: Plan,
    scene: Scene,
    store: Store,
    mask_key: str,
    *,
    search: Mapping[str, Any],
    search_seeds: Sequence[int],
    command: str,
) -> dict[str, Any]:
    from ticketry.metrics import METRICS
    from ticketry.verdict import judge

    verification = plan.verification
    dense = read_arm("dense", verification.dense, store, verification.half_budget)
    ticket = read_arm("ticket", verification.ticket, store)
    controls = {name: read_arm(name, steps, store) for name, steps in verification.controls.items()}
    metric = METRICS[scene.data.metric]
    verdict = judge(
        dense=dense,
        ticket=ticket,
        controls=controls,
        labels=scene.data.test.labels,
        metric=metric,
        margin=scene.data.margin,
    )
    mask = _mask(store, mask_key)
    return build_evidence(
        plan=plan,
        store=store,
        arms={"dense": dense, "ticket": ticket, **controls},
        verdict=verdict,
        search=search,
        task={
            "name": scene.data.name,
            "metric": scene.data.metric,
            "margin": scene.data.margin,
            "direction": metric.direction,
            "sha256": scene.data.sha256,
            "data": scene.describe_data(),
        },
        mask={
            "sparsity": mask.sparsity,
            "density": mask.density,
            "kept": mask.kept,
            "prunable": mask.prunable,
            "layers": [
                {"name": row.name, "shape": list(row.shape), "kept": row.kept,
                 "prunable": row.prunable}
                for row in mask.layers()
            ],
        },
        base=dataclasses.asdict(scene.base),
        search_seeds=search_seeds,
        warnings=[*warnings_of(plan, store), *scene.warnings],
        command=command,
    )  # fmt: skip


def _keep(
    ticket: Ticket,
    plan: Plan,
    scene: Scene,
    store: Store,
    out: Path,
    wall_s: float,
    workers: int,
    keep_model: bool,
) -> None:
    """Write the ticket, the report and the closing record, in this order."""
    from ticketry.report import render_report

    folder = out / TICKET_FOLDER
    ticket.save_pretrained(folder)
    environment = {
        **scene.context.versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": scene.context.device,
        "cores": os.cpu_count(),
        "workers": workers,
        "threads": scene.context.threads,
    }
    measured = times(plan, store, wall_s, environment)
    write_json(out / TIMES_FILE, measured)
    page = render_report(evidence=ticket.evidence, config=ticket.config(), times=measured)
    write_bytes(out / REPORT_FILE, page.encode())
    if keep_model:
        _write_model(store, plan.verification.ticket[0].key, out / "model")
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    keys = [step.key for step in plan.steps]
    finish_run(out, store, keys, [*files, out / REPORT_FILE], scene.inputs)


def _write_model(store: Store, key: str, folder: Path) -> None:
    from ticketry.files import replace_folder

    replace_folder(folder, copy_model(store, key))


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _stored_plan(out: Path) -> dict[str, Any]:
    from ticketry.files import read_json

    plan: dict[str, Any] = read_json(out / PLAN_FILE, "the plan")
    return plan


def _workers(workers: int | None, threads: int, device: str) -> int:
    if workers is not None:
        if workers < 0:
            raise ConfigError(f"--workers is {workers}; expected 0 (in this process) or more.")
        return workers
    if device != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // threads)


def _recipe_name(ticket: Ticket) -> str | None:
    recipe = ticket.spec.get("recipe")
    return recipe.get("name") if isinstance(recipe, dict) else None


def _search_seeds(ticket: Ticket) -> list[int]:
    seeds = (ticket.evidence or {}).get("seeds", {}).get("search")
    if isinstance(seeds, list):
        return seeds
    return [seed_of_search(seed)] if isinstance(seed := ticket.spec.get("seed"), int) else []


def _known_search(ticket: Ticket) -> Mapping[str, Any]:
    search = (ticket.evidence or {}).get("search")
    if isinstance(search, dict):
        return search
    unknown = {"method": "unknown", "from": "unknown", "criterion": "unknown"}
    return {**unknown, "levels": [], "cost_dense_equivalents": None}


def _data_flags(data: DataSpec) -> str:
    flags = {
        "--task": data.task,
        "--data": data.data,
        "--text-column": data.text_column,
        "--text-pair-column": data.text_pair_column,
        "--label-column": data.label_column,
        "--test-data": data.test_data,
    }
    return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in flags.items() if value)


def find_command(spec: FindSpec, out: Path) -> str:
    """Return the command that gives this spec, options at their defaults left out."""
    default = FindSpec(model="", data=DataSpec())
    base = {"recipe": spec.recipe.name, "model": spec.model}
    named = build_recipe(base, [])
    parts = [f"ticketry find --model {shlex.quote(spec.model)}"]
    if spec.revision:
        parts.append(f"--revision {shlex.quote(spec.revision)}")
    parts.append(_data_flags(spec.data))
    parts.append(f"--sparsity {spec.search.sparsity:g} --method {spec.search.method}")
    search = {"--from": spec.search.source, "--levels": spec.search.levels,
              "--rate": spec.search.rate}  # fmt: skip
    if spec.search.method == "imp":
        del search["--from"]
    parts += [f"{flag} {value}" for flag, value in search.items() if value is not None]
    if spec.search.rate_of != "remaining":
        parts.append(f"--rate-of {spec.search.rate_of}")
    if spec.search.min_layer_density:
        parts.append(f"--min-layer-density {spec.search.min_layer_density:g}")
    if spec.scope != default.scope:
        parts += [f"--scope {shlex.quote(name)}" for name in spec.scope]
    parts.append(f"--replicates {spec.replicates} --controls {','.join(spec.controls) or 'none'}")
    parts.append(f"--recipe {spec.recipe.name}")
    for flag, field in {"--epochs": "epochs", "--learning-rate": "learning_rate",
                        "--batch-size": "batch_size", "--max-length": "max_length_tokens",
                        "--train-samples": "train_samples", "--dtype": "dtype"}.items():  # fmt: skip
        value = getattr(spec.recipe, field)
        if value != getattr(named, field):
            parts.append(f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}")
    if spec.seed:
        parts.append(f"--seed {spec.seed}")
    if spec.threads != default.threads:
        parts.append(f"--threads {spec.threads}")
    if spec.keep_model:
        parts.append("--keep-model")
    parts.append(f"--out {shlex.quote(str(out))}")
    return " ".join(parts)


__all__ = ["Recipe", "Result", "as_names", "build_data", "check_types", "find", "find_command",
           "fingerprint", "missing_steps", "run_find", "swap_folder", "train", "verify"]  # fmt: skip
