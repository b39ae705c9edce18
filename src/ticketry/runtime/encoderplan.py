"""What an encoder's call of the kernels needs, made ready once."""

from __future__ import annotations

import torch
from torch import Tensor

from ticketry.runtime import native


class Plan:
    """An encoder's tensors as the kernels read them, kept from call to call.

    Args:
        tensors: of :func:`ticketry.runtime.ops.encode`, checked.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors, self._pointers = tensors, [tensor.data_ptr() for tensor in tensors]
        # These keep the memory, so that no other tensor can come to lie at its address.
        self._held = [tensor.detach().contiguous() for tensor in tensors]
        self._layers = native.layers(self._held)
        self.hidden, self.inner = len(tensors[12]), len(tensors[9])

    def fits(self, tensors: list[Tensor]) -> bool:
        """Say whether these are still the tensors, where they were."""
        return len(tensors) == len(self._tensors) and all(
            one is other and one.data_ptr() == pointer
            for one, other, pointer in zip(tensors, self._tensors, self._pointers, strict=True)
        )

    def encode(
        self, states: Tensor, mask: Tensor | None, heads: int, numbers: tuple[float, float, int]
    ) -> Tensor | None:
        """Return what the operator returns, or None where the kernels do not do it.

        Args:
            states: of the operator; not empty, and as wide as the tensors say.
            mask: of the operator.
            heads: of the operator.
            numbers: scaling, eps and activation of the operator.
        """
        bias = None if mask is None else key_bias(mask, len(states))
        if native.isa() is None or (mask is not None and bias is None):
            return None
        whole = states.contiguous()
        return native.encode(whole, self._layers, self.inner, bias, heads, numbers)


def key_bias(mask: Tensor, batch: int) -> Tensor | None:
    """Return what each key's scores get, (batch, length), or None where a mask says more than that.

    Args:
        mask: of :func:`ticketry.runtime.ops.attend`.
        batch: examples.
    """
    first = mask[:, :1, :1]
    if mask.shape[1:3] != (1, 1) and not bool((mask == first).all()):
        return None
    row = first[:, 0, 0].expand(batch, -1)
    if mask.dtype == torch.bool:
        if not bool(row.any(-1).all()):
            return None  # an example that sees nothing: torch decides what comes of it
        row = torch.zeros(row.shape).masked_fill_(~row, torch.finfo(torch.float32).min)
    return row.float().contiguous()
