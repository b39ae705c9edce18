"""A training's state between two optimizer steps, in one safetensors file: nothing is unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ticketry.config import canonical_json
from ticketry.errors import StorageError
from ticketry.files import storage_errors
from ticketry.forms import Whole, faults_of

FILE = "checkpoint.safetensors"
VERSION = 1
_FACTS = {"version": Whole(), "identity": str, "step": Whole(), "tokens": Whole()}
_FACTS |= {"examples": Whole()}
_MOMENTS = ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"})
"""What AdamW and SGD keep of a parameter."""
_UNREADABLE = (SafetensorError, OSError, RecursionError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on bit for bit, beside its recipe, seed, data and mask.

    Attributes:
        step: optimizer steps done.
        tokens: tokens seen, without padding.
        examples: examples seen.
        losses: the loss of each step done, float64.
        tensors: ``parameter/…`` and ``buffer/…`` of the model, ``optimizer/INDEX/…``, ``rng/…``,
            and ``more/…`` of what accompanied the training.
    """

    step: int
    tokens: int
    examples: int
    losses: Tensor
    tensors: Mapping[str, Tensor]

    def copied(self) -> Checkpoint:
        """Return the checkpoint with tensors of its own."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return dataclasses.replace(self, tensors=tensors)

    @property
    def more(self) -> dict[str, Tensor]:
        """What was gathered beside the training's own state."""
        prefix = "more/"
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def take(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    tokens: int,
    examples: int,
    losses: list[float],
    more: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Gather the state of a training, and ``more`` beside it; tensors are not copied."""
    tensors: dict[str, Tensor] = {"rng/cpu": torch.get_rng_state()}
    if any(parameter.is_cuda for parameter in model.parameters()):
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"parameter/{name}"] = parameter.detach()
    for name, buffer in model.named_buffers():
        tensors[f"buffer/{name}"] = buffer
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer/{index}/{key}"] = value
    tensors |= {f"more/{name}": tensor for name, tensor in (more or {}).items()}
    return Checkpoint(step, tokens, examples, torch.tensor(losses, dtype=torch.float64), tensors)


@torch.no_grad()
def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's state into a model at θ0, its fresh optimizer and torch's RNG.

    Raises:
        ValueError: it was taken from another model, or is not whole; nothing was changed.
    """
    targets: dict[str, Tensor] = {
        f"parameter/{name}": parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    targets |= {f"buffer/{name}": buffer for name, buffer in model.named_buffers()}
    found = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(("parameter/", "buffer/"))
    }
    if {n: (t.shape, t.dtype) for n, t in targets.items()} != {
        n: (t.shape, t.dtype) for n, t in found.items()
    }:
        raise ValueError("its tensors are not this model's")
    state = _optimizer_state(checkpoint, optimizer)
    # What may still be refused comes before what cannot be: θ0 must stay as it was.
    _set_rng(checkpoint.tensors)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for name, target in targets.items():
        target.copy_(found[name])


def _set_rng(tensors: Mapping[str, Tensor]) -> None:
    try:
        torch.set_rng_state(tensors["rng/cpu"])
        if "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError("its random state is not torch's") from error


def _optimizer_state(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Return the moments by the index of their parameter; each is of its shape, or a number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        if not name.startswith("optimizer/"):
            continue
        _, index, key = name.split("/")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise ValueError(f"it has the moments of a parameter {index[:20]!r}")
        expected = torch.Size() if key == "step" else parameters[int(index)].shape
        if tensor.shape != expected:
            raise ValueError(f"the moment {name!r} has the shape {tuple(tensor.shape)}")
        if tensor.dim():
            # In the parameter's memory format (channels last): a fused step goes by memory alone.
            tensor = torch.empty_like(parameters[int(index)], dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    if any(set(moments) not in _MOMENTS for moments in state.values()):
        raise ValueError("its moments are neither AdamW's nor SGD's")
    return state


def save(folder: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Write a checkpoint atomically: a reader finds the last one or this one, whole.

    Args:
        folder: made when it does not exist.
        checkpoint: from :func:`take`.
        identity: fingerprint of what decides the training; another training's is not resumed.

    Raises:
        StorageError: it could not be written.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in {**checkpoint.tensors, "losses": checkpoint.losses}.items()
    }
    facts = {
        "version": VERSION,
        "identity": identity,
        "step": checkpoint.step,
        "tokens": checkpoint.tokens,
        "examples": checkpoint.examples,
    }
    metadata = {"facts": canonical_json(facts), "sha256": _digest(tensors, facts)}
    with storage_errors(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{FILE}.", dir=folder)
        os.close(handle)
        try:
            save_file(tensors, temporary, metadata)
            with open(temporary, "rb") as file:  # noqa: PTH123
                os.fsync(file.fileno())
            Path(temporary).replace(folder / FILE)
        except SafetensorError as error:  # wraps the OSError of a full disk
            raise StorageError(
                f"cannot write {folder / FILE}: {error}; free some space, then run the same "
                "command again."
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)


def load(folder: Path, identity: str) -> tuple[Checkpoint | None, str | None]:
    """Read the checkpoint of a training.

    Args:
        folder: as given to :func:`save`.
        identity: of the training that wants to go on.
    Returns:
        The checkpoint, if a whole one of this training is there; else ``None``, with a warning
        when a file was there all the same.
    """
    path = folder / FILE
    if not path.is_file():
        return None, None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata["facts"])
        if metadata["sha256"] != _digest(tensors, facts):
            raise ValueError("its SHA-256 differs from the one written")
        if (facts["version"], facts["identity"]) != (VERSION, identity):
            raise ValueError("it is another training's")
        losses = tensors.pop("losses")
        if faults := faults_of(facts, _FACTS):
            raise ValueError(faults[0])
        if losses.dtype != torch.float64 or losses.dim() != 1:
            raise ValueError("its losses are no list of numbers")
        found = Checkpoint(facts["step"], facts["tokens"], facts["examples"], losses, tensors)
    except (*_UNREADABLE, ValueError, KeyError, TypeError) as error:
        return None, (
            f"the checkpoint {path.name} cannot be used ({error}); "
            "this training starts again from its beginning"
        )
    return found, None


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(canonical_json(facts).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
