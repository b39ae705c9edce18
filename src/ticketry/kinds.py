"""The kinds of step: how each is carried out, and what it records."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ticketry.bench import Bench
from ticketry.config import Recipe, derive_seed
from ticketry.files import pretty_json
from ticketry.steps import MODEL_PREFIX, Output, Step, mask_output
from ticketry.store import RECORD

if TYPE_CHECKING:
    from ticketry.core.mask import Mask

Progress = Callable[[int, int], None]


def run_step(step: Step, bench: Bench, progress: Progress) -> None:
    """Carry out a step and store its output; return at once if it exists.

    Raises:
        TrainingError: a loss that is not finite.
        StorageError: the output could not be written.
    """
    store = bench.store
    with store.lock(step.key):
        if store.has(step.key):
            return
        started = time.monotonic()
        output = KINDS[step.kind](step, bench, progress)
        files = {RECORD: pretty_json(output.record), **output.files}
        store.write(step.key, files, {"seconds": time.monotonic() - started, "name": step.name})


def _train(
    step: Step, bench: Bench, progress: Progress, mask: Mask | None, recipe: Recipe
) -> tuple[Any, dict[str, Any]]:
    """Fine-tune from θ0 under ``mask``; return the outcome and the record's common part."""
    from ticketry.training import train

    scratch = bench.store.scratch(step.key)
    outcome = train(
        bench.workload,
        recipe,
        seed=step.params["seed"],
        mask=mask,
        device=bench.context.device,
        progress=progress,
        checkpoint=scratch,
    )
    for warning in outcome.warnings:  # no part of the record, which must be the same each time
        print(f"note: {step.name}: {warning}", file=sys.stderr)
    record = {
        "seed": step.params["seed"],
        "head_seed": derive_seed(step.params["seed"], "head"),
        **outcome.record(),
    }
    return outcome, record


def _run_level(step: Step, bench: Bench, progress: Progress) -> Output:
    """A round of IMP: train m⊙θ0, prune the smallest |w|, keep only the mask (rewind to θ0)."""
    from ticketry.core.select import select_global
    from ticketry.maskfile import dump_mask
    from ticketry.models.loading import canonical_parameters

    before = bench.mask_of(step.needs[0]) if step.needs else None
    outcome, record = _train(step, bench, progress, before, bench.recipe)
    evaluation = bench.workload.evaluate(outcome.model, "validation")
    parameters = canonical_parameters(outcome.model)
    mask = select_global(
        {name: parameters[name].detach().cpu() for name in bench.context.scope},
        step.params["density"],
        within=before,
        criterion=step.params["criterion"],
        min_layer_density=step.params["min_layer_density"],
    )
    record |= {"level": step.params["level"], "validation_score": evaluation.score}
    return mask_output(mask, record, dump_mask(mask))


def _run_theta0(step: Step, bench: Bench, progress: Progress) -> Output:
    """One-shot on the pre-trained weights: no training at all."""
    from ticketry.core.select import select_global
    from ticketry.maskfile import dump_mask

    mask = select_global(
        bench.pretrained,
        step.params["density"],
        criterion=step.params["criterion"],
        min_layer_density=step.params["min_layer_density"],
    )
    progress(1, 1)
    return mask_output(mask, {}, dump_mask(mask))


def _run_replicate(step: Step, bench: Bench, progress: Progress) -> Output:
    """A fine-tuning of one arm, read on validation and test."""
    mask = _arm_mask(step, bench)
    outcome, record = _train(step, bench, progress, mask, bench.recipe)
    validation = bench.workload.evaluate(outcome.model, "validation")
    test = bench.workload.evaluate(outcome.model, "test")
    record |= {
        "mask_digest": None if mask is None else mask.digest(),
        "validation_score": validation.score,
        "test_score": test.score,
        "predictions": list(test.predictions),
    }
    files = {}
    if step.params.get("keep_model"):
        saved = bench.workload.model_files(outcome.model)
        files = {MODEL_PREFIX + name: data for name, data in saved.items()}
    return Output(record, files)


def _arm_mask(step: Step, bench: Bench) -> Mask | None:
    """Return the mask of a replicate's arm; random ones are drawn from the replicate's seed."""
    import torch

    from ticketry.core.select import random_global, random_layerwise

    rule = step.params["mask"]
    if rule == "none":
        return None
    ticket = bench.mask_of(step.needs[0])
    if rule == "given":
        return ticket
    generator = torch.Generator().manual_seed(derive_seed(step.params["seed"], rule))
    if rule == "random-layerwise":
        return random_layerwise(ticket, generator)
    shapes = {name: ticket.shape(name) for name in ticket}
    return random_global(shapes, ticket.density, generator)


def _run_half_budget(step: Step, bench: Bench, progress: Progress) -> Output:
    """Dense with half the budget and its own full decay; read on validation only."""
    recipe = dataclasses.replace(bench.recipe, epochs=bench.recipe.epochs / 2)
    outcome, record = _train(step, bench, progress, None, recipe)
    record["validation_score"] = bench.workload.evaluate(outcome.model, "validation").score
    return Output(record)


KINDS: Mapping[str, Callable[[Step, Bench, Progress], Output]] = {
    "level": _run_level,
    "theta0-mask": _run_theta0,
    "replicate": _run_replicate,
    "half-budget": _run_half_budget,
}
