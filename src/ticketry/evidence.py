"""Stored records and a verdict, put together as ``ticket_evidence.json``. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ticketry.controls import describe_control
from ticketry.plan import FORWARD_SHARE, Plan, StepPlan
from ticketry.records import Arm
from ticketry.store import Store
from ticketry.verdict import Verdict

SCHEMA_VERSION = 1


def build_evidence(
    *,
    plan: Plan,
    arms: Mapping[str, Arm],
    verdict: Verdict,
    search: Mapping[str, Any],
    task: Mapping[str, Any],
    mask: Mapping[str, Any],
    base: Mapping[str, Any],
    search_seeds: Sequence[int],
    warnings: Sequence[str],
    command: str,
) -> dict[str, Any]:
    """Return the evidence of one mask.

    Everything here follows from the spec, the data and the stored records, so an undisturbed and
    a resumed run give the same bytes; times and environment stand in ``times.json``.

    Args:
        plan: the run's steps.
        arms: ``dense``, ``ticket`` and the controls by name.
        verdict: read from those arms.
        search: the search's part, from :func:`search_evidence` or from the ticket.
        task: ``name``, ``metric``, ``margin``, ``direction``, ``sha256`` and ``data``.
        mask: ``sparsity``, ``density``, ``kept``, ``prunable`` and ``layers``.
        base: ``name``, ``revision``, ``sha256`` and ``total_parameters``.
        search_seeds: seeds that the search used; never those of replicates.
        warnings: what the reader must know.
        command: how to reproduce it.
    """
    controls = {
        name: {**arm.to_json(), "description": describe_control(name)}
        for name, arm in arms.items()
        if name not in ("dense", "ticket")
    }
    total = base["total_parameters"]
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task["name"],
        "metric": task["metric"],
        "margin": task["margin"],
        "direction": task["direction"],
        **mask,
        "model_sparsity": (mask["prunable"] - mask["kept"]) / total,
        "total_parameters": total,
        "dense": arms["dense"].to_json(),
        "ticket": arms["ticket"].to_json(),
        "controls": controls,
        "verdict": verdict.to_json(),
        "search": dict(search),
        "seeds": {"search": list(search_seeds), "verify": list(arms["dense"].seeds)},
        "data_sha256": task["sha256"],
        "data": task["data"],
        "recipe": _recipe(plan),
        "base": {name: base[name] for name in ("name", "revision", "sha256")},
        "warnings": list(warnings),
        "command": command,
    }


def _recipe(plan: Plan) -> dict[str, Any]:
    return {**plan.recipe.to_json(), "description": plan.recipe.describe()}


def search_evidence(plan: Plan, store: Store, method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the search's part: levels as recorded, and the cost in dense-equivalents.

    Args:
        plan: a plan with a search.
        store: its outputs.
        method: the search spec as JSON values.
    """
    assert plan.search is not None
    levels = []
    for number, step in enumerate(plan.search.steps, start=1):
        record = store.record(step.key)
        level = {
            "level": record.get("level", number),
            "sparsity": record["sparsity"],
            "kept": record["kept"],
            "mask_digest": record["digest"],
        }
        if "validation_score" in record:
            level |= {"validation_score": record["validation_score"], "seed": record["seed"]}
        levels.append(level)
    return {
        "method": method["method"],
        "from": method["source"],
        **{name: method[name] for name in ("criterion", "pattern", "allocation", "rewind")},
        "rewind_step": method["rewind_step"],
        "levels": levels,
        "cost_dense_equivalents": round(search_cost(plan, store), 4),
    }


def search_cost(plan: Plan, store: Store) -> float:
    """Return the search's FLOPs over those of one dense fine-tuning, from the tokens really seen.

    All passes go through the same dense network, so FLOPs are in proportion to tokens; a forward
    pass is a third of a forward and a backward pass.
    """
    assert plan.search is not None
    dense = store.record(plan.verification.dense[0].key)
    # Tokens of evaluation and calibration are in proportion to their examples.
    per_example = dense["train_tokens"] / dense["train_examples"]
    spent = 0.0
    if plan.head is not None:
        spent += plan.head.eval_passes * per_example * FORWARD_SHARE
    for step in plan.search.steps:
        record = store.record(step.key)
        spent += record.get("train_tokens", 0)
        spent += record.get("calibration_examples", 0) * per_example
        spent += step.eval_passes * per_example * FORWARD_SHARE
    return float(spent / dense["train_tokens"])


def warnings_of(plan: Plan, store: Store) -> list[str]:
    """Return what the records say that a reader must know."""
    warnings: list[str] = []
    length = plan.recipe.max_length_tokens
    cut = store.record(plan.verification.dense[0].key)["truncated"]
    if any(cut.values()):
        counts = ", ".join(f"{count:,} {split}" for split, count in cut.items() if count)
        warnings.append(
            f"texts longer than --max-length {length} tokens, or than the model reads, were cut: "
            f"{counts}."
        )
    if plan.search and plan.search.weights_key and not plan.search.rewind_step:
        rounds = len(plan.search.sparsities)
        warnings.append(
            f"the ticket starts from weights that its search trained for {rounds} "
            f"training{'s' if rounds > 1 else ''} on this task, dense from the pre-trained ones: "
            "part of a difference may be that head start."
        )
    if plan.search:
        record = store.record(plan.search.mask_key)
        empty = record.get("empty_layers", [])
        if empty:
            warnings.append(
                f"selection emptied {len(empty)} tensors: {', '.join(empty)}; "
                "--min-layer-density forbids it."
            )
    return warnings


def times(
    plan: StepPlan, store: Store, wall_s: float, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``times.json``: seconds of every step and what they ran on."""
    trainings = [
        {"name": step.name, "seconds": store.times(step.key).get("seconds")} for step in plan.steps
    ]
    return {
        "schema_version": 1,
        "wall_s": wall_s,
        "trainings": trainings,
        "environment": dict(environment),
    }
