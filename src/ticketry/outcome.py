"""From stored records to what a run leaves: evidence, ticket, report, model, closing record."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ticketry.core.mask import Mask
from ticketry.evidence import build_evidence, times, warnings_of
from ticketry.files import replace_folder, write_json
from ticketry.maskfile import load_mask
from ticketry.metrics import get_metric
from ticketry.plan import Plan, StepPlan
from ticketry.report import write_report
from ticketry.runs import MODEL_FOLDER, REPORT_FILE, TICKET_FOLDER, TIMES_FILE, finish_run
from ticketry.scene import Scene
from ticketry.steps import MASK_FILE, copy_model
from ticketry.store import Store
from ticketry.ticket import Ticket
from ticketry.verdict import judge
from ticketry.verification import read_arm


def read_mask(store: Store, key: str) -> Mask:
    """Return the mask that a step left."""
    return load_mask(store.read(key, MASK_FILE))


def judge_run(
    plan: Plan,
    scene: Scene,
    store: Store,
    mask: Mask,
    *,
    search: Mapping[str, Any],
    search_seeds: Sequence[int],
    command: str,
) -> dict[str, Any]:
    """Read the arms from the store, judge them, and return the evidence.

    Args:
        plan: a plan whose steps are all stored.
        scene: what it was run on.
        store: the steps' outputs.
        mask: the ticket's.
        search: the search's part of the evidence.
        search_seeds: seeds that the search used.
        command: how to reproduce it.
    """
    verification = plan.verification
    dense = read_arm("dense", verification.dense, store, verification.half_budget)
    ticket = read_arm("ticket", verification.ticket, store)
    controls = {name: read_arm(name, steps, store) for name, steps in verification.controls.items()}
    data = scene.data
    metric = get_metric(data.metric)
    verdict = judge(
        dense=dense,
        ticket=ticket,
        controls=controls,
        labels=data.test.labels,
        metric=metric,
        margin=data.margin,
        at_theta0=not verification.ticket[0].params.get("carried", False),
    )
    truncated = store.record(verification.dense[0].key)["truncated"]
    layers = [
        {"name": row.name, "shape": list(row.shape), "kept": row.kept, "prunable": row.prunable}
        for row in mask.layers()
    ]
    return build_evidence(
        plan=plan,
        arms={"dense": dense, "ticket": ticket, **controls},
        verdict=verdict,
        search=search,
        task={
            "name": data.name,
            "metric": data.metric,
            "margin": data.margin,
            "direction": metric.direction,
            "sha256": data.sha256,
            "data": {**scene.describe_data(), "truncated": truncated},
        },
        mask={
            "sparsity": mask.sparsity,
            "density": mask.density,
            "kept": mask.kept,
            "prunable": mask.prunable,
            "layers": layers,
        },
        base=dataclasses.asdict(scene.base),
        search_seeds=search_seeds,
        warnings=warnings_of(plan, store),
        command=command,
    )


def keep_run(
    ticket: Ticket,
    plan: Plan,
    scene: Scene,
    store: Store,
    out: Path,
    *,
    wall_s: float,
    workers: int,
    keep_model: bool,
) -> None:
    """Write the ticket, the times, the report and, last, the closing record."""
    folder = out / TICKET_FOLDER
    ticket.save_pretrained(folder)
    measured = measured_times(plan, scene, store, wall_s=wall_s, workers=workers)
    write_json(out / TIMES_FILE, measured)
    assert ticket.evidence is not None
    write_report(
        out / REPORT_FILE,
        evidence=ticket.evidence,
        config=ticket.config(),
        times=measured,
        plan=plan.to_json(store, None),
    )
    files = [*(path for path in sorted(folder.iterdir()) if path.is_file()), out / REPORT_FILE]
    if keep_model:
        write_model(store, plan.verification.ticket[0].key, out / MODEL_FOLDER)
        files += [path for path in sorted((out / MODEL_FOLDER).rglob("*")) if path.is_file()]
    finish_run(out, store, [step.key for step in plan.steps], files, scene.inputs)


def measured_times(
    plan: StepPlan, scene: Scene, store: Store, *, wall_s: float, workers: int
) -> dict[str, Any]:
    """Return ``times.json``: seconds of every step, and what they ran on."""
    environment = {
        **scene.context.versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": scene.context.device,
        "cores": os.cpu_count(),
        "workers": workers,
        "threads": scene.context.threads,
    }
    return times(plan, store, wall_s, environment)


def write_model(store: Store, key: str, folder: Path) -> None:
    """Write the fine-tuned model that a step kept as a folder of its own."""
    replace_folder(folder, copy_model(store, key))
