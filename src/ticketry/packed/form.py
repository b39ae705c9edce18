"""The file of a packed model: one safetensors file, in which a pruned tensor stands in parts.

``NAME.mask_bits``    uint8: its axes, its sizes, its encoded mask (:mod:`ticketry.core.codec`)
``NAME.kept_values``  the kept values in row-major order
``NAME.row_scales``   bfloat16, one for each row; only with int8 values

All other tensors stand there as they are. The file's name is not one that transformers looks for:
where ticketry is missing, loading fails instead of going on with random weights.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ticketry.core.codec import MOST_WEIGHTS, decode_bits, encode_bits, entropy_bytes
from ticketry.core.mask import Mask
from ticketry.errors import InputError, PackedError, TicketError
from ticketry.models.sources import PACKED_FILE
from ticketry.packed import values as kept_values

METHOD = "ticketry"
"""The ``quant_method`` of a packed model's ``config.json``."""
FORMAT = "ticketry-packed"
VERSION = 1
MASK, VALUES, SCALES = ".mask_bits", ".kept_values", ".row_scales"
_MOST_AXES = 8
_MOST_GROWTH = 64
_ALWAYS_ALLOWED_BYTES = 256 << 20
"""Tensors kept or pruned whole take a byte each, so the size of all masks is bounded on its own."""


@dataclass(frozen=True)
class Entry:
    """What a packed file holds of one pruned tensor.

    Attributes:
        name: in the checkpoint.
        shape: of the tensor.
        kept: how many weights are kept.
        kind: of the values, one of :data:`ticketry.packed.values.KINDS`.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    kind: str

    @property
    def numel(self) -> int:
        """All of its weights."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Pruned / all weights, in [0, 1]."""
        return 1 - self.kept / max(1, self.numel)

    @property
    def entropy_bytes(self) -> float:
        """The fewest bytes for its mask, of independent bits."""
        return entropy_bytes(self.numel, self.kept / max(1, self.numel))


def metadata() -> dict[str, str]:
    """Return what stands in the file's header."""
    return {"format": "pt", "ticketry_format": FORMAT, "ticketry_version": str(VERSION)}


def pack_tensor(name: str, weight: Tensor, mask: Tensor, kind: str) -> dict[str, Tensor]:
    """Return the parts of a pruned tensor.

    Args:
        name: in the checkpoint.
        weight: any floating dtype, one axis or more.
        mask: bool of the same shape, True = kept.
        kind: of the values.

    Raises:
        PackedError: the values cannot be stored so.
    """
    shape = tuple(weight.shape)
    bits = Mask({name: mask}).packed(name)
    data = struct.pack(f"<B{len(shape)}Q", len(shape), *shape) + encode_bits(bits, mask.numel())
    values, scales = kept_values.encode(weight, mask, kind, name)
    parts = {
        name + MASK: torch.frombuffer(bytearray(data), dtype=torch.uint8),
        name + VALUES: values.contiguous(),
    }
    return parts if scales is None else {**parts, name + SCALES: scales}


def read_mask(part: Tensor, name: str, most_bytes: int) -> Tensor:
    """Return a tensor's mask, bool, True = kept.

    Args:
        part: ``NAME.mask_bits`` as a stranger may have made it.
        name: for messages.
        most_bytes: of packed bits that it may ask for.

    Raises:
        PackedError: it is damaged.
    """
    shape, bits = _read_bits(part, name, most_bytes)
    try:
        return Mask.from_packed({name: (shape, bits)})[name]
    except InputError as error:
        raise PackedError(f"{name}: {error}") from error


def _read_bits(part: Tensor, name: str, most_bytes: int) -> tuple[tuple[int, ...], bytes]:
    if part.dtype != torch.uint8 or part.dim() != 1 or not len(part):
        raise _damaged(name, f"its mask is {part.dtype} of shape {tuple(part.shape)}")
    axes = int(part[0])
    if not 1 <= axes <= _MOST_AXES or len(part) < 1 + 8 * axes:
        raise _damaged(name, f"its mask speaks of {axes} axes in {len(part)} bytes")
    data = part.numpy().tobytes()
    shape = struct.unpack_from(f"<{axes}Q", data, 1)
    # Tested one by one: the product of hostile sizes is a number of any length.
    if max(shape) > MOST_WEIGHTS or math.prod(shape) > min(MOST_WEIGHTS, 8 * most_bytes):
        raise _damaged(name, f"it claims the shape {shape}")
    try:
        return shape, decode_bits(data[1 + 8 * axes :], math.prod(shape))
    except TicketError as error:
        raise PackedError(f"{name}: {error}") from error


def unpack_tensor(mask: Tensor, values: Tensor, scales: Tensor | None, name: str) -> Tensor:
    """Return the dense float32 tensor, zero where nothing is kept.

    Args:
        mask: bool, True = kept.
        values: as stored.
        scales: of the rows, with int8 values.
        name: for messages.

    Raises:
        PackedError: the parts do not fit each other.
    """
    _check_parts(name, tuple(mask.shape), int(mask.count_nonzero()), values, scales)
    dense = torch.zeros(mask.shape)
    dense[mask] = kept_values.decode(values, scales, mask)
    return dense


def _check_parts(
    name: str, shape: tuple[int, ...], kept: int, values: Tensor, scales: Tensor | None
) -> None:
    kind = kept_values.kind_of(values)
    if tuple(values.shape) != (kept,):
        raise _damaged(name, f"its mask keeps {kept:,} weights and its values are {values.shape}")
    if (kind == kept_values.INT8) != (scales is not None):
        raise _damaged(name, f"{kind} values {'lack' if scales is None else 'have'} scales")
    if scales is not None and (
        scales.dtype != torch.bfloat16
        or tuple(scales.shape) != shape[:1]
        or not torch.isfinite(scales).all()
    ):
        raise _damaged(name, "its scales are not one finite bfloat16 number for each row")


class PackedFile:
    """An open packed file; :func:`open_packed` gives it.

    Attributes:
        path: of the file.
        keys: of all tensors in it.
        pruned: names of the tensors that stand in parts.
        most_bytes: of packed bits that each mask may ask for.
    """

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle
        found = handle.metadata() or {}
        if found.get("ticketry_format") != FORMAT:
            raise PackedError(
                f"{path} is not a packed model: its metadata lacks ticketry_format={FORMAT!r}. "
                "`ticketry pack` writes one."
            )
        if found.get("ticketry_version") != str(VERSION):
            raise PackedError(
                f"{path} has version {found.get('ticketry_version')!r}; this ticketry reads "
                f"version {VERSION}. Update ticketry, or pack the model again with this one."
            )
        self.keys = frozenset(handle.keys())
        self.pruned = tuple(sorted(k.removesuffix(MASK) for k in self.keys if k.endswith(MASK)))
        lacking = [name for name in self.pruned if name + VALUES not in self.keys]
        if lacking:
            raise _damaged(lacking[0], "it has a mask without values")
        self.most_bytes = max(_MOST_GROWTH * path.stat().st_size, _ALWAYS_ALLOWED_BYTES)

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the tensors that stand there as they are."""
        parts = {name + part for name in self.pruned for part in (MASK, VALUES, SCALES)}
        return tuple(sorted(self.keys - parts))

    def tensor(self, key: str) -> Tensor:
        """Return a stored tensor."""
        found: Tensor = self._handle.get_tensor(key)
        return found

    def parts(self, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a pruned tensor's mask as bool, its values, and its scales or None."""
        scales = self.tensor(name + SCALES) if name + SCALES in self.keys else None
        mask = read_mask(self.tensor(name + MASK), name, self.most_bytes)
        return mask, self.tensor(name + VALUES), scales

    def check(self) -> tuple[Entry, ...]:
        """Check every pruned tensor, and return what there is, in name order.

        Raises:
            PackedError: one is damaged, or the masks claim more memory than the file justifies.
        """
        entries, total = [], 0
        for name in self.pruned:
            part = self.tensor(name + MASK)
            shape, bits = _read_bits(part, name, self.most_bytes - total)
            total += len(bits)
            kept = int.from_bytes(bits, "little").bit_count()
            values = self.tensor(name + VALUES)
            scales = self.tensor(name + SCALES) if name + SCALES in self.keys else None
            _check_parts(name, shape, kept, values, scales)
            entries.append(Entry(name, shape, kept, kept_values.kind_of(values)))
        return tuple(entries)


@contextmanager
def open_packed(path: Path) -> Iterator[PackedFile]:
    """Open a packed file of any origin; tensors are read when they are asked for.

    Raises:
        PackedError: it is missing, no safetensors, or no packed model.
    """
    if not path.is_file():
        raise PackedError(f"there is no {path}; a packed model's weights lie in {PACKED_FILE}.")
    try:
        with safe_open(path, framework="pt") as handle:
            yield PackedFile(path, handle)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise PackedError(f"{path} is damaged: {error}. Fetch it again.") from error


def _damaged(name: str, why: str) -> PackedError:
    return PackedError(f"the packed tensor {name} is damaged: {why}. Fetch the model again.")
