"""The kinds of step: how each is carried out, and what it records."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.arms import arm_course, arm_mask, head_start
from ticketry.bench import Bench
from ticketry.config import derive_seed
from ticketry.files import pretty_json
from ticketry.parallel import team
from ticketry.pruning import Rule, choose, score_and_choose
from ticketry.recipes import Recipe
from ticketry.steps import MODEL_PREFIX, WEIGHTS_FILE, Output, Step, mask_output
from ticketry.store import RECORD
from ticketry.terminal import printable

if TYPE_CHECKING:
    from torch import Tensor

    from ticketry.companions import Companion
    from ticketry.core.mask import Mask
    from ticketry.course import Course

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
        context = bench.context.to_json()
        place = str(store.root.absolute())
        team().say({"do": "step", "step": step.to_json(), "context": context, "store": place})
        output = KINDS[step.kind](step, bench, progress)
        files = {RECORD: pretty_json(output.record), **output.files}
        store.write(step.key, files, {"seconds": time.monotonic() - started, "name": step.name})


def _train(
    step: Step,
    bench: Bench,
    progress: Progress,
    mask: Mask | None,
    recipe: Recipe,
    *,
    course: Course | None = None,
    companions: Sequence[Companion] = (),
    workload: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Fine-tune under ``mask``; return the outcome and the record's common part."""
    from ticketry.course import WHOLE
    from ticketry.training import train

    scratch = bench.store.scratch(step.key)
    outcome = train(
        workload or bench.workload,
        recipe,
        seed=step.params["seed"],
        mask=mask,
        device=bench.context.device,
        progress=progress,
        checkpoint=scratch,
        course=course or WHOLE,
        companions=companions,
    )
    for warning in (
        outcome.warnings if team().leads else ()
    ):  # no part of the record, which must be the same each time
        print(f"note: {step.name}: {printable(warning)}", file=sys.stderr)
    record = {
        "seed": step.params["seed"],
        "head_seed": derive_seed(step.params["seed"], "head"),
        **outcome.record(),
    }
    return outcome, record


def _run_level(step: Step, bench: Bench, progress: Progress) -> Output:
    """A round: train under the mask so far, prune, keep the mask and what to start from next."""
    from ticketry.companions import Capture, Movement
    from ticketry.models.weights import take_weights
    from ticketry.weightsfile import dump_weights

    rule = Rule.from_json(step.params["rule"])
    level = step.params["level"]
    rewind = step.params["rewind"]
    before = bench.mask_of(step.needs[0]) if level > 1 else None
    capture = Capture(step.params["rewind_step"]) if rewind == "step" and level == 1 else None
    movement = Movement(bench.context.scope) if rule.criterion == "movement" else None
    outcome, record = _train(
        step,
        bench,
        progress,
        before,
        bench.recipe,
        course=_level_course(step, bench),
        companions=[companion for companion in (capture, movement) if companion is not None],
    )
    evaluation = bench.workload.evaluate(outcome.model, "validation")
    chosen = score_and_choose(
        rule,
        bench,
        outcome.model,
        step.params["density"],
        within=before,
        seed=step.params["seed"],
        movement=None if movement is None else movement.sums,
        progress=progress,
    )
    record |= {
        "level": level,
        "validation_score": evaluation.score,
        "calibration_examples": chosen.calibration_examples,
    }
    files = {}
    if capture is not None:
        files[WEIGHTS_FILE] = dump_weights(capture.weights)
    elif rewind in ("lr", "none"):
        files[WEIGHTS_FILE] = dump_weights(take_weights(outcome.model))
    return mask_output(chosen.mask, record, files)


def _level_course(step: Step, bench: Bench) -> Course:
    """Return where a round starts: θ0, the point to rewind to, or where the last one ended."""
    from ticketry.course import Course

    rewind, level = step.params["rewind"], step.params["level"]
    rounds = step.params["rounds"] if rewind == "none" else 1
    if level == 1 or rewind == "pretrained":
        return Course(weights=head_start(step, bench) or None, rounds=rounds)
    if rewind == "step":
        weights = bench.weights_of(step.needs[1])
        return Course(weights=weights, first_step=step.params["rewind_step"])
    weights = bench.weights_of(step.needs[0])
    return Course(
        weights=weights, rounds_before=level - 1 if rewind == "none" else 0, rounds=rounds
    )


def _run_theta0(step: Step, bench: Bench, progress: Progress) -> Output:
    """One-shot on the pre-trained weights: no training, but gradients for some criteria."""
    from ticketry.models.weights import put_weights_

    rule = Rule.from_json(step.params["rule"])
    seed, density = step.params.get("seed", 0), step.params["density"]
    record: dict[str, Any] = {}
    if rule.calibration_batches:
        model = bench.workload.build(derive_seed(seed, "head"), bench.context.device)
        put_weights_(model, head_start(step, bench))
        chosen = score_and_choose(
            rule, bench, model, density, within=None, seed=seed, progress=progress
        )
        record = {"seed": seed, "calibration_examples": chosen.calibration_examples}
        mask = chosen.mask
    else:
        mask = choose(rule, bench, bench.pretrained, density, within=None, seed=seed)
    progress(1, 1)
    return mask_output(mask, record)


def _run_gradual(step: Step, bench: Bench, progress: Progress) -> Output:
    """Prune along a cubic schedule within one training; keep the mask, and the weights if asked."""
    from ticketry.companions import GradualPruning, Movement
    from ticketry.models.weights import take_weights
    from ticketry.weightsfile import dump_weights

    rule = Rule.from_json(step.params["rule"])
    movement = Movement(bench.context.scope) if rule.criterion == "movement" else None

    def shrink(weights: Mapping[str, Tensor], density: float, within: Mask) -> Mask:
        sums = None
        if movement is not None:
            sums = {"movement": {name: tensor.cpu() for name, tensor in movement.sums.items()}}
        seed = step.params["seed"]
        return choose(rule, bench, weights, density, within=within, seed=seed, statistics=sums)

    pruning = GradualPruning(
        bench.context.scope,
        1.0 - step.params["density"],
        start=step.params["start"],
        end=step.params["end"],
        updates=step.params["updates"],
        choose=shrink,
    )
    companions = [pruning] if movement is None else [movement, pruning]
    course = _theta0_course(step, bench)
    outcome, record = _train(
        step, bench, progress, None, bench.recipe, course=course, companions=companions
    )
    mask = pruning.finish()
    evaluation = bench.workload.evaluate(outcome.model, "validation")
    record |= {"level": 1, "validation_score": evaluation.score}
    files = {}
    if step.params["keep_weights"]:
        files[WEIGHTS_FILE] = dump_weights(take_weights(outcome.model))
    return mask_output(mask, record, files)


def _run_replicate(step: Step, bench: Bench, progress: Progress) -> Output:
    """A fine-tuning of one arm, read on validation and test."""
    mask = arm_mask(step, bench)
    course = arm_course(step, bench, mask)
    outcome, record = _train(step, bench, progress, mask, bench.recipe, course=course)
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


def _run_half_budget(step: Step, bench: Bench, progress: Progress) -> Output:
    """Dense with half the budget and its own full decay; read on validation only."""
    recipe = dataclasses.replace(bench.recipe, epochs=bench.recipe.epochs / 2)
    course = _theta0_course(step, bench)
    outcome, record = _train(step, bench, progress, None, recipe, course=course)
    record["validation_score"] = bench.workload.evaluate(outcome.model, "validation").score
    return Output(record)


def _run_endpoint(step: Step, bench: Bench, progress: Progress) -> Output:
    """A fine-tuning that starts with another seed's head, so that only its noise is its own."""
    from ticketry.models.weights import head_of, refuse_batch_norm, take_weights
    from ticketry.weightsfile import dump_weights

    head_seed = derive_seed(step.params["shared_seed"], "head")
    model = bench.workload.build(head_seed)
    refuse_batch_norm(model)
    mask = arm_mask(step, bench)
    course = arm_course(step, bench, mask)
    if head := head_of(model):
        # A head that was warmed up is in the course already, and is every seed's.
        course = dataclasses.replace(course, weights={**head, **(course.weights or {})})
    outcome, record = _train(step, bench, progress, mask, bench.recipe, course=course)
    record |= {
        "head_seed": head_seed,
        "mask_digest": None if mask is None else mask.digest(),
        "validation_score": bench.workload.evaluate(outcome.model, "validation").score,
    }
    return Output(record, {WEIGHTS_FILE: dump_weights(take_weights(outcome.model))})


def _run_connectivity(step: Step, bench: Bench, progress: Progress) -> Output:
    """Read models on the line between the ends of two trainings, on validation only."""
    from ticketry.models.weights import between, put_weights_

    first, second = (bench.weights_of(key) for key in step.needs)
    ends = [float(bench.store.record(key)["validation_score"]) for key in step.needs]
    last = step.params["points"] - 1
    head_seed = derive_seed(step.params["shared_seed"], "head")
    model = bench.workload.build(head_seed, bench.context.device)
    scores = [ends[0]]
    for point in range(1, last):
        put_weights_(model, between(first, second, point / last))
        scores.append(bench.workload.evaluate(model, "validation").score)
        progress(point, last - 1)
    scores.append(ends[1])
    alphas = [point / last for point in range(last + 1)]
    return Output({"alphas": alphas, "validation_scores": scores})


def _run_overlaps(step: Step, bench: Bench, progress: Progress) -> Output:
    """All pairs of the masks that other steps left, against chance at their layer densities."""
    masks = [bench.mask_of(key) for key in step.needs]
    count = len(masks)
    names = ("kept_iou", "pruned_iou", "kept_expected", "pruned_expected")
    tables = {name: [[1.0] * count for _ in masks] for name in names}
    for i, mask in enumerate(masks):
        for j in range(i):
            overlap = dataclasses.asdict(mask.overlap(masks[j]))
            for name, table in tables.items():
                table[i][j] = table[j][i] = overlap[name]
        progress(i + 1, count)
    return Output({"masks": [mask.digest() for mask in masks], **tables})


def _run_kernels(step: Step, bench: Bench, progress: Progress) -> Output:
    """Kernels that each of the masks that other steps left empties, and what chance gives."""
    from ticketry.core.kernels import kernel_counts

    rows: dict[str, list[Any]] = {"masks": [], "zero": [], "zero_expected": [], "kernels": []}
    for number, key in enumerate(step.needs):
        mask = bench.mask_of(key)
        counts = kernel_counts(mask)
        rows["masks"].append(mask.digest())
        for name in ("zero", "zero_expected", "kernels"):
            rows[name].append(sum(getattr(count, name) for count in counts))
        progress(number + 1, len(step.needs))
    return Output(rows)


def _theta0_course(step: Step, bench: Bench) -> Course:
    """Return θ0, with the head that was warmed up where there is one, and the whole schedule."""
    from ticketry.course import Course

    return Course(weights=head_start(step, bench) or None)


def _run_warm_head(step: Step, bench: Bench, progress: Progress) -> Output:
    """Train a fresh head on the base at θ0, which stays as it is; keep the head: γ0."""
    from ticketry.weightsfile import dump_weights

    workload = bench.workload.head_only()
    chosen = {name: step.params[name] for name in ("epochs", "learning_rate")}
    recipe = dataclasses.replace(bench.recipe, **chosen)
    outcome, record = _train(step, bench, progress, None, recipe, workload=workload)
    record["validation_score"] = workload.evaluate(outcome.model, "validation").score
    return Output(record, {WEIGHTS_FILE: dump_weights(workload.head(outcome.model))})


KINDS: Mapping[str, Callable[[Step, Bench, Progress], Output]] = {
    "level": _run_level,
    "theta0-mask": _run_theta0,
    "gradual": _run_gradual,
    "replicate": _run_replicate,
    "half-budget": _run_half_budget,
    "endpoint": _run_endpoint,
    "connectivity": _run_connectivity,
    "overlaps": _run_overlaps,
    "kernels": _run_kernels,
    "warm-head": _run_warm_head,
}
