"""The kinds of step, how each is carried out, and what it leaves in the store.

A step is plain data. Its key is the hash of everything that decides its output: kind, parameters,
the keys of the steps it reads, and the context (base weights, data, recipe, device, threads and
library versions). Equal keys mean equal outputs on one machine, so a finished step is never redone.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ticketry.config import Recipe, derive_seed, fingerprint
from ticketry.errors import StorageError
from ticketry.files import pretty_json
from ticketry.store import RECORD, Store

if TYPE_CHECKING:
    from torch import Tensor

    from ticketry.core.mask import Mask

STEP_VERSION = 1
MASK_FILE = "mask.safetensors"
MODEL_PREFIX = "model/"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Context:
    """What all steps of a run share; everything here is part of every key.

    Attributes:
        base_sha256: hash over the base's tensors.
        data_sha256: hash over texts, labels and split membership.
        scope: names of the prunable tensors, sorted.
        recipe: the recipe as JSON values.
        device: ``cpu`` or ``cuda``.
        threads: torch threads of a training; another number gives other low bits.
        versions: torch and transformers versions.
    """

    base_name: str
    base_revision: str | None
    base_sha256: str
    data_sha256: str
    scope: tuple[str, ...]
    recipe: Mapping[str, Any]
    device: str
    threads: int
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the context as JSON values (for a worker)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Context:
        """Rebuild a context from :meth:`to_json`."""
        return cls(**{**data, "scope": tuple(data["scope"])})

    @property
    def identity(self) -> dict[str, Any]:
        """The part that goes into keys: the base counts by its hash, not by its name."""
        data = self.to_json()
        del data["base_name"], data["base_revision"]
        return data


@dataclass(frozen=True)
class Step:
    """One unit of work and of resume.

    Attributes:
        name: for people, such as ``dense, seed 1``.
        kind: a key of :data:`KINDS`.
        params: everything that decides the outcome beside context and needs; JSON values.
        needs: keys of the steps whose outputs are read.
        train_passes: examples seen forward and backward.
        eval_passes: examples seen forward only.
        searching: whether its passes count as the search's cost.
    """

    name: str
    kind: str
    params: Mapping[str, Any]
    context_key: str
    needs: tuple[str, ...] = ()
    train_passes: int = 0
    eval_passes: int = 0
    searching: bool = False

    @functools.cached_property
    def key(self) -> str:
        """The step's content address."""
        return fingerprint(
            {
                "version": STEP_VERSION,
                "kind": self.kind,
                "params": dict(self.params),
                "needs": list(self.needs),
                "context": self.context_key,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the step as JSON values (for a worker and for ``plan.json``)."""
        return {**dataclasses.asdict(self), "key": self.key}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        """Rebuild a step from :meth:`to_json`."""
        values = {name: value for name, value in data.items() if name != "key"}
        return cls(**{**values, "needs": tuple(values["needs"])})


@dataclass
class Output:
    """What a step leaves: a record, and files beside it."""

    record: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class Bench:
    """What a worker keeps between steps: the prepared workload and the pre-trained weights."""

    def __init__(self, context: Context, store: Store) -> None:
        self.context = context
        self.store = store
        self.recipe = Recipe(**dict(context.recipe))

    @functools.cached_property
    def workload(self) -> Any:
        """The task bound to the base model."""
        from ticketry.models.loading import resolve
        from ticketry.tasks.base import TaskData
        from ticketry.tasks.objectives import workload_for

        data = TaskData.read(self.store.data_file(self.context.data_sha256))
        base = resolve(self.context.base_name, self.context.base_revision)
        return workload_for(base, data, self.recipe)

    @functools.cached_property
    def pretrained(self) -> dict[str, Tensor]:
        """The prunable tensors at θ0, by canonical name."""
        from ticketry.models.loading import canonical_parameters, load_backbone, resolve

        base = resolve(self.context.base_name, self.context.base_revision)
        parameters = canonical_parameters(load_backbone(base))
        return {name: parameters[name].detach() for name in self.context.scope}

    def mask_of(self, key: str) -> Mask:
        """Return the mask that a step left."""
        from ticketry.maskfile import load_mask

        return load_mask(self.store.read(key, MASK_FILE), what=f"the mask of step {key[:12]}")


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
    return _mask_output(mask, record, dump_mask(mask))


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
    return _mask_output(mask, {}, dump_mask(mask))


def _mask_output(mask: Mask, record: dict[str, Any], data: bytes) -> Output:
    record |= {
        "kept": mask.kept,
        "prunable": mask.prunable,
        "sparsity": mask.sparsity,
        "digest": mask.digest(),
        "empty_layers": list(mask.empty_layers()),
    }
    return Output(record, {MASK_FILE: data})


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


def given_mask_key(mask: Mask) -> str:
    """Return the key under which a mask that was brought along is stored."""
    return fingerprint({"version": STEP_VERSION, "kind": "given-mask", "digest": mask.digest()})


def put_given_mask(store: Store, mask: Mask) -> None:
    """Store a mask that was brought along, as if a step had made it."""
    from ticketry.maskfile import dump_mask

    key = given_mask_key(mask)
    if (damage := store.check(key)) is not None and store.folder(key).exists():
        store.set_aside(damage)
    output = _mask_output(mask, {}, dump_mask(mask))
    store.write(key, {RECORD: pretty_json(output.record), **output.files}, {"name": "given mask"})


def copy_model(store: Store, key: str) -> dict[str, bytes]:
    """Return the files of the fine-tuned model that a step kept."""
    folder = store.folder(key) / MODEL_PREFIX
    if not folder.is_dir():
        raise StorageError(f"step {key[:12]} kept no model.")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
