"""The masked matrices of the task that is served: one image, written anew at each switch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ticketry.core.mask import Mask

# Row b holds, for the 8 bits of the byte b, the lowest first, all ones where the bit is set: a
# float32 weight AND its word is the weight itself, or +0.
_WORDS = -np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
).astype(np.int32)  # fmt: skip


class Image:
    """Tensors that hold ``mask * base`` for one mask at a time.

    Args:
        base: the base's tensors by canonical name; only read.
    """

    def __init__(self, base: Mapping[str, Tensor]) -> None:
        self._base = base
        self._tensors: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._shown: Mask | None = None

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def grown(self, mask: Mask) -> dict[str, Tensor]:
        """Return a tensor for each of a mask's, new ones where there was none; nothing is kept."""
        return {
            name: self._tensors[name] if name in self._tensors else torch.zeros(mask.shape(name))
            for name in mask
        }

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Take in what :meth:`grown` gave."""
        fresh = {name: tensor for name, tensor in tensors.items() if name not in self._tensors}
        self._tensors |= fresh
        self._versions |= {name: tensor._version for name, tensor in fresh.items()}
        self._shown = None

    def forget(self) -> None:
        """Write the next image anew, whatever is there."""
        self._shown = None

    def shrink(self, names: set[str]) -> None:
        """Keep the tensors of these names only."""
        for name in self._tensors.keys() - names:
            del self._tensors[name], self._versions[name]
        self._shown = None

    def show(self, mask: Mask) -> None:
        """Write a mask's image, unless it is there; after an error it is nobody's."""
        if self._shown == mask:
            return
        self._shown = None
        for name in mask:
            mask_into(self._base[name], mask.packed(name), self._tensors[name])
        self._shown = mask

    def heal(self) -> list[str]:
        """Return the names of tensors that were changed from outside; the next show mends them."""
        touched = [n for n, t in self._tensors.items() if t._version != self._versions[n]]
        if touched:
            self._shown = None
            self._versions |= {name: self._tensors[name]._version for name in touched}
        return touched


def mask_into(source: Tensor, bits: bytes, target: Tensor) -> None:
    """Write ``source`` where a bit is set and +0 elsewhere, exactly.

    Through numpy: three times as fast as ``torch.where`` on one core, and no counter of torch is
    moved, so that these tell only what others change.
    """
    size = math.prod(source.shape)
    packed = np.frombuffer(bits, dtype=np.uint8)
    words = np.take(_WORDS, packed, axis=0).reshape(-1)[:size]
    weights = source.contiguous().view(-1).numpy().view(np.int32)
    np.bitwise_and(weights, words, out=target.view(-1).numpy().view(np.int32))
