"""How fast this machine trains: a few real steps, timed before a run is priced.

A matrix product's rate times a stated share was tried first. It was 4 to 7 times too fast where
the CPU multiplies bfloat16 in tiles of its own: what a training spends elsewhere doesn't shrink.
"""

from __future__ import annotations

from time import perf_counter

from ticketry.errors import TicketryError
from ticketry.parallel import launched
from ticketry.scene import Scene

ENOUGH_S = 0.6
"""Steps are timed for about so long, after a first one, which also pays for what is done once."""
ENOUGH_STEPS = 10
"""No more are timed than so many: of a small model a few say as much."""


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

    context, recipe = scene.context, scene.recipe
    before = torch.get_num_threads()
    torch.set_num_threads(context.threads)
    times = [perf_counter()]

    def clock(done: int, total: int) -> None:
        times.append(perf_counter())
        timed = len(times) - 2  # after the first
        if timed >= ENOUGH_STEPS or (timed and times[-1] - times[1] >= ENOUGH_S):
            raise _EnoughError

    try:
        base = resolve(context.base_name, context.base_revision)
        train(workload_for(base, scene.data, recipe), recipe, seed=0, progress=clock)
    except _EnoughError:
        pass
    except TicketryError:
        return None  # the run itself will say what is wrong, at its place
    finally:
        torch.set_num_threads(before)
    first = 1 if len(times) > 2 else 0
    examples = min(recipe.batch_size, scene.sizes.train) * (len(times) - 1 - first)
    return examples * scene.flops_per_pass / (times[-1] - times[first])
