"""Masks: which weights of a model are kept. Immutable, and outside the module they speak of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ticketry.errors import MaskError

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LayerCount:
    """How much of one tensor is kept.

    Attributes:
        name: the tensor's canonical name.
        shape: its shape.
        kept: weights that the mask keeps.
        prunable: weights in the tensor.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    prunable: int

    @property
    def density(self) -> float:
        """Return kept / prunable, in [0, 1]; 1 for a tensor without weights."""
        return self.kept / self.prunable if self.prunable else 1.0


@dataclass(frozen=True)
class Overlap:
    """How much two masks agree, beside what chance gives.

    Attributes:
        kept_iou: |both keep| / |either keeps|, in [0, 1]; 1 when neither keeps anything.
        pruned_iou: the same of the pruned weights.
        kept_expected: the ratio of expectations for two independent random masks that have, tensor
            by tensor, the densities of these two. Agreement below or near it says nothing.
        pruned_expected: the same of the pruned weights.
    """

    kept_iou: float
    pruned_iou: float
    kept_expected: float
    pruned_expected: float


class Mask(Mapping[str, Tensor]):
    """An immutable mapping of tensor names to bool tensors, True = kept.

    Bits are stored packed (1/32 of float32 weights) in ``bytes``, so no holder of a mask can edit
    it; ``mask[name]`` is a fresh tensor each time. Names iterate in sorted order. Masks compare and
    hash by :meth:`digest`.

    Args:
        tensors: name -> bool tensor, True = kept; at least one.

    Raises:
        MaskError: no tensor was given, or one is not bool.
    """

    __slots__ = ("_digest", "_kept", "_packed", "_shapes")

    _packed: Mapping[str, bytes]
    _shapes: Mapping[str, tuple[int, ...]]
    _kept: Mapping[str, int]
    _digest: str

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise MaskError(
                    f"mask tensor {name!r} has dtype {_dtype(tensor)}; expected bool, "
                    "True = kept. Convert it, for example with `tensor != 0`."
                )
            flat = tensor.detach().cpu().reshape(-1).numpy()
            bits = np.packbits(flat, bitorder="little").tobytes()
            packed[name] = (tuple(tensor.shape), bits)
        self._store(packed)

    @classmethod
    def from_packed(cls, packed: Mapping[str, tuple[tuple[int, ...], bytes]]) -> Mask:
        """Build a mask from packed bits, as :meth:`packed` gives them.

        Args:
            packed: name -> (shape, bits): eight weights a byte, the first in the lowest bit; unused
                bits of the last byte are zero.

        Raises:
            MaskError: no tensor, an invalid shape, a wrong number of bytes, or unused bits set.
        """
        mask = cls.__new__(cls)
        mask._store(packed)
        return mask

    @classmethod
    def full(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mask:
        """Return the mask that keeps every weight of ``shapes``.

        Raises:
            MaskError: no tensor, or an invalid shape.
        """
        return cls.from_packed(
            {
                name: (tuple(shape), ones(_numel(name, tuple(shape))))
                for name, shape in shapes.items()
            }
        )

    def _store(self, packed: Mapping[str, tuple[tuple[int, ...], bytes]]) -> None:
        if not packed:
            raise MaskError("a mask of no tensors was asked for; expected at least one.")
        bits: dict[str, bytes] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        kept: dict[str, int] = {}
        for name in sorted(packed):
            shape, data = packed[name]
            shapes[name] = tuple(shape)
            bits[name] = bytes(data)  # a no-op for bytes; freezes a bytearray
            _check_bits(name, shapes[name], bits[name])
            kept[name] = int(np.bitwise_count(_array(bits[name])).sum(dtype=np.int64))
        hasher = hashlib.sha256()
        for name, data in bits.items():
            # JSON holds no raw newline and the shape fixes the number of bytes: unambiguous.
            hasher.update(json.dumps([name, list(shapes[name])]).encode("ascii") + b"\n")
            hasher.update(data)
        set_ = object.__setattr__
        set_(self, "_packed", MappingProxyType(bits))
        set_(self, "_shapes", MappingProxyType(shapes))
        set_(self, "_kept", MappingProxyType(kept))
        set_(self, "_digest", hasher.hexdigest())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Mask is immutable: {name!r} cannot be set; build another mask.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Mask is immutable: {name!r} cannot be deleted.")

    def __reduce__(
        self,
    ) -> tuple[Callable[..., Mask], tuple[dict[str, tuple[tuple[int, ...], bytes]]]]:
        return Mask.from_packed, (
            {name: (self._shapes[name], self._packed[name]) for name in self},
        )

    # --- mapping ---------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        size = math.prod(self._shapes[name])
        bits = np.unpackbits(_array(self._packed[name]), count=size, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_)).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, name: object) -> bool:
        return name in self._packed  # Mapping's own would unpack the tensor

    def __eq__(self, other: object) -> bool:
        return self._digest == other._digest if isinstance(other, Mask) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return (
            f"Mask({len(self)} tensors, {self.kept:,} of {self.prunable:,} kept, "
            f"sparsity {self.sparsity:.2%}, {self._digest[:12]})"
        )

    # --- counts ----------------------------------------------------------------------------------

    def packed(self, name: str) -> bytes:
        """Return a tensor's bits, eight a byte, the first weight in the lowest bit."""
        return self._packed[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._shapes[name]

    def kept_in(self, name: str) -> int:
        """Return how many weights of a tensor are kept."""
        return self._kept[name]

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(self._kept.values())

    @property
    def prunable(self) -> int:
        """How many weights the mask speaks of."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    @property
    def pruned(self) -> int:
        """How many weights are pruned."""
        return self.prunable - self.kept

    @property
    def density(self) -> float:
        """Kept / prunable, in [0, 1]; 1 when there is no weight at all."""
        return self.kept / self.prunable if self.prunable else 1.0

    @property
    def sparsity(self) -> float:
        """Pruned / prunable, in [0, 1]."""
        return self.pruned / self.prunable if self.prunable else 0.0

    def layers(self) -> tuple[LayerCount, ...]:
        """Return what is kept of each tensor, in name order."""
        return tuple(
            LayerCount(name, shape, self._kept[name], math.prod(shape))
            for name, shape in self._shapes.items()
        )

    def empty_layers(self) -> tuple[str, ...]:
        """Return the names of the tensors with weights of which none is kept."""
        return tuple(row.name for row in self.layers() if row.prunable and not row.kept)

    def digest(self) -> str:
        """Return the SHA-256 (hex) over the names, shapes and bits, in name order."""
        return self._digest

    # --- set algebra -----------------------------------------------------------------------------

    def __and__(self, other: Mask) -> Mask:
        return self._combine(other, np.bitwise_and)

    def __or__(self, other: Mask) -> Mask:
        return self._combine(other, np.bitwise_or)

    def __invert__(self) -> Mask:
        everything = ((name, _array(ones(math.prod(self._shapes[name])))) for name in self)
        return Mask.from_packed(  # by xor, which leaves the unused bits zero
            {
                name: (self._shapes[name], (_array(self._packed[name]) ^ full).tobytes())
                for name, full in everything
            }
        )

    def is_subset_of(self, other: Mask) -> bool:
        """Say whether every weight that this mask keeps is kept by ``other`` (nesting).

        Raises:
            MaskError: the masks are of different tensors.
        """
        self._check_same_tensors(other)
        return not any(
            np.any(_array(self._packed[name]) & ~_array(other._packed[name])) for name in self
        )

    def overlap(self, other: Mask) -> Overlap:
        """Measure how much two masks agree, beside what chance gives at these densities.

        Raises:
            MaskError: the masks are of different tensors.
        """
        both = (self & other).kept
        either = self.kept + other.kept - both
        both_expected = sum(
            row.kept * other._kept[row.name] / row.prunable for row in self.layers() if row.prunable
        )
        either_expected = self.kept + other.kept - both_expected
        return Overlap(
            kept_iou=_ratio(both, either),
            pruned_iou=_ratio(self.prunable - either, self.prunable - both),
            kept_expected=_ratio(both_expected, either_expected),
            pruned_expected=_ratio(self.prunable - either_expected, self.prunable - both_expected),
        )

    def _combine(self, other: Mask, operation: Callable[[Bits, Bits], Bits]) -> Mask:
        if not isinstance(other, Mask):
            return NotImplemented
        self._check_same_tensors(other)
        return Mask.from_packed(
            {
                name: (
                    self._shapes[name],
                    operation(_array(self._packed[name]), _array(other._packed[name])).tobytes(),
                )
                for name in self
            }
        )

    def _check_same_tensors(self, other: Mask) -> None:
        check_shapes(other._shapes, self._shapes, "the other mask", "this mask")


def check_shapes(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    found_in: str,
    expected_in: str,
) -> None:
    """Check that two sets of named shapes are the same.

    Raises:
        MaskError: names the first tensors that one side lacks, or the first shape that differs.
    """
    for names, lacking_in in (
        (expected.keys() - found.keys(), found_in),
        (found.keys() - expected.keys(), expected_in),
    ):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            raise MaskError(
                f"{lacking_in} lacks {len(names)} tensor(s): {some}; expected {found_in} and "
                f"{expected_in} to be of the same tensors. Use one scope for both."
            )
    for name in sorted(expected):
        if tuple(found[name]) != tuple(expected[name]):
            raise MaskError(
                f"tensor {name!r} has shape {tuple(found[name])} in {found_in} and "
                f"{tuple(expected[name])} in {expected_in}; expected the same base model in both."
            )


def ones(count: int) -> bytes:
    """Return ``count`` set bits, packed; the unused bits of the last byte are zero."""
    whole, rest = divmod(count, 8)
    return b"\xff" * whole + (bytes([(1 << rest) - 1]) if rest else b"")


def _array(data: bytes) -> Bits:
    return np.frombuffer(data, dtype=np.uint8)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _numel(name: str, shape: tuple[int, ...]) -> int:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise MaskError(
            f"mask tensor {name!r} has shape {shape}; expected whole numbers of 0 and more."
        )
    return math.prod(shape)


def _check_bits(name: str, shape: tuple[int, ...], data: bytes) -> None:
    size = _numel(name, shape)
    expected = (size + 7) // 8
    if len(data) != expected:
        raise MaskError(
            f"mask tensor {name!r} of shape {shape} has {len(data)} bytes of bits; "
            f"expected {expected}."
        )
    if size % 8 and data[-1] >> (size % 8):
        raise MaskError(
            f"mask tensor {name!r} of shape {shape} has bits set beyond its {size} weights; "
            "expected zeros there. The bits are damaged or belong to another shape."
        )
