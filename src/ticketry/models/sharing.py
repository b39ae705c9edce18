"""Several task models over one copy of a base's tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ticketry.core.mask import Mask
from ticketry.errors import BankError, ModelError
from ticketry.models.families import FAMILIES, matching
from ticketry.models.loading import (
    apply_mask_,
    base_state,
    canonical_parameters,
    canonical_tensors,
    config_of,
    some_names,
)


def own_tensors(
    model: nn.Module, shared: Mapping[str, Tensor], mask: Mask, base: str
) -> frozenset[str]:
    """Return which of the base's tensors a task model has values of its own for.

    Args:
        model: of transformers, built on the base.
        shared: the base's tensors by canonical name.
        mask: of the ticket.
        base: its name, for messages.
    Returns:
        Canonical names of biases, norms and the pooler; all others are the masked base's, exactly.

    Raises:
        BankError: names the tensors that are neither the masked base's nor small, by kind.
    """
    if not isinstance(model, PreTrainedModel):
        raise BankError(
            f"a head is taken from a task model of transformers, not from a "
            f"{type(model).__name__}; give one, or the folder that save_pretrained wrote."
        )
    found = canonical_tensors(model)
    model_type = str(getattr(config_of(model), "model_type", ""))
    small = small_names(shared, model_type)
    own, trained, unlike = set(), [], []
    for name in sorted(found.keys() & shared.keys()):
        tensor, theirs = found[name], shared[name]
        if (tensor.shape, tensor.dtype) != (theirs.shape, theirs.dtype):
            unlike.append(f"{name} ({_form(tensor)} for {_form(theirs)})")
        elif _differs(tensor, theirs, mask.get(name)):
            if name in small and name not in mask:
                own.add(name)
            else:
                trained.append(name)
    lost = sorted(shared.keys() - found.keys() - small)
    faults = [
        f"{len(names)} {what} ({some_names(names)})"
        for what, names in (
            ("hold other values", trained),
            ("are of another shape or dtype", unlike),
            ("are missing", lost),
        )
        if names
    ]
    if faults:
        raise BankError(
            f"this {type(model).__name__} cannot share the base {base}: of its {len(shared)} "
            f"tensors {'; '.join(faults)}. A bank serves the base's own weights times the "
            "ticket's mask, and for each task a head, biases, norms and a pooler. Train with "
            "ticketry.bank.freeze_, which lets nothing else move, or serve this model by itself."
        )
    return frozenset(own)


def small_names(tensors: Mapping[str, Tensor], model_type: str) -> set[str]:
    """Return which of a base's tensors a task may have of its own: biases, norms, the pooler."""
    family = FAMILIES.get(model_type)
    pooler = matching(list(tensors), family.pooler) if family is not None else ()
    return {name for name, tensor in tensors.items() if tensor.dim() <= 1} | set(pooler)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _differs(tensor: Tensor, theirs: Tensor, mask: Tensor | None) -> bool:
    expected = theirs if mask is None else theirs.masked_fill(~mask, 0)
    return not torch.equal(_bits(tensor.cpu()), _bits(expected))


def _bits(tensor: Tensor) -> Tensor:
    """Return the bytes: NaN is then equal to itself, and -0 is not 0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def shared_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy a model, but for the base tensors that are given: these are used themselves.

    Args:
        model: of transformers, built on the base; unchanged.
        tensors: canonical name -> tensor of the same shape and dtype.
    Returns:
        The copy in eval mode; none of its parameters asks for a gradient.
    """
    memo: dict[int, Any] = {}
    for name, tensor in base_state(model).items():
        if name in tensors:
            given = tensors[name]
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(given, requires_grad=False) if is_parameter else given
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied.requires_grad_(False).eval()


def freeze_shared_(model: nn.Module, mask: Mask) -> list[str]:
    """Mask a task model, and let only what a bank keeps for each task learn, in place.

    Args:
        model: of transformers, built on the base.
        mask: of the ticket.
    Returns:
        The names of the parameters that learn: head, biases, norms and pooler.

    Raises:
        ModelError: there is no model of transformers inside, or nothing in it could learn.
    """
    parameters = canonical_parameters(model)
    small = small_names(parameters, str(getattr(config_of(model), "model_type", ""))) - set(mask)
    frozen = {id(parameter) for name, parameter in parameters.items() if name not in small}
    learning = [name for name, p in model.named_parameters() if id(p) not in frozen]
    if not learning:
        raise ModelError(f"{type(model).__name__} has no head, bias or norm that could learn.")
    apply_mask_(model, mask)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    return learning
