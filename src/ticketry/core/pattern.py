"""Geometry of patterns: where units lie, and a tensor seen as outputs × inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ticketry.errors import ScopeError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """A slice of a tensor.

    Attributes:
        tensor: the tensor's canonical name.
        axis: the axis that is cut, from 0.
        start: first index along it.
        stop: the index after the last.
    """

    tensor: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Unit:
    """What is kept or pruned as a whole: an attention head, a neuron of an MLP.

    Attributes:
        name: how it is called in messages.
        parts: its slices; those of one tensor are cut along one axis.
    """

    name: str
    parts: tuple[Part, ...]


def check_units(units: Sequence[Unit], shapes: Shapes) -> None:
    """Check that units lie within tensors and share no weight.

    Raises:
        ScopeError: no unit; one of no part, or called like another; a part of another tensor,
            outside its tensor or empty; two parts that share a weight.
    """
    if not units:
        raise ScopeError("no units were given; expected the model's heads or neurons.")
    names: set[str] = set()
    cuts: dict[str, list[tuple[Part, str]]] = {}
    for unit in units:
        if unit.name in names:
            raise ScopeError(f"two units are called {unit.name!r}; expected a name each.")
        names.add(unit.name)
        if not unit.parts:
            raise ScopeError(f"unit {unit.name!r} has no parts; expected at least one.")
        for part in unit.parts:
            _check_part(unit.name, part, shapes)
            cuts.setdefault(part.tensor, []).append((part, unit.name))
    for tensor, parts in cuts.items():
        if math.prod(shapes[tensor]):
            _check_disjoint(tensor, parts)


def _check_part(unit: str, part: Part, shapes: Shapes) -> None:
    if part.tensor not in shapes:
        raise ScopeError(
            f"unit {unit!r} has a part in tensor {part.tensor!r}, which is not among the "
            f"{len(shapes)} given; expected units of these tensors. Use a scope that holds it."
        )
    shape = tuple(shapes[part.tensor])
    inside = 0 <= part.axis < len(shape) and 0 <= part.start < part.stop <= shape[part.axis]
    if not inside:
        raise ScopeError(
            f"unit {unit!r} has the part [{part.start}, {part.stop}) along axis {part.axis} of "
            f"tensor {part.tensor!r}, which has shape {shape}; expected a range inside it."
        )


def _check_disjoint(tensor: str, parts: list[tuple[Part, str]]) -> None:
    ordered = sorted(parts, key=lambda cut: (cut[0].axis, cut[0].start))
    for (one, first), (two, second) in itertools.pairwise(ordered):
        if one.axis != two.axis or two.start < one.stop:  # rows and columns always cross
            raise ScopeError(
                f"units {first!r} and {second!r} share weights of tensor {tensor!r}; expected "
                "units that share none."
            )


def matrix_shape(name: str, shape: tuple[int, ...], input_axis: int = -1) -> tuple[int, int]:
    """Return a tensor's (outputs, inputs).

    Args:
        name: for the message.
        shape: [out, in] of a linear layer; [out, in, kh, kw] of a convolution, where the inputs
            are in·kh·kw; one dimension is one output.
        input_axis: -1 or 1 where the outputs come first; 0 of [in, out], as transformers'
            ``Conv1D`` stores it (two dimensions only).

    Raises:
        ScopeError: another axis.
    """
    if len(shape) < 2:
        fits = input_axis in (-1, 0)
    else:
        fits = input_axis in (-1, 1) or (input_axis == 0 and len(shape) == 2)
    if not fits:
        raise ScopeError(
            f"tensor {name!r} of shape {tuple(shape)} has input axis {input_axis}; expected -1 or "
            "1 where the outputs come first, or 0 of [in, out]."
        )
    if len(shape) < 2:
        return 1, math.prod(shape)
    if input_axis == 0:
        return shape[1], shape[0]
    return shape[0], math.prod(shape[1:])


def as_matrix(tensor: Tensor, shape: tuple[int, int], input_axis: int = -1) -> Tensor:
    """Return a tensor as [outputs, inputs], of the sizes from :func:`matrix_shape`."""
    if input_axis == 0 and tensor.ndim == 2:
        return tensor.T
    return tensor.reshape(shape)


def check_divides(
    what: str, shapes: Mapping[str, tuple[int, int]], rows: int, columns: int
) -> None:
    """Check that blocks fill every matrix.

    Raises:
        ScopeError: names the tensors whose outputs or inputs leave a rest.
    """
    odd = [
        f"{name} ({shape[0]} outputs × {shape[1]} inputs)"
        for name, shape in shapes.items()
        if shape[0] % rows or shape[1] % columns
    ]
    if odd:
        some = ", ".join(odd[:3]) + (", …" if len(odd) > 3 else "")
        needs = f"outputs divisible by {rows} and " if rows > 1 else ""
        raise ScopeError(
            f"pattern {what} does not fit {len(odd)} tensor(s): {some}; expected {needs}inputs "
            f"divisible by {columns}. Leave them out of the scope, or use another pattern."
        )
