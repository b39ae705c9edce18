"""Patterns: weights become groups, blocks or units, and what is chosen among them a mask again.

Scores of blocks and units are held in memory (float32, one each); a mask is unpacked one tensor at
a time. Sums are taken in float64 by numpy, in one order whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ticketry.combination import Blocks, Groups
from ticketry.core import keys as keying
from ticketry.core.keys import EXCLUDED, Keys
from ticketry.core.mask import Mask
from ticketry.core.pattern import Part, Shapes, Unit, as_matrix, check_divides, matrix_shape
from ticketry.core.scoring import Scores
from ticketry.errors import MaskError, ScoreError

InputAxes = Mapping[str, int]


class Matrices:
    """Tensors seen as outputs × inputs.

    Args:
        shapes: name -> shape.
        input_axes: name -> axis of the inputs, where it is not the last; see
            :func:`ticketry.core.pattern.matrix_shape`.

    Raises:
        ScopeError: an axis that a tensor cannot have.
    """

    def __init__(self, shapes: Shapes, input_axes: InputAxes | None) -> None:
        self._shapes = shapes
        self._axes = {name: (input_axes or {}).get(name, -1) for name in shapes}
        self.sizes = {name: matrix_shape(name, shapes[name], self._axes[name]) for name in shapes}

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor as [outputs, inputs]."""
        return as_matrix(tensor, self.sizes[name], self._axes[name])

    def stored(self, name: str, matrix: Tensor) -> Tensor:
        """Return [outputs, inputs] as the tensor is stored."""
        if self._axes[name] == 0 and len(self._shapes[name]) == 2:
            return matrix.T
        return matrix.reshape(self._shapes[name])

    def bands(self, name: str, rows: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) outputs of bands: a multiple of ``rows``, about a piece each."""
        outputs, inputs = self.sizes[name]
        height = max(1, keying.CHUNK // max(1, inputs * rows)) * rows
        for start in range(0, outputs if inputs else 0, height):
            yield start, min(start + height, outputs)


# --- N:M ----------------------------------------------------------------------------------------


def keep_groups(
    scores: Scores | torch.Generator,
    matrices: Matrices,
    names: Sequence[str],
    pattern: Groups,
    within: Mask | None,
) -> Mask:
    """Keep the N best of every M consecutive inputs of every output.

    Args:
        scores: what ranks, or a generator to draw from.
        matrices: of tensors whose inputs are divisible by M.
        names: the tensors, in order.
        pattern: N and M.
        within: keep only what this mask keeps.
    Returns:
        Mask with exactly N kept of each group; ties go to the lower input.

    Raises:
        MaskError: ``within`` keeps fewer than N of a group.
        ScoreError: a score is NaN.
    """

    def bits(name: str) -> Tensor:
        outputs, inputs = matrices.sizes[name]
        kept = torch.zeros(outputs, inputs, dtype=torch.bool)
        allowed = None if within is None else matrices.view(name, within[name])
        for start, stop in matrices.bands(name, 1):
            ranks = _band_keys(scores, matrices, name, start, stop).reshape(-1, pattern.size)
            if allowed is not None:
                inside = allowed[start:stop].reshape(-1, pattern.size).numpy()
                _check_groups(name, inside, pattern, start, inputs)
                ranks = np.where(inside, ranks, EXCLUDED)
            # ~ turns the order without the overflow of −: the stable sort is then the tie rule.
            best = np.argsort(~ranks, axis=1, kind="stable")[:, : pattern.keep]
            chosen = np.zeros(ranks.shape, dtype=bool)
            np.put_along_axis(chosen, best, True, axis=1)
            kept[start:stop] = torch.from_numpy(chosen).reshape(stop - start, inputs)
        return matrices.stored(name, kept)

    return _packed_one_by_one(names, bits)


def _band_keys(
    scores: Scores | torch.Generator, matrices: Matrices, name: str, start: int, stop: int
) -> Keys:
    if isinstance(scores, torch.Generator):
        shapes = {name: ((stop - start) * matrices.sizes[name][1],)}
        drawn = [piece.copy() for _, _, piece in keying.drawn(shapes, scores)()]
        return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int32)
    ranks = keying.order_keys(_band_scores(scores, matrices, name, start, stop))
    if ranks is None:
        raise scores.nan_fault(name)
    return ranks


def _band_scores(scores: Scores, matrices: Matrices, name: str, start: int, stop: int) -> Tensor:
    views = [matrices.view(name, tensor) for tensor in scores.tensors(name)]
    return scores.of(name, [view[start:stop].reshape(-1) for view in views])


def _check_groups(
    name: str, inside: np.typing.NDArray[np.bool_], pattern: Groups, start: int, inputs: int
) -> None:
    counts = inside.sum(axis=1)
    short = np.flatnonzero(counts < pattern.keep)
    if len(short):
        group = int(short[0])
        row, column = divmod(group * pattern.size, inputs)
        raise MaskError(
            f"pattern {pattern.keep}:{pattern.size} keeps {pattern.keep} weights of each group, "
            f"but within keeps {int(counts[group])} of tensor {name!r} at output {start + row}, "
            f"inputs {column} to {column + pattern.size - 1}; expected a mask that leaves enough."
        )


# --- blocks -------------------------------------------------------------------------------------


def block_shapes(matrices: Matrices, pattern: Blocks) -> dict[str, tuple[int, int]]:
    """Return name -> how many blocks down and across.

    Raises:
        ScopeError: blocks that do not fill a tensor.
    """
    check_divides(
        f"{pattern.rows}x{pattern.columns}", matrices.sizes, pattern.rows, pattern.columns
    )
    return {
        name: (outputs // pattern.rows, inputs // pattern.columns)
        for name, (outputs, inputs) in matrices.sizes.items()
    }


def block_scores(
    scores: Scores, matrices: Matrices, shapes: Mapping[str, tuple[int, int]], pattern: Blocks
) -> dict[str, Tensor]:
    """Return name -> float32 mean of the members' scores of each block.

    Raises:
        ScoreError: a score is NaN, or a block has infinite ones of both signs.
    """
    means: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        found = np.empty(shape, dtype=np.float32)
        for start, stop in matrices.bands(name, pattern.rows):
            band = _band_scores(scores, matrices, name, start, stop).numpy()
            if np.isnan(band).any():
                raise scores.nan_fault(name)
            split = band.reshape(-1, pattern.rows, shape[1], pattern.columns)
            with np.errstate(invalid="ignore", over="ignore"):
                rows = split.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
            if np.isnan(rows).any():
                raise _no_mean(f"a block of tensor {name!r}")
            found[start // pattern.rows : stop // pattern.rows] = rows
        means[name] = torch.from_numpy(found)
    return means


def whole_blocks(within: Mask, matrices: Matrices, pattern: Blocks) -> Mask:
    """Return which blocks a mask keeps entirely."""
    kept: dict[str, Tensor] = {}
    for name in within:
        outputs, inputs = matrices.sizes[name]
        grid = (outputs // pattern.rows, pattern.rows, inputs // pattern.columns, pattern.columns)
        kept[name] = matrices.view(name, within[name]).reshape(grid).all(dim=3).all(dim=1)
    return Mask(kept)


def spread_blocks(blocks: Mask, matrices: Matrices, pattern: Blocks) -> Mask:
    """Return the mask of weights that keeps the members of the kept blocks."""
    return _packed_one_by_one(
        blocks,
        lambda name: matrices.stored(
            name,
            blocks[name]
            .repeat_interleave(pattern.rows, dim=0)
            .repeat_interleave(pattern.columns, dim=1),
        ),
    )


# --- units --------------------------------------------------------------------------------------


def unit_groups(units: Sequence[Unit]) -> dict[str, tuple[list[int], tuple[str, ...]]]:
    """Sort units into those that lie in the same tensors, such as the heads of one layer.

    Units that share a tensor are of one group, and so are those that a third one joins.

    Returns:
        The group's first tensor -> (indices of its units, all its tensors), in name order.
    """
    owner: dict[str, str] = {}

    def root(tensor: str) -> str:
        while owner.setdefault(tensor, tensor) != tensor:
            tensor = owner[tensor]
        return tensor

    for unit in units:
        roots = sorted({root(part.tensor) for part in unit.parts})
        for other in roots[1:]:
            owner[other] = roots[0]
    members: dict[str, list[str]] = {}
    for tensor in sorted(owner):
        members.setdefault(root(tensor), []).append(tensor)
    indices: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        indices.setdefault(root(unit.parts[0].tensor), []).append(index)
    return {name: (indices[name], tuple(members[name])) for name in sorted(indices)}


def unit_scores(scores: Scores, units: Sequence[Unit]) -> Tensor:
    """Return the float32 mean of the members' scores of each unit.

    Raises:
        ScoreError: a score is NaN, or a unit has infinite ones of both signs.
    """
    means = torch.empty(len(units), dtype=torch.float32)
    for index, unit in enumerate(units):
        total, size = 0.0, 0
        for part in unit.parts:
            cut = [_cut(tensor, part) for tensor in scores.tensors(part.tensor)]
            found = scores.of(part.tensor, [piece.reshape(-1) for piece in cut]).numpy()
            if np.isnan(found).any():
                raise scores.nan_fault(part.tensor)
            with np.errstate(invalid="ignore"):
                total += float(found.sum(dtype=np.float64))
            size += found.size
        if math.isnan(total):
            raise _no_mean(f"unit {unit.name!r}")
        means[index] = total / max(size, 1)
    return means


def whole_units(within: Mask, units: Sequence[Unit]) -> list[bool]:
    """Return which units a mask keeps entirely."""
    parts: dict[str, list[tuple[int, Part]]] = {}
    for index, unit in enumerate(units):
        for part in unit.parts:
            parts.setdefault(part.tensor, []).append((index, part))
    whole = [True] * len(units)
    for name, cuts in parts.items():
        tensor = within[name]
        for index, part in cuts:
            whole[index] = whole[index] and bool(_cut(tensor, part).all())
    return whole


def spread_units(
    kept: Sequence[bool], units: Sequence[Unit], shapes: Shapes, within: Mask | None
) -> Mask:
    """Return the mask that prunes the other units' members.

    Weights outside every unit are kept, as far as ``within`` keeps them.
    """
    pruned: dict[str, list[Part]] = {name: [] for name in shapes}
    for unit, keep in zip(units, kept, strict=True):
        if not keep:
            for part in unit.parts:
                pruned[part.tensor].append(part)
    start = Mask.full(shapes) if within is None else within

    def bits(name: str) -> Tensor:
        tensor = start[name]
        for part in pruned[name]:
            _cut(tensor, part).fill_(False)
        return tensor

    return _packed_one_by_one(start, bits)


def _cut(tensor: Tensor, part: Part) -> Tensor:
    return tensor.narrow(part.axis, part.start, part.stop - part.start)


# --- both ---------------------------------------------------------------------------------------


def _packed_one_by_one(names: Iterable[str], bits: Callable[[str], Tensor]) -> Mask:
    """Build a mask with one tensor unpacked at a time."""
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name in names:
        one = Mask({name: bits(name)})
        packed[name] = (one.shape(name), one.packed(name))
    return Mask.from_packed(packed)


def _no_mean(what: str) -> ScoreError:
    return ScoreError(
        f"{what} has infinite scores of both signs, which have no mean; expected finite scores. "
        "Weights or statistics this large come of a training that diverged."
    )
