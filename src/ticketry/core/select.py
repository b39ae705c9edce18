"""Selection: which weights to keep. Exact, streaming, with a stated tie rule.

The k highest of n scores are found without sorting and without a copy of the scores. A float32
score becomes an int32 key of the same order; a first pass over the model counts the upper 16 bits
of all keys, a second the lower 16 bits of those in the bin where the k-th highest lies. That gives
the exact threshold and how many keys equal to it still fit; a third pass writes the bits. Memory:
two tables of 65,536 counts and a few pieces of ``CHUNK`` weights, beside the mask itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ticketry.core.mask import Mask, check_shapes
from ticketry.core.score import Criterion, criterion_named
from ticketry.errors import ConfigError, MaskError, ScoreError

CHUNK = 32_768
"""Weights per piece: stays in a core's cache, and is the most that torch works on without waking
its other threads, whose barriers cost more than the work here."""

Keys = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Shapes = Mapping[str, tuple[int, ...]]
Pass = Callable[[], Iterator[tuple[str, int, Keys]]]
"""Begins a pass: yields (name, first flat index, keys), tensors in name order; every pass the same.
A piece lives until the next one, and may be a view of the weights: nobody writes to it."""

_BINS = 1 << 16
_HALF = 1 << 15
_INFINITY = 0x7F80_0000
_EXCLUDED = np.int32(-(2**31))
"""Key of a weight that must not be kept: below that of every score, and never reached, because no
more weights are asked for than are allowed."""


def select_global(
    weights: Mapping[str, Tensor],
    density: float,
    *,
    within: Mask | None = None,
    criterion: str = "magnitude",
    min_layer_density: float = 0.0,
) -> Mask:
    """Keep the highest-scoring weights of all tensors together.

    Args:
        weights: name -> floating-point tensor of any shape and device; scored in float32.
        density: kept / prunable over all tensors, in [0, 1].
        within: keep only weights that this mask keeps; the result is nested in it.
        criterion: a name of :data:`ticketry.core.score.CRITERIA`.
        min_layer_density: of each tensor, the ceil(this · size) best weights are kept, whatever
            their rank among all; the rest of the total goes to the best of the others. In [0, 1].
    Returns:
        Mask with exactly round(density · n) kept (Python's ``round`` of the float product: halves
        go to the even number). Ties go to the lower flat index, tensors in name order; −0 equals 0.

    Raises:
        ScoreError: no tensors, a tensor that is not floating-point, or a score that is NaN (named).
        ConfigError: a density outside [0, 1], or a floor that the total cannot hold.
        MaskError: ``within`` is of other tensors, or keeps fewer weights than are asked for.
        UnknownNameError: an unknown criterion.

    Source: Han et al. 2015, arXiv 1506.02626, §3. Differs: global instead of per layer.
    """
    score = criterion_named(criterion)
    _check_fractions(density=density, min_layer_density=min_layer_density)
    shapes = _weight_shapes(weights)
    total = sum(math.prod(shape) for shape in shapes.values())
    count = round(density * total)
    if within is not None:
        check_shapes({name: within.shape(name) for name in within}, shapes, "within", "the weights")
        if count > within.kept:
            raise MaskError(
                f"density {density} asks for {count:,} of {total:,} weights, but within keeps "
                f"{within.kept:,}; expected at most density {within.density:g}."
            )
    if not min_layer_density:
        return _keep_highest(_scored(weights, score), shapes, count, within)
    floor = _keep_floor(weights, score, shapes, count, within, min_layer_density)
    rest = count - floor.kept
    return floor | _keep_highest(
        _scored(weights, score),
        shapes,
        rest,
        ~floor if within is None else within & ~floor,  # no name holds it: freed on return
    )


def layer_floors(shapes: Shapes, kept: int, min_layer_density: float) -> dict[str, int]:
    """Return how many weights each tensor keeps at least: its share, rounded up.

    Args:
        shapes: name -> shape.
        kept: weights that are kept in all.
        min_layer_density: as in :func:`select_global`.

    Raises:
        ConfigError: the floors add up to more than is kept in all.
    """
    # In decimal, as the user wrote it: 0.07 * 100 in floats is above 7.
    share = Decimal(repr(float(min_layer_density)))
    floors = {name: math.ceil(share * math.prod(shape)) for name, shape in shapes.items()}
    if sum(floors.values()) > kept:
        raise ConfigError(
            f"min_layer_density {min_layer_density} needs {sum(floors.values()):,} weights, but "
            f"only {kept:,} are kept in all; expected a floor below the density."
        )
    return floors


def random_global(shapes: Shapes, density: float, generator: torch.Generator) -> Mask:
    """Keep a random choice among all weights.

    Args:
        shapes: name -> shape.
        density: kept / prunable over all tensors, in [0, 1].
        generator: on the CPU; advanced by one draw per weight.
    Returns:
        Mask with exactly round(density · n) kept. Every choice of that many is equally likely, up
        to ties of random 32-bit keys at the threshold (n / 2**32 weights are expected in one).

    Raises:
        ConfigError: a density outside [0, 1].
        MaskError: no tensors.
    """
    _check_fractions(density=density)
    shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
    total = sum(math.prod(shape) for shape in shapes.values())
    return _keep_highest(_random(shapes, generator), shapes, round(density * total))


def random_layerwise(like: Mask, generator: torch.Generator) -> Mask:
    """Keep a random choice within each tensor, as many as ``like`` keeps there.

    Args:
        like: whose count per tensor is taken over.
        generator: on the CPU; advanced by one draw per weight.
    """
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name in like:
        shapes = {name: like.shape(name)}
        chosen = _keep_highest(_random(shapes, generator), shapes, like.kept_in(name))
        packed[name] = (like.shape(name), chosen.packed(name))
    return Mask.from_packed(packed)


# --- the radix selection ------------------------------------------------------------------------


def _keep_highest(keys: Pass, shapes: Shapes, count: int, allowed: Mask | None = None) -> Mask:
    """Keep the ``count`` highest keys; the caller has checked that so many are allowed."""
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
            # `outside` is -1 rather than 0, the key becomes -1, then _EXCLUDED.
            outside[:size] = np.unpackbits(data[: CHUNK // 8], count=size, bitorder="little")
            outside -= 1
            np.bitwise_or(piece, outside[:size], out=out[:size])
            outside &= ~_EXCLUDED
            out ^= outside
            yield name, start, out[:size]

    return begin


# --- keys ---------------------------------------------------------------------------------------


def _scored(weights: Mapping[str, Tensor], score: Criterion) -> Pass:
    def begin() -> Iterator[tuple[str, int, Keys]]:
        for name in sorted(weights):
            flat = weights[name].detach().reshape(-1)
            for start in range(0, flat.numel(), CHUNK):
                piece = flat[start : start + CHUNK].to("cpu", torch.float32)
                yield name, start, _order_keys(name, start, piece, score(piece))

    return begin


def _order_keys(name: str, start: int, piece: Tensor, scores: Tensor) -> Keys:
    """Turn float32 scores into int32 keys of the same order (comparing floats instead would lose
    denormals where the caller flushes them)."""
    if scores.shape != piece.shape or scores.dtype != torch.float32:
        raise ScoreError(
            f"the criterion gave scores of shape {tuple(scores.shape)} and dtype {scores.dtype} "
            f"for a piece of tensor {name!r}; expected {tuple(piece.shape)} and torch.float32."
        )
    bits = scores.contiguous().view(torch.int32)
    lowest, highest = (int(end) for end in torch.aminmax(bits))
    if lowest < 0:  # a sign bit is set: −0 becomes 0, −x the negated key of x
        bits = torch.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)
        lowest, highest = (int(end) for end in torch.aminmax(bits))
    if highest > _INFINITY or lowest < -_INFINITY:
        index = start + int(torch.isnan(scores).nonzero()[0])
        raise ScoreError(
            f"tensor {name!r} has a score that is NaN (first at flat index {index}); expected "
            "numbers. A training that diverged leaves such weights: lower its learning rate."
        )
    keys: Keys = bits.numpy()
    return keys


def _random(shapes: Shapes, generator: torch.Generator) -> Pass:
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
                yield name, start, keys.numpy()

    return begin


# --- checks and floors --------------------------------------------------------------------------


def _keep_floor(
    weights: Mapping[str, Tensor],
    score: Criterion,
    shapes: Shapes,
    count: int,
    within: Mask | None,
    min_layer_density: float,
) -> Mask:
    """Keep the best ceil(min_layer_density · size) weights of each tensor."""
    floors = layer_floors(shapes, count, min_layer_density)
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name, shape in shapes.items():
        allowed = None
        if within is not None:
            allowed = Mask.from_packed({name: (shape, within.packed(name))})
            if floors[name] > allowed.kept:
                raise MaskError(
                    f"min_layer_density {min_layer_density} needs {floors[name]:,} weights of "
                    f"tensor {name!r}, but within keeps {allowed.kept:,} there; expected the same "
                    "floor when within was selected."
                )
        one = {name: shape}
        keys = _scored({name: weights[name]}, score)
        packed[name] = (shape, _keep_highest(keys, one, floors[name], allowed).packed(name))
    return Mask.from_packed(packed)


def _weight_shapes(weights: Mapping[str, Tensor]) -> Shapes:
    if not weights:
        raise ScoreError("no tensors were given to select from; expected at least one.")
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise ScoreError(
                f"tensor {name!r} has dtype {str(tensor.dtype).removeprefix('torch.')}; expected "
                "floating-point weights. Leave it out of the scope."
            )
    return {name: tuple(weights[name].shape) for name in sorted(weights)}


def _check_fractions(**fractions: float) -> None:
    faults = [
        f"{name} is {value}; expected a number in [0, 1]."
        for name, value in fractions.items()
        if not 0 <= value <= 1  # also catches NaN
    ]
    if faults:
        raise ConfigError(faults)
