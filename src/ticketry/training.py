"""The one training loop: from θ0, under a mask or dense, the same for every arm.

A training is decided by workload, recipe, seed and mask: on one machine, with the same versions and
thread count, it gives the same bytes, also when it was stopped and went on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from torch import Tensor, nn

from ticketry import checkpoint as checkpoints
from ticketry.companions import Companion
from ticketry.config import derive_seed, fingerprint
from ticketry.core.mask import Mask
from ticketry.course import WHOLE, Course, make_optimizer, set_learning_rate
from ticketry.enforce import MaskEnforcer
from ticketry.errors import ConfigError, TrainingError
from ticketry.models.loading import embedding_parameters, tensor_hashes
from ticketry.models.weights import put_weights_
from ticketry.parallel import team
from ticketry.recipes import Recipe
from ticketry.tasks.ahead import in_order
from ticketry.tasks.workload import Batch, Workload, precision

_FINAL_SHARE = 0.1
"""Share of the steps over which the final loss is a mean."""


@dataclass(frozen=True, eq=False)
class TrainOutcome:
    """A trained model and what was seen on the way.

    Attributes:
        model: in eval mode, on the training's device; pruned weights are exactly zero.
        steps: optimizer steps that were made.
        train_examples: examples seen, forward and backward; each pass counts.
        train_tokens: their tokens without padding.
        mean_loss: mean of all steps' losses.
        final_loss: mean over the last tenth of the steps.
        truncated: split -> texts that were cut.
        warnings: what went wrong on the way without stopping it; not part of :meth:`record`, for
            a training that was stopped and went on must leave the same record.
        resumed_at_step: where a checkpoint was taken up; 0 without one.
        seconds: of this call.
    """

    model: nn.Module
    steps: int
    train_examples: int
    train_tokens: int
    mean_loss: float
    final_loss: float
    truncated: Mapping[str, int]
    warnings: tuple[str, ...]
    resumed_at_step: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return what is the same each time this training is done, as JSON values."""
        return {
            "steps": self.steps,
            "train_examples": self.train_examples,
            "train_tokens": self.train_tokens,
            "mean_loss": self.mean_loss,
            "final_loss": self.final_loss,
            "truncated": dict(self.truncated),
        }


def train(
    workload: Workload,
    recipe: Recipe,
    *,
    seed: int,
    mask: Mask | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 300.0,
    course: Course = WHOLE,
    companions: Sequence[Companion] = (),
) -> TrainOutcome:
    """Fine-tune m⊙θ0 (dense without a mask) with a fresh head and a fresh optimizer.

    Args:
        workload: builds the model at θ0 and gives batches and losses.
        recipe: budget, learning rate and precision.
        seed: decides the head (``derive_seed(seed, "head")``), the order of the data and dropout,
            each by itself; the global RNG is left as it was.
        mask: on the base's canonical names; pruned weights stay exactly zero.
        device: ``cpu`` or ``cuda``.
        progress: called with (steps done, steps) after each optimizer step; may raise
            KeyboardInterrupt to stop, which leaves a checkpoint.
        checkpoint: a folder for this training alone; the training goes on from what lies there.
        checkpoint_every_s: seconds between two checkpoints.
        course: other weights to start from, and another stretch of the schedule.
        companions: called at each step, in this order; their state is part of a checkpoint.

    Raises:
        TrainingError: a loss or gradient that is not finite; names the step.
        MaskError: the mask does not fit the model.
        StorageError: a checkpoint could not be written.
    """
    started = time.monotonic()
    target = torch.device(device)
    # Precision is set by `precision` below, as in evaluation: an Accelerator's is a setting of the
    # whole process, and one process trains in several.
    accelerator = Accelerator(
        cpu=target.type == "cpu", mixed_precision=None if is_initialized() else "no"
    )
    batches = workload.batches(derive_seed(seed, "order"), recipe)
    steps = len(batches)
    end = steps if course.end_step is None else course.end_step
    if not course.first_step < end <= steps:
        raise ConfigError(
            f"a training from step {course.first_step} to {end} of {steps} was asked for; expected "
            "one step at least, and none beyond the schedule."
        )
    team().check_batch(workload.count(batches[0])[0])
    team().check_mask(mask)
    model = workload.build(derive_seed(seed, "head"), device)
    if course.weights is not None:
        put_weights_(model, course.weights)
    with (
        _frozen_embeddings(model, recipe),
        MaskEnforcer(model, mask) if mask is not None else contextlib.nullcontext() as enforcer,
        _seeded(derive_seed(seed, "dropout"), target),
    ):
        optimizer = make_optimizer(model, recipe, target)
        for companion in companions:
            companion.begin(model, optimizer)
        identity = _identity(recipe, seed, mask, steps, device, course, companions)
        resumed, warnings = _resume(
            checkpoint, identity, model, optimizer, companions, course.first_step, end
        )
        losses: list[float] = [] if resumed is None else resumed.losses.tolist()
        first, tokens, examples = (
            (course.first_step, 0, 0)
            if resumed is None
            else (resumed.step, resumed.tokens, resumed.examples)
        )
        saved = time.monotonic()
        model.train()
        for step, made in enumerate(in_order(batches, target, first, end), first):
            batch = {name: tensor.to(target) for name, tensor in made.items()}
            rate = set_learning_rate(optimizer, recipe, *course.place(step, steps))
            team().seed_step(seed, step)
            losses.append(
                _update(
                    workload,
                    model,
                    batch,
                    optimizer,
                    accelerator,
                    recipe,
                    rate,
                    at=(step, steps),
                    companions=companions,
                )
            )
            for companion in companions:
                companion.after_step(step + 1, steps)
            seen = workload.count(batch)
            examples, tokens = examples + seen[0], tokens + seen[1]
            stopped: KeyboardInterrupt | None = None
            try:
                if progress is not None:
                    progress(step + 1, end)
            except KeyboardInterrupt as stop:
                stopped = stop  # keep what was done before passing it on
            due = stopped is not None or time.monotonic() - saved >= checkpoint_every_s
            if checkpoint is not None and due and team().leads:
                state = checkpoints.take(
                    model,
                    optimizer,
                    step=step + 1,
                    tokens=tokens,
                    examples=examples,
                    losses=losses,
                    more=_companion_state(companions),
                )
                checkpoints.save(checkpoint, state, identity)
                saved = time.monotonic()
            if stopped is not None:
                raise stopped
        if enforcer is not None:
            enforcer.check()
    if not team().alone:
        team().check_weights(tensor_hashes(model))
    model.eval()
    last = losses[-max(1, round(_FINAL_SHARE * len(losses))) :]
    return TrainOutcome(
        model=model,
        steps=len(losses),
        train_examples=examples,
        train_tokens=tokens,
        mean_loss=math.fsum(losses) / len(losses),
        final_loss=math.fsum(last) / len(last),
        truncated=workload.truncated,
        warnings=warnings,
        resumed_at_step=0 if resumed is None else resumed.step,
        seconds=time.monotonic() - started,
    )


def _update(
    workload: Workload,
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    recipe: Recipe,
    rate: float,
    *,
    at: tuple[int, int],
    companions: Sequence[Companion] = (),
) -> float:
    """Make one optimizer step; return the loss before it."""
    rows, part = team().share(batch)
    with precision(next(model.parameters()).device, recipe.dtype):
        loss = workload.loss(model, rows) * part
    value = team().total(float(loss.detach()))
    if not math.isfinite(value):
        raise _diverged(f"the loss is {value}", recipe, rate, at)
    accelerator.backward(loss)
    team().sum_gradients(p for group in optimizer.param_groups for p in group["params"])
    for companion in companions:
        companion.after_backward(at[0])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    limit = recipe.clip_norm if recipe.clip_norm > 0 else math.inf
    norm = float(accelerator.clip_grad_norm_(parameters, limit))
    if not math.isfinite(norm):
        # A norm that is not finite turns every gradient, also of pruned weights, into NaN.
        raise _diverged(f"the gradient's norm is {norm}", recipe, rate, at)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def _diverged(what: str, recipe: Recipe, rate: float, at: tuple[int, int]) -> TrainingError:
    step, steps = at
    dtype = "" if recipe.dtype == "float32" else ", or --dtype float32"
    return TrainingError(
        f"{what} at step {step + 1} of {steps} (epoch {recipe.epochs * step / steps:.2f} of "
        f"{recipe.epochs:g}, learning rate {rate:.3g}); expected a finite number. Try a lower "
        f"--learning-rate than {recipe.learning_rate:g}{dtype}. What was finished is kept."
    )


def _resume(
    folder: Path | None,
    identity: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    companions: Sequence[Companion],
    first: int,
    steps: int,
) -> tuple[checkpoints.Checkpoint | None, tuple[str, ...]]:
    if folder is None:
        return None, ()
    found, warning = checkpoints.load(folder, identity)
    if found is not None:
        start = checkpoints.take(
            model, optimizer, step=0, tokens=0, examples=0, losses=[]
        ).copied()  # to go back to
        try:
            if not 0 < len(found.losses) == found.step - first <= steps - first:
                raise ValueError(f"it has {len(found.losses)} losses of {found.step} steps")
            checkpoints.restore(found, model, optimizer)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            checkpoints.restore(start, model, optimizer)
            return None, (f"the checkpoint cannot be used ({error}); it is started again",)
        try:
            for number, companion in enumerate(companions):
                prefix = f"{number}/"
                companion.restore(
                    {
                        name.removeprefix(prefix): tensor
                        for name, tensor in found.more.items()
                        if name.startswith(prefix)
                    }
                )
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise TrainingError(
                f"{folder / checkpoints.FILE} was edited: {error}. Delete it and run the same "
                "command again; this training then starts from its beginning."
            ) from error
    return found, () if warning is None else (warning,)


def _companion_state(companions: Sequence[Companion]) -> dict[str, Tensor]:
    return {
        f"{number}/{name}": tensor
        for number, companion in enumerate(companions)
        for name, tensor in companion.state().items()
    }


def _identity(
    recipe: Recipe,
    seed: int,
    mask: Mask | None,
    steps: int,
    device: str,
    course: Course,
    companions: Sequence[Companion],
) -> str:
    """Fingerprint what decides a training, as far as this module knows it."""
    return fingerprint(
        {
            "recipe": recipe.to_json(),
            "seed": seed,
            "mask": None if mask is None else mask.digest(),
            "steps": steps,
            "device": device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "course": [
                course.first_step,
                course.rounds_before,
                course.rounds,
                *([] if course.end_step is None else [f"to step {course.end_step}"]),
                None if course.weights is None else tensor_hashes(course.weights),
            ],
            "companions": [type(companion).__name__ for companion in companions],
            "processes": team().size,
        }
    )


@contextlib.contextmanager
def _frozen_embeddings(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Freeze the embeddings meanwhile, if the recipe says so."""
    frozen = embedding_parameters(model) if recipe.freeze_embeddings else ()
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from ``seed`` meanwhile; then go on as if nothing was drawn."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
