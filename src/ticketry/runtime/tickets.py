"""A ticket's mask, applied to the layers of a model that is to be accelerated."""

from __future__ import annotations

from torch import nn

from ticketry.core.mask import Mask
from ticketry.errors import ModelError
from ticketry.models.loading import base_model
from ticketry.runtime.accelerating import TOKENS, Layer, accelerate, matrices


def accelerate_ticket(
    model: nn.Module, mask: Mask, tokens: int = TOKENS, values: str = "fp32"
) -> list[Layer]:
    """Swap the matrices that a mask prunes for packed ones where that is faster, in place.

    Args:
        model: the base model, or a task model of transformers built on it, with the mask's zeros.
        mask: named as in the base's ``state_dict``; tensors that belong to no linear layer and to
            no convolution of one pixel run as they did.
        tokens: see :func:`ticketry.runtime.accelerating.accelerate`.
        values: likewise.

    Raises:
        ModelError: the model lacks a tensor of the mask.
    """
    base = base_model(model)
    tensors = set(base.state_dict())
    missing = sorted(set(mask) - tensors)
    if missing:
        raise ModelError(
            f"the model lacks {len(missing)} of the ticket's {len(mask)} tensors, such as "
            f"{missing[0]}."
        )
    prefix = next(
        f"{name}." if name else "" for name, part in model.named_modules() if part is base
    )
    known = dict(matrices(model))
    masks = {}
    for name in mask:
        module = prefix + name.removesuffix(".weight")
        if name.endswith(".weight") and module in known:
            masks[module] = mask[name]
    return accelerate(model, masks, tokens=tokens, values=values)
