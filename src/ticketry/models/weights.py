"""Weights to start a training from: a task model's tensors by name, taken and put back.

Base tensors stand under their canonical names, the head's as ``head/`` and their name in the task
model. Buffers that are saved (BatchNorm's statistics) count: a rewind restores them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ticketry.errors import ModelError
from ticketry.models.families import FAMILIES, matching
from ticketry.models.loading import base_state, canonical_tensors, config_of, loading, some_names
from ticketry.models.sources import BaseRef

HEAD = "head/"


def take_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all of a task model's weights and saved buffers, on the CPU.

    Returns:
        canonical name or ``head/name`` -> tensor; a shared one stands once.
    """
    found = canonical_tensors(model)
    seen = {id(tensor) for tensor in base_state(model).values()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[HEAD + name] = tensor.detach()
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in found.items()}


def base_part(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the head."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(HEAD)}


@torch.no_grad()
def put_weights_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set a model's tensors to ``weights``, in place; tensors not named stay as they are.

    A pooler among them is left out where the model has none: the task models of RoBERTa and ViT,
    and those that tag words, do without their base's.

    Raises:
        ModelError: the model lacks a tensor or has another shape there; nothing was changed.
    """
    targets = dict(canonical_tensors(model))
    unused = _unused_pooler(model, targets, weights)
    weights = {name: tensor for name, tensor in weights.items() if name not in unused}
    targets |= {HEAD + name: tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    unfit = [
        name
        for name, tensor in weights.items()
        if name not in targets or targets[name].shape != tensor.shape
    ]
    if unfit:
        raise ModelError(
            f"{len(unfit)} of {len(weights)} tensors to start from do not fit the model: "
            f"{some_names(unfit)}; expected weights of a model built on the same base."
        )
    for name, tensor in weights.items():
        targets[name].copy_(tensor)


def _unused_pooler(
    model: nn.Module, targets: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[str, ...]:
    family = FAMILIES.get(str(getattr(config_of(model), "model_type", "")))
    if family is None or matching(targets, family.pooler):
        return ()
    return matching(weights, family.pooler)


def reinitialised(base: BaseRef, seed: int) -> dict[str, Tensor]:
    """Return the base's tensors drawn anew by the model's own initialiser, by canonical name.

    Args:
        base: whose configuration is used; its weights are not read.
        seed: decides them; the global RNG is neither read nor moved.
    """
    with loading(base), torch.random.fork_rng(devices=[]):
        config: Any = AutoConfig.from_pretrained(
            str(base.path), local_files_only=True, trust_remote_code=False
        )
        torch.default_generator.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)
    return dict(canonical_tensors(model))


def between(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return (1 − α)·first + α·second, tensor by tensor; the ends are exact.

    Whole numbers (a position table, a count) do not lie on a line: they are the first's.

    Raises:
        ModelError: the two are not of the same tensors.
    """
    unfit = sorted(
        {*first, *second}
        - {name for name in first if name in second and first[name].shape == second[name].shape}
    )
    if unfit:
        raise ModelError(
            f"{len(unfit)} tensors are not alike at the two ends of a line: {some_names(unfit)}; "
            "expected two trainings of one model."
        )
    return {
        name: torch.lerp(tensor, second[name], alpha) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def head_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a task model's head, as :func:`take_weights` names it."""
    found = take_weights(model)
    return {name: tensor for name, tensor in found.items() if name.startswith(HEAD)}


def refuse_batch_norm(model: nn.Module) -> None:
    """Refuse a model whose weights do not say all there is to interpolate.

    Raises:
        ModelError: it has batch normalisation; its running statistics belong to the weights they
            were gathered with, and between two models they are nobody's.
    """
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if found := [name for name, module in model.named_modules() if isinstance(module, norms)]:
        raise ModelError(
            f"the model has batch normalisation ({some_names(found)}), whose statistics cannot be "
            "read between two models; expected a model with layer normalisation or none."
        )
