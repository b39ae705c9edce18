"""How fast this machine trains: a few real steps, timed before a run is priced.

A matrix product's rate times a stated share was tried first. It was 4 to 7 times too fast where
the CPU multiplies bfloat16 in tiles of its own: what a training spends elsewhere doesn't shrink.
"""

from __future__ import annotations

import dataclasses
from time import perf_counter

from ticketry.errors import TicketryError
from ticketry.parallel import launched
from ticketry.scene import Scene
from ticketry.tasks.base import Split, TaskData

ENOUGH_S = 0.6
"""Steps are timed for about so long, after a first one, which also pays for what is done once."""
ENOUGH_STEPS = 10
"""No more are timed than so many: of a small model a few say as much."""
_HELD_OUT = 64


class _EnoughError(KeyboardInterrupt):
    """Stops a training as a user does; :func:`ticketry.training.train` passes it on."""


class Pace:
    """Times trainings when it is first asked about their kind, and remembers.

    Kinds are told apart by base, objective and whatever of the recipe decides how a step is done;
    tasks of one kind differ in the FLOPs of their examples, in whose proportion they are priced.
    """

    def __init__(self) -> None:
        self._rates: dict[tuple[object, ...], float | None] = {}

    def seconds(self, scene: Scene, work: float, workers: int) -> float | None:
        """Estimate how long some work takes here.

        Args:
            scene: what is trained on.
            work: FLOPs, as ``scene.flops_per_pass`` counts them.
            workers: trainings side by side; they are taken not to slow each other.
        Returns:
            Seconds, or None where no estimate is made: on other devices than the CPU, and where
            launched processes share one training.
        """
        if work == 0:
            return 0.0
        if scene.context.device != "cpu" or launched() > 1:
            return None
        kind = kind_of(scene)
        if kind not in self._rates:
            self._rates[kind] = _flops_per_s(scene)
        rate = self._rates[kind]
        return None if rate is None else work / rate / max(workers, 1)


def kind_of(scene: Scene) -> tuple[object, ...]:
    """Return what trainings have in common that take the same time for the same FLOPs."""
    recipe = scene.recipe
    return (
        scene.context.base_sha256,
        scene.data.objective,
        scene.context.threads,
        recipe.dtype,
        recipe.batch_size,
        recipe.max_length_tokens,
        recipe.freeze_embeddings,
        recipe.optimizer,
        recipe.image_size_px,
        recipe.detector,
    )


def _flops_per_s(scene: Scene) -> float | None:
    """Train for a moment, dense, in this process; leave nothing behind."""
    import torch

    from ticketry.models.loading import resolve
    from ticketry.tasks.objectives import workload_for
    from ticketry.training import train

    before = torch.get_num_threads()
    torch.set_num_threads(scene.context.threads)
    try:
        base = resolve(scene.context.base_name, scene.context.base_revision)
        recipe = dataclasses.replace(scene.recipe, epochs=ENOUGH_STEPS + 2.0)  # a step each
        for data in (_few(scene.data, (ENOUGH_STEPS + 2) * recipe.batch_size), scene.data):
            clock = _Clock()
            try:
                workload = workload_for(base, data, recipe)
                rows = workload.count(workload.batches(0, recipe)[0])[0]
                passes = rows / len(data.each)  # a joint task's pass has one of each part
                train(workload, recipe, seed=0, progress=clock)
            except _EnoughError:
                pass
            except TicketryError:
                continue  # too few to make a block of; what else is wrong the run will say
            return passes * scene.flops_per_pass / clock.seconds_a_step()
    finally:
        torch.set_num_threads(before)
    return None


class _Clock:
    """Takes the time after each step, and ends the training when that is enough."""

    def __init__(self) -> None:
        self._times = [perf_counter()]

    def __call__(self, done: int, total: int) -> None:
        self._times.append(perf_counter())
        timed = len(self._times) - 2  # after the first
        if timed >= ENOUGH_STEPS or (timed and self._times[-1] - self._times[1] >= ENOUGH_S):
            raise _EnoughError

    def seconds_a_step(self) -> float:
        """Return the mean, without the first step where there are more."""
        times = self._times[1:] if len(self._times) > 2 else self._times
        return (times[-1] - times[0]) / (len(times) - 1)


def _few(data: TaskData, count: int) -> TaskData:
    """Return data with so many examples to train on, and few held out: nothing is read in vain."""
    if data.parts:
        parts = tuple(_few(part, count) for part in data.parts)
        one = parts[0]
        return dataclasses.replace(
            data, parts=parts, train=one.train, validation=one.validation, test=one.test
        )
    return dataclasses.replace(
        data.limited(count, 0), validation=_head(data.validation), test=_head(data.test)
    )


def _head(split: Split) -> Split:
    return split.take(range(min(_HELD_OUT, len(split))))
