"""Packed mask bits <-> few bytes: a format byte, then the payload.

| byte | payload |
|---|---|
| 0 | the packed bits as they are |
| 1 | raw deflate of them with Huffman codes only |
| 2 | nothing: no weight is kept |
| 3 | nothing: every weight is kept |

The bits of an unstructured mask are close to independent, so there are no repeats to find and the
least size is n·H(density)/8 bytes; Huffman codes over whole bytes come within 2% of it at densities
0.1-0.9, where searching for repeats (zstd, plain deflate) costs time and misses at 0.1.

Blobs come from files that strangers wrote: every size is checked before memory is taken.
"""

from __future__ import annotations

import math
import zlib

from ticketry.core.mask import ones
from ticketry.errors import MaskError, TicketError

RAW, HUFFMAN, ZEROS, ONES = range(4)

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
    return min(candidates, key=len)


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
    else:
        raise TicketError(
            f"the encoded mask has format {kind}; this ticketry knows 0 to {ONES}. "
            "Update ticketry, or fetch the file again."
        )
    fault = _fault(packed, n)
    if fault:
        raise _damaged(fault)
    return packed


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
