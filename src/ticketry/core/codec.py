"""Packed mask bits <-> few bytes: a format byte, then the payload.

| byte | payload |
|---|---|
| 0 | the packed bits as they are |
| 1 | raw deflate of them with Huffman codes only |
| 2 | nothing: no weight is kept |
| 3 | nothing: every weight is kept |
| 4 | raw deflate, Huffman codes only, of the gaps between kept weights |
| 5 | the same of the gaps between pruned weights |

The bits of an unstructured mask are close to independent, so there are no repeats to find and the
least size is n·H(density)/8 bytes; Huffman codes over whole bytes come within 2% of it at densities
0.1-0.9, where searching for repeats (zstd, plain deflate) costs time and misses at 0.1. Outside,
a byte that is nearly always 0 still costs a bit; there gaps are told instead. A gap is how many of
the others stand before the next one, as a byte; 255 says 255 others and that the gap goes on.
Gaps of independent bits fall off geometrically, for which Huffman's codes are nearly as short as
can be.

Blobs come from files that strangers wrote: every size is checked before memory is taken.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from ticketry.core.mask import ones
from ticketry.errors import MaskError, TicketError

RAW, HUFFMAN, ZEROS, ONES, GAPS, GAPS_OF_PRUNED = range(6)

_GOES_ON = 255
_DENSEST_GAPS = 8
"""Gaps are told only of one in so many weights at most: then they take no more bytes than bits."""
_AT_ONCE = 1 << 20
"""Gaps that are decoded at once."""

MOST_WEIGHTS = 2**34
"""Weights in one tensor that a blob may claim (2 GiB of packed bits): the formats of no payload
would let one byte ask for any amount of memory. The largest known tensors have about 2**32."""


def encode_bits(packed: bytes, n: int) -> bytes:
    """Encode the packed bits of one tensor; the smallest format wins, the lower one in a tie.

    Args:
        packed: eight weights a byte, the first in the lowest bit, unused bits zero.
        n: how many weights.

    Raises:
        MaskError: ``packed`` is not the bits of ``n`` weights.
    """
    fault = _fault(packed, n)
    if fault:
        raise MaskError(f"these are not the packed bits of a mask: {fault}.")
    candidates = [bytes([RAW]) + packed]
    if not any(packed):
        candidates.append(bytes([ZEROS]))
    elif packed == ones(n):
        candidates.append(bytes([ONES]))
    else:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        candidates.append(bytes([HUFFMAN]) + deflate.compress(packed) + deflate.flush())
        candidates += _gap_candidates(packed, n)
    return min(candidates, key=lambda blob: (len(blob), blob[0]))


def _gap_candidates(packed: bytes, n: int) -> list[bytes]:
    kept = int.from_bytes(packed, "little").bit_count()
    rare = GAPS if kept <= n - kept else GAPS_OF_PRUNED
    if min(kept, n - kept) * _DENSEST_GAPS > n:
        return []
    bits = np.frombuffer(packed if rare == GAPS else _inverted(packed, n), dtype=np.uint8)
    gaps = np.diff(np.flatnonzero(np.unpackbits(bits, bitorder="little")), prepend=-1) - 1
    longer, last = np.divmod(gaps, _GOES_ON)
    codes = np.full(len(gaps) + int(longer.sum()), _GOES_ON, dtype=np.uint8)
    codes[np.cumsum(longer + 1) - 1] = last
    if len(codes) * _DENSEST_GAPS > n:
        return []
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return [bytes([rare]) + deflate.compress(codes.tobytes()) + deflate.flush()]


def _inverted(packed: bytes, n: int) -> bytes:
    both = np.frombuffer(packed, dtype=np.uint8) ^ np.frombuffer(ones(n), dtype=np.uint8)
    return both.tobytes()


def decode_bits(blob: bytes, n: int) -> bytes:
    """Decode the packed bits of one tensor.

    Args:
        blob: what :func:`encode_bits` returned, or anything a stranger sent.
        n: how many weights there must be; decides how much memory may be taken.

    Raises:
        TicketError: the blob is not exactly the bits of ``n`` weights.
    """
    if not 0 <= n <= MOST_WEIGHTS:
        raise TicketError(
            f"a tensor of {n:,} weights is claimed; expected 0 to {MOST_WEIGHTS:,}. "
            "The file is damaged or hostile."
        )
    if not blob:
        raise TicketError("the encoded mask is empty; expected a format byte. Fetch it again.")
    kind, payload = blob[0], blob[1:]
    if kind == RAW:
        packed = payload
    elif kind == HUFFMAN:
        packed = _inflate(payload, (n + 7) // 8)
    elif kind in (ZEROS, ONES):
        if payload:
            raise _damaged(f"{len(payload)} bytes follow a format that has none")
        return bytes((n + 7) // 8) if kind == ZEROS else ones(n)
    elif kind in (GAPS, GAPS_OF_PRUNED):
        packed = _from_gaps(_inflate(payload, n // _DENSEST_GAPS), n)
        packed = packed if kind == GAPS else _inverted(packed, n)
    else:
        raise TicketError(
            f"the encoded mask has format {kind}; this ticketry knows 0 to {GAPS_OF_PRUNED}. "
            "Update ticketry, or fetch the file again."
        )
    fault = _fault(packed, n)
    if fault:
        raise _damaged(fault)
    return packed


def _from_gaps(codes: bytes, n: int) -> bytes:
    packed = np.zeros((n + 7) // 8, dtype=np.uint8)
    if codes.endswith(bytes([_GOES_ON])):
        raise _damaged("its last gap does not end")
    place = -1
    for start in range(0, len(codes), _AT_ONCE):
        part = np.frombuffer(codes[start : start + _AT_ONCE], dtype=np.uint8)
        ends = part != _GOES_ON
        places = place + np.cumsum(part.astype(np.int64) + ends)
        place = int(places[-1])
        if place >= n:
            raise _damaged(f"its gaps lead beyond the {n} weights")
        told = places[ends]
        np.bitwise_or.at(packed, told >> 3, np.left_shift(1, told & 7).astype(np.uint8))
    return packed.tobytes()


def entropy_bytes(n: int, density: float) -> float:
    """Return n·H(density)/8: the fewest bytes that tell independent bits of this density."""
    if density in (0.0, 1.0):
        return 0.0
    bits = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    return n * bits / 8


def _inflate(payload: bytes, size: int) -> bytes:
    inflate = zlib.decompressobj(-15)
    try:
        # One byte more than expected shows an overlong stream without unpacking it.
        packed = inflate.decompress(payload, size + 1)
    except zlib.error as error:
        raise _damaged(f"its deflate stream is broken ({error})") from error
    if len(packed) > size:
        raise _damaged(f"it unpacks to more than the {size} bytes expected")
    if not inflate.eof:
        raise _damaged("its deflate stream ends too early")
    if inflate.unused_data:
        raise _damaged(f"{len(inflate.unused_data)} bytes follow its deflate stream")
    return packed


def _fault(packed: bytes, n: int) -> str | None:
    expected = (n + 7) // 8
    if len(packed) != expected:
        return f"found {len(packed)} bytes, expected {expected} for {n} weights"
    if n % 8 and packed[-1] >> (n % 8):
        return f"bits are set beyond the {n} weights"
    return None


def _damaged(fault: str) -> TicketError:
    return TicketError(f"the encoded mask is damaged: {fault}. Fetch it again.")
