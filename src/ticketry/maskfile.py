"""A mask as one safetensors file: a tensor of encoded bytes for each masked tensor.

Metadata: ``format`` = "ticketry-mask", ``version``, ``shapes`` (JSON: name -> shape) and ``digest``
(SHA-256 over the decoded bits, names and shapes). Encodings: :mod:`ticketry.core.codec`.
"""

from __future__ import annotations

import json
import math

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from ticketry.core.codec import GAPS, decode_bits, encode_bits
from ticketry.core.mask import Mask
from ticketry.errors import MaskError, TicketError

FORMAT = "ticketry-mask"
VERSIONS = ("1", "2")
"""The second has gaps (:data:`ticketry.core.codec.GAPS`); a mask without them is of the first."""
_MOST_GROWTH = 64
_ALWAYS_ALLOWED_BYTES = 256 << 20
"""Tensors kept or pruned whole take a byte each, so the decoded size is bounded on its own."""


def dump_mask(mask: Mask) -> bytes:
    """Encode a mask; equal masks give equal bytes."""
    blobs = {
        name: np.frombuffer(
            encode_bits(mask.packed(name), math.prod(mask.shape(name))), dtype=np.uint8
        )
        for name in mask
    }
    shapes = {name: list(mask.shape(name)) for name in mask}
    metadata = {
        "format": FORMAT,
        "version": VERSIONS[any(int(blob[0]) >= GAPS for blob in blobs.values())],
        "shapes": json.dumps(shapes, sort_keys=True, separators=(",", ":")),
        "digest": mask.digest(),
    }
    return _sorted_header(save(blobs, metadata=metadata))


def _sorted_header(data: bytes) -> bytes:
    """Sort the metadata of a safetensors file, whose order the library leaves to chance."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_mask(data: bytes, *, what: str = "the mask file") -> Mask:
    """Decode a mask and check its digest.

    Args:
        data: the file's bytes.
        what: the file, for messages.

    Raises:
        TicketError: it is a pickle, damaged, of another version, or its bits do not fit its hash.
    """
    if is_pickle(data):
        raise TicketError(
            f"{what} is a pickle or zip archive, not safetensors; it was not opened. "
            "Ask its author for a ticket saved with `ticket.save_pretrained`."
        )
    metadata = _metadata(data, what)
    if metadata.get("format") != FORMAT:
        raise TicketError(
            f"{what} is a safetensors file, but not a ticketry mask: its metadata lacks "
            f"format={FORMAT!r}."
        )
    if metadata.get("version") not in VERSIONS:
        raise TicketError(
            f"{what} has mask version {metadata.get('version')!r}; this ticketry reads versions "
            f"{' and '.join(VERSIONS)}. Update ticketry, or save the ticket again with this one."
        )
    try:
        entries = {name: bytes(entry["data"]) for name, entry in deserialize(data)}
        shapes = json.loads(metadata["shapes"])
        sizes = {name: _checked_shape(name, shapes[name], what) for name in shapes}
        stated = metadata["digest"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TicketError(f"{what} is damaged: {error}.") from error
    size = sum((math.prod(shape) + 7) // 8 for shape in sizes.values())
    if size > max(_MOST_GROWTH * len(data), _ALWAYS_ALLOWED_BYTES):
        raise TicketError(
            f"{what} claims {size:,} bytes of mask in a file of {len(data):,}; that is refused."
        )
    if set(entries) != set(sizes):
        differing = sorted(set(entries) ^ set(sizes))[:3]
        raise TicketError(f"{what} is damaged: shapes and tensors differ in {differing}.")
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name, shape in sizes.items():
        try:
            packed[name] = (shape, decode_bits(entries[name], math.prod(shape)))
        except TicketError as error:
            raise TicketError(f"{what}, tensor {name!r}: {error}") from error
    try:
        mask = Mask.from_packed(packed)
    except MaskError as error:
        raise TicketError(f"{what} is damaged: {error}") from error
    if mask.digest() != stated:
        raise TicketError(
            f"{what} is damaged: its bits hash to {mask.digest()[:12]}…, the file says "
            f"{str(stated)[:12]}…. Fetch it again."
        )
    return mask


def is_pickle(data: bytes) -> bool:
    """Say whether bytes are a pickle, or the zip archive that ``torch.save`` writes.

    A safetensors file begins with its header's length, which may happen to look like a pickle's
    first byte, so the brace that follows decides.
    """
    looks = (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05") or data[:2] == b"PK"
    return looks and data[8:9] != b"{"


def _metadata(data: bytes, what: str) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise TicketError(f"{what} is damaged: its header is longer than the file ({len(data)} B).")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise TicketError(f"{what} is damaged: its header is not JSON.") from error
    return metadata if isinstance(metadata, dict) else {}


def _checked_shape(name: str, shape: object, what: str) -> tuple[int, ...]:
    if not (
        isinstance(shape, list)
        and 0 < len(shape) <= 8
        and all(type(size) is int and 0 <= size < 2**40 for size in shape)
    ):
        raise TicketError(f"{what}: tensor {name!r} has no valid shape: {str(shape)[:60]}.")
    return tuple(shape)
