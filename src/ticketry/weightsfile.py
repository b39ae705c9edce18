"""Weights to start from as one safetensors file; nothing is unpickled, sizes are bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ticketry.errors import TicketError
from ticketry.maskfile import is_pickle

if TYPE_CHECKING:
    from torch import Tensor


def dump_weights(weights: Mapping[str, Tensor]) -> bytes:
    """Encode tensors; equal tensors give equal bytes (no metadata, names in sorted order)."""
    from safetensors.torch import save

    return save({name: weights[name].contiguous() for name in sorted(weights)})


def load_weights(data: bytes, *, what: str = "the weights file") -> dict[str, Tensor]:
    """Decode tensors.

    Args:
        data: the file's bytes.
        what: the file, for messages.
    Returns:
        name -> tensor on the CPU, with memory of its own.

    Raises:
        TicketError: a pickle, damaged, or values that are not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if is_pickle(data):
        raise TicketError(
            f"{what} is a pickle or zip archive, not safetensors; it was not opened. "
            "Ask its author for a ticket saved with `ticket.save_pretrained`."
        )
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TicketError(f"{what} is damaged: {error}.") from error
    if not tensors:
        raise TicketError(f"{what} holds no tensors; expected weights to start from.")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TicketError(f"{what}: tensor {name!r} holds values that are not finite.")
    return tensors
