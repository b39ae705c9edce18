"""Data parallel on one machine: ``accelerate launch -m ticketry.cli find …``.

Rank 0 leads: it alone reads the command, plans, locks, writes and prints. The others follow
(:mod:`ticketry.launch`): for each step that rank 0 announces they go through the same code and
throw the output away. Every rank sees every batch and computes its own rows of it; losses and
gradients are weighted so that their sums over the ranks are the whole batch's. Masks are chosen on
rank 0 and sent; their hashes, and those of the trained weights, are compared on every rank.

Gradients are summed between the backward pass and clipping. Each rank's are masked as they
accumulate, so the sum is zero where a weight is pruned.

Messages are JSON bytes and packed bits over gloo: nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ticketry.config import derive_seed
from ticketry.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from ticketry.core.mask import Mask

_ONE_LAUNCH = "start the same command again to continue; what was finished is kept."


class Team:
    """This process among those that share each training.

    A team of one does nothing, so the training loop need not ask.

    Attributes:
        rank: 0 leads.
        size: processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def alone(self) -> bool:
        """Whether nothing is shared."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this process reads, writes and prints."""
        return self.rank == 0

    def say(self, message: Mapping[str, Any]) -> None:
        """Tell the followers something, as rank 0; JSON values."""
        if not self.alone:
            self._send(json.dumps(message).encode())

    def hear(self) -> Any:
        """Return what rank 0 says next."""
        return json.loads(self._send(None))

    def _send(self, data: bytes | None) -> bytes:
        """Broadcast bytes from rank 0; return them."""
        import torch
        from torch import distributed

        length = torch.tensor([0 if data is None else len(data)])
        distributed.broadcast(length, 0)
        content = torch.empty(int(length), dtype=torch.uint8)
        if data is not None:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        distributed.broadcast(content, 0)
        return content.numpy().tobytes()

    def choose_mask(self, choose: Callable[[], Mask]) -> Mask:
        """Let rank 0 choose a mask, and return it on every rank."""
        if self.alone:
            return choose()
        from ticketry.core.mask import Mask

        if self.leads:
            mask = choose()
            shapes = {name: list(mask.shape(name)) for name in mask}
            self.say({"shapes": shapes})
            self._send(b"".join(mask.packed(name) for name in mask))
        else:
            shapes = self.hear()["shapes"]
            bits, packed, start = self._send(None), {}, 0
            for name, shape in shapes.items():
                weights = 1
                for length in shape:
                    weights *= length
                end = start + -(-weights // 8)
                packed[name] = (tuple(shape), bits[start:end])
                start = end
            mask = Mask.from_packed(packed)
        self.check_mask(mask)
        return mask

    def check_mask(self, mask: Mask | None) -> None:
        """Refuse to train under masks that differ between the ranks.

        Raises:
            TrainingError: on every rank; names the hashes.
        """
        if not self.alone:
            self._same("mask", "dense" if mask is None else mask.digest())

    def check_weights(self, hashes: Mapping[str, str]) -> None:
        """Refuse weights that differ between the ranks after a training.

        Raises:
            TrainingError: on every rank; names a tensor.
        """
        if not self.alone:
            for name in sorted(hashes):
                self._same(f"tensor {name} after training", hashes[name])

    def _same(self, what: str, digest: str) -> None:
        import hashlib

        import torch
        from torch import distributed

        own = torch.frombuffer(
            bytearray(hashlib.sha256(digest.encode()).digest()), dtype=torch.uint8
        )
        every = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(every, own)
        if others := [rank for rank, found in enumerate(every) if not torch.equal(found, every[0])]:
            raise TrainingError(
                f"the {what} of rank {others[0]} is not that of rank 0 (here, on rank {self.rank}: "
                f"{digest[:12]}); expected the same on all {self.size} processes. Do all run the "
                f"same versions on the same files? If so, {_ONE_LAUNCH}"
            )

    def check_batch(self, rows: int) -> None:
        """Refuse batches that leave a process without work.

        Raises:
            ConfigError: fewer rows than processes.
        """
        if rows < self.size:
            raise ConfigError(
                f"batches of {rows} examples cannot be shared over {self.size} processes; give a "
                f"--batch-size of at least {self.size}, or fewer --num_processes."
            )

    def share(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """Return this rank's rows of a batch, and their part of all rows."""
        if self.alone:
            return dict(batch), 1.0
        rows = len(next(iter(batch.values())))
        first, last = (rows * rank // self.size for rank in (self.rank, self.rank + 1))
        return {name: tensor[first:last] for name, tensor in batch.items()}, (last - first) / rows

    def seed_step(self, seed: int, step: int) -> None:
        """Draw this step's random numbers from the rank's own seed (each has rows of its own).

        Set anew at each step, so that a training that goes on from rank 0's checkpoint draws the
        same on every rank.
        """
        if not self.alone:
            import torch

            own = derive_seed(seed, f"dropout/{self.rank}/{step}")
            torch.default_generator.manual_seed(own)

    def total(self, value: float) -> float:
        """Return the sum over the ranks."""
        if self.alone:
            return value
        import torch
        from torch import distributed

        found = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(found)
        return float(found)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their sums over the ranks, in place and the same everywhere."""
        if self.alone:
            return
        import torch
        from torch import distributed

        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


_team = Team()


def team() -> Team:
    """Return this process's team; a team of one unless :func:`join` was called."""
    return _team


def launched() -> int:
    """Return how many processes a launcher started, with this one; 1 without a launcher.

    Raises:
        ConfigError: several were asked for in a way that starts one.
    """
    if "RANK" not in os.environ:
        if "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ:
            # Seen with accelerate 1.15: the run would silently be a single process's.
            raise ConfigError(
                "`accelerate launch --cpu` starts one process, whatever --num_processes says; give "
                "--multi_gpu in its place, which starts them on CPUs too, or drop --num_processes."
            )
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Team:
    """Meet the other processes of a launch (gloo on CPU).

    Raises:
        TrainingError: they did not come.
    """
    global _team
    from accelerate import PartialState
    from torch import distributed

    try:
        # A rank that is gone is noticed by its connection; one that is slow is waited for.
        state = PartialState(cpu=True, backend="gloo", timeout=timedelta(days=7))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes of the launch did not meet: {error}") from error
    assert distributed.is_initialized()
    _team = Team(state.process_index, state.num_processes)
    return _team


def leave() -> None:
    """Close the connections; a process that still waits for this one is told so by gloo."""
    global _team
    from torch import distributed

    _team = Team()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def check_launch(device: str) -> None:
    """Refuse what cannot be shared between launched processes.

    Raises:
        ConfigError: another device than the CPU, or a launch of something else than the command
            line; says what to do.
    """
    if launched() > 1 and _team.alone:
        raise ConfigError(
            f"this is one of {launched()} launched processes, and each of them would do the whole "
            "run. Use the command line, `accelerate launch -m ticketry.cli find …`, or start one "
            "process."
        )
    if launched() > 1 and device != "cpu":
        raise ConfigError(
            f"{launched()} processes were launched for --device {device}; trainings are shared "
            "between processes on CPUs only. Give --device cpu, or start ticketry by itself."
        )
