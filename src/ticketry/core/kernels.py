"""Kernels that a mask empties: the trailing axes of a weight, such as a convolution's windows.

A weight of shape [outputs, inputs, …] has a kernel for each output and input: the weights along all
further axes. It is zero where the mask keeps none of them. Weights of two axes, and kernels of a
single weight (1 × 1), are left out: there a zero kernel is a pruned weight.

Chance is a random mask with the tensor's own density: of n weights k are kept, so a kernel of s is
zero with probability C(n − s, k) / C(n, k) = Π (n − k − i) / (n − i) over i < s.

Source: arXiv 2012.06908, Figure 7 (zero kernels, a map of them). Differs: chance beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ticketry.core.mask import Mask
from ticketry.errors import MaskError

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KernelCount:
    """One tensor's kernels.

    Attributes:
        name: of the tensor.
        kernels: how many there are, outputs × inputs.
        size: weights of one.
        zero: kernels of which nothing is kept.
        zero_expected: of a random mask with this tensor's density.
        empty_outputs: outputs all of whose kernels are zero.
    """

    name: str
    kernels: int
    size: int
    zero: int
    zero_expected: float
    empty_outputs: int


def has_kernels(shape: tuple[int, ...]) -> bool:
    """Say whether a tensor of that shape has kernels of more than one weight."""
    return len(shape) > 2 and math.prod(shape[2:]) > 1


def kernel_counts(mask: Mask) -> tuple[KernelCount, ...]:
    """Count the kernels of each tensor that has any, in name order."""
    found = []
    for row in mask.layers():
        shape = mask.shape(row.name)
        if not has_kernels(shape):
            continue
        kept = kept_by_kernel(mask, row.name)
        size = math.prod(shape[2:])
        zero = int((kept == 0).sum())
        chance = _chance_of_zero(row.prunable, row.kept, size) if row.prunable else 0.0
        found.append(
            KernelCount(
                row.name,
                kept.size,
                size,
                zero,
                kept.size * chance,
                int((kept == 0).all(axis=1).sum()) if shape[1] else 0,
            )
        )
    return tuple(found)


def kept_by_kernel(mask: Mask, name: str) -> Counts:
    """Return how many weights of each kernel are kept: [outputs, inputs].

    Raises:
        MaskError: the mask has no such tensor, or its shape has no kernels.
    """
    if name not in mask or not has_kernels(mask.shape(name)):
        raise MaskError(
            f"{name!r} has no kernels; expected a tensor of the mask with three axes or more, "
            "such as a convolution's weight."
        )
    outputs, inputs, *window = mask.shape(name)
    count = outputs * inputs * math.prod(window)
    bits = np.unpackbits(
        np.frombuffer(mask.packed(name), dtype=np.uint8), count=count, bitorder="little"
    )
    kept: Counts = bits.reshape(outputs, inputs, math.prod(window)).sum(axis=2, dtype=np.int64)
    return kept


def _chance_of_zero(n: int, kept: int, size: int) -> float:
    return math.prod(max(n - kept - i, 0) / (n - i) for i in range(size))
