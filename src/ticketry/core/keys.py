"""The k highest of n scores, without sorting and without a copy of the scores.

A float32 score becomes an int32 key of the same order; a first pass over the model counts the upper
16 bits of all keys, a second the lower 16 bits of those in the bin where the k-th highest lies.
That gives the exact threshold and how many keys equal to it still fit; a third pass writes the
bits. Memory: two tables of 65,536 counts and a few pieces of ``CHUNK`` weights, beside the mask.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ticketry.core.mask import Mask
from ticketry.core.pattern import Shapes
from ticketry.core.scoring import Scores

CHUNK = 32_768
"""Weights per piece: stays in a core's cache, and is the most that torch works on without waking
its other threads, whose barriers cost more than the work here."""

Keys = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Pass = Callable[[], Iterator[tuple[str, int, Keys]]]
"""Begins a pass: yields (name, first flat index, keys), tensors in name order; every pass the same.
A piece lives until the next one, and may be a view of the weights: nobody writes to it."""

EXCLUDED = np.int32(-(2**31))
"""Key of a weight that must not be kept: below that of every score, and never reached, because no
more weights are asked for than are allowed."""

_BINS = 1 << 16
_HALF = 1 << 15
_INFINITY = 0x7F80_0000


def keep_highest(keys: Pass, shapes: Shapes, count: int, allowed: Mask | None = None) -> Mask:
    """Keep the ``count`` highest keys; the caller has checked that so many are allowed.

    Args:
        keys: of the tensors in ``shapes``, in name order.
        shapes: name -> shape.
        count: how many are kept; ties go to the lower flat index, tensors in name order.
        allowed: nothing else is kept.

    Raises:
        ScoreError: as the keys are made.
    """
    if allowed is not None:
        keys = _restricted(keys, allowed)
    threshold, ties, equal = _threshold(keys, count)
    packed = {name: (shape, bytes((math.prod(shape) + 7) // 8)) for name, shape in shapes.items()}
    spare = ties
    for name, pieces in itertools.groupby(keys(), key=lambda piece: piece[0]):
        bits = bytearray(packed[name][1])
        for _, start, piece in pieces:
            if ties == equal:  # all of them fit, so none has to be told from another
                kept = piece >= threshold
            else:
                kept = piece > threshold
                if spare:
                    first = np.flatnonzero(piece == threshold)[:spare]
                    kept[first] = True
                    spare -= len(first)
            # CHUNK is a multiple of 8: a piece begins on a byte.
            data = np.packbits(kept, bitorder="little").tobytes()
            bits[start // 8 : start // 8 + len(data)] = data
        packed[name] = (shapes[name], bytes(bits))
    return Mask.from_packed(packed)


def _threshold(keys: Pass, count: int) -> tuple[np.int32, int, int]:
    """Return the ``count``-th highest key, how many keys equal to it fit, and how many there are.

    For a count of 0 no key is above the one returned, and none equal to it fits.
    """
    upper = np.zeros(_BINS, dtype=np.int64)
    for _, _, piece in keys():
        np.add.at(upper, (piece >> 16) + _HALF, 1)
    upper_bin, missing = _bin_of(upper, count)
    lower = np.zeros(_BINS, dtype=np.int64)
    for _, _, piece in keys():
        inside = piece[(piece >> 16) == upper_bin - _HALF]
        if len(inside):
            np.add.at(lower, inside & (_BINS - 1), 1)
    lower_bin, missing = _bin_of(lower, missing)
    threshold = ((upper_bin - _HALF) << 16) | lower_bin
    return np.int32(threshold), missing, int(lower[lower_bin])


def _bin_of(counts: Counts, rank: int) -> tuple[int, int]:
    """Return the bin of the ``rank``-th highest (from 1), and its rank within that bin.

    Rank 0, which nothing has, is placed in the highest bin.
    """
    from_top = np.cumsum(counts[::-1])
    position = int(np.searchsorted(from_top, rank))
    before = int(from_top[position - 1]) if position else 0
    return _BINS - 1 - position, rank - before


def _restricted(keys: Pass, allowed: Mask) -> Pass:
    """Exclude what ``allowed`` does not keep."""

    def begin() -> Iterator[tuple[str, int, Keys]]:
        out, outside = np.empty((2, CHUNK), dtype=np.int32)
        for name, start, piece in keys():
            size = len(piece)
            data = np.frombuffer(allowed.packed(name), dtype=np.uint8)[start // 8 :]
            # Arithmetic in place of np.where, which mispredicts on random bits (3x slower): where
            # `outside` is -1 rather than 0, the key becomes -1, then EXCLUDED.
            outside[:size] = np.unpackbits(data[: CHUNK // 8], count=size, bitorder="little")
            outside -= 1
            np.bitwise_or(piece, outside[:size], out=out[:size])
            outside &= ~EXCLUDED
            out ^= outside
            yield name, start, out[:size]

    return begin


# --- keys ---------------------------------------------------------------------------------------


def scored(scores: Scores, names: Shapes) -> Pass:
    """Return the keys of the scores of some tensors, computed anew by every pass."""

    def begin() -> Iterator[tuple[str, int, Keys]]:
        for name in sorted(names):
            flats = [tensor.reshape(-1) for tensor in scores.tensors(name)]
            starts = range(0, flats[0].numel(), CHUNK)  # none of an empty tensor
            cut = zip(*(torch.split(flat, CHUNK) for flat in flats), strict=True)
            for start, pieces in zip(starts, cut, strict=False):
                keys = order_keys(scores.of(name, pieces))
                if keys is None:
                    raise scores.nan_fault(name)
                yield name, start, keys

    return begin


def held(scores: Mapping[str, Tensor], names: Shapes) -> Pass:
    """Return the keys of scores that lie in memory (float32, no NaN)."""

    def begin() -> Iterator[tuple[str, int, Keys]]:
        for name in sorted(names):
            flat = scores[name].reshape(-1)
            for start in range(0, flat.numel(), CHUNK):
                keys = order_keys(flat[start : start + CHUNK])
                assert keys is not None, "held scores are checked where they are made"
                yield name, start, keys

    return begin


def order_keys(scores: Tensor) -> Keys | None:
    """Turn float32 scores into int32 keys of the same order; None if one is NaN.

    Comparing floats instead would lose denormals where the caller flushes them. −0 equals 0.
    """
    bits = scores.contiguous().view(torch.int32)
    lowest, highest = (int(end) for end in torch.aminmax(bits))
    if lowest < 0:  # a sign bit is set: −0 becomes 0, −x the negated key of x
        bits = torch.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)
        lowest, highest = (int(end) for end in torch.aminmax(bits))
    if highest > _INFINITY or lowest < -_INFINITY:
        return None
    keys: Keys = bits.numpy()
    return keys


def drawn(shapes: Shapes, generator: torch.Generator) -> Pass:
    """Draw uniform keys; every pass draws the same ones again instead of keeping them."""
    state = generator.get_state()

    def begin() -> Iterator[tuple[str, int, Keys]]:
        generator.set_state(state)
        for name in sorted(shapes):
            size = math.prod(shapes[name])
            for start in range(0, size, CHUNK):
                keys = torch.randint(
                    -(2**31),
                    2**31,
                    (min(CHUNK, size - start),),
                    dtype=torch.int32,
                    generator=generator,
                )
                yield name, start, keys.clamp_(min=int(EXCLUDED) + 1).numpy()

    return begin
