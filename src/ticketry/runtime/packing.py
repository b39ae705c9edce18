"""The packed form of a sparse matrix, which the kernels in ``native/`` read.

One uint8 tensor: header, cells, groups, scales, values, columns, rows. The matrix is cut into
panels of at most 256 rows and blocks of at most 256 columns; a cell is one block of one panel.
Blocks, so that the activations of a block stay near while all rows use them. In a cell the rows
are sorted by how many weights they keep: the inner loop then runs equally often for many rows in
turn, and the processor foresees its end. Row and column numbers are single bytes that count within
the cell.

Values are float32, or bfloat16, or int8 with a float32 scale for each row of the matrix; sums are
float32 in any case. No kept weight is added or left out, and none is multiplied but by its own
activations, so NaN and inf behave as in the dense product over the kept weights.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from ticketry.errors import PackedError, unknown_name

MAGIC = 0x50534B54
VERSION = 2
MOST = 256
"""Rows of a panel and columns of a block, at most."""
BLOCK = 192
PANEL = 256
VALUES = {"fp32": 0, "bf16": 1, "int8": 2}
"""How values are stored -> its number in the header."""

_HEADER = struct.Struct("<6I5q")
_CELL_BYTES = 16
_GROUP_BYTES = 4
_VALUE_BYTES = (4, 2, 1)
_STEPS = 127  # of int8, on each side of zero


@dataclass(frozen=True)
class Parts:
    """A packed matrix, taken apart and checked.

    Attributes:
        rows: of the matrix.
        columns: of the matrix.
        row: of each kept weight, int64, as packed.
        column: of each kept weight, int64.
        value: of each kept weight, float32, with its scale.
        values: how it is stored, one of :data:`VALUES`.
    """

    rows: int
    columns: int
    row: Tensor
    column: Tensor
    value: Tensor
    values: str


def pack(
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    values: str = "fp32",
    block: int = BLOCK,
    panel: int = PANEL,
) -> Tensor:
    """Pack the kept weights of a matrix.

    Args:
        weight: (rows, columns), any floating dtype.
        mask: bool, True = kept; None keeps what is not zero.
        values: ``"fp32"``; ``"bf16"``, rounded to the nearest, at most 2⁻⁸ of each weight away; or
            ``"int8"``, at most 1/254 of the row's largest weight away.
        block: columns of a block, 1 to 256.
        panel: rows of a panel, 1 to 256; panels are made equally large.
    Returns:
        uint8, one axis.

    Raises:
        UnknownNameError: values are not stored that way.
        PackedError: the weight is no matrix, the mask has another shape, or a weight that int8
            cannot hold is not finite.
    """
    if values not in VALUES:
        raise unknown_name("values", values, VALUES)
    if weight.dim() != 2:
        raise PackedError(f"a matrix is packed, not a tensor of shape {tuple(weight.shape)}.")
    if mask is not None and mask.shape != weight.shape:
        raise PackedError(
            f"the mask has shape {tuple(mask.shape)}, the weight {tuple(weight.shape)}."
        )
    rows, columns = weight.shape
    weight = weight.detach().to("cpu", torch.float32)
    kept = weight.ne(0) if mask is None else mask.to("cpu", torch.bool)
    blocks = -(-columns // block)
    panel = -(-rows // max(1, -(-rows // panel))) or 1
    panels = -(-rows // panel)
    cells = panels * blocks
    row, column = kept.nonzero(as_tuple=True)
    # A segment is what a row keeps of a block; kept weights in row-major order lie segment by
    # segment, so only segments need sorting.
    counts = torch.bincount(row * max(blocks, 1) + column // block, minlength=rows * blocks)
    segment = counts.nonzero().squeeze(1)
    count = counts[segment]
    of_row, of_block = segment // max(blocks, 1), segment % max(blocks, 1)
    cell = of_row // panel * blocks + of_block
    order = ((cell * 2 * MOST + count) * MOST + of_row % panel).argsort()
    start = count.cumsum(0) - count
    chosen = count[order]
    shift = (start[order] - (chosen.cumsum(0) - chosen)).repeat_interleave(chosen)
    places = torch.arange(len(row)) + shift
    group, in_group = (cell * 2 * MOST + count)[order].unique_consecutive(return_counts=True)
    groups = torch.stack([group % (2 * MOST), in_group], 1).to(torch.int16)
    per_cell = torch.zeros(cells + 1, dtype=torch.int64)
    ends = [
        per_cell.clone().index_add_(0, index + 1, amount).cumsum(0)
        for index, amount in (
            (cell, count),
            (cell, torch.ones_like(cell)),
            (group // (2 * MOST), torch.ones_like(group)),
        )
    ]
    table = torch.stack([ends[0], ends[1] | ends[2] << 32], 1)
    header = _HEADER.pack(
        *(MAGIC, VERSION, VALUES[values], panel, block, len(group)),
        *(rows, columns, len(row), len(segment), 0),
    )
    parts = (
        torch.frombuffer(bytearray(header), dtype=torch.uint8),
        table,
        groups,
        *_stored(values, weight[row, column][places], row[places], rows),
        (column % block)[places].to(torch.uint8),
        (of_row % panel)[order].to(torch.uint8),
    )
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in parts])


def _stored(values: str, value: Tensor, row: Tensor, rows: int) -> tuple[Tensor, ...]:
    if values == "fp32":
        return (value,)
    if values == "bf16":
        return (value.to(torch.bfloat16),)
    if not value.isfinite().all():
        raise PackedError("a weight is NaN or infinite, which int8 cannot hold; use fp32 or bf16.")
    most = torch.zeros(rows).scatter_reduce_(0, row, value.abs(), "amax")
    scale = torch.where(most > 0, most / _STEPS, torch.ones(()))
    return scale, (value / scale[row]).round().clamp(-_STEPS, _STEPS).to(torch.int8)


def unpack(packed: Tensor) -> Tensor:
    """Return the dense float32 matrix as the kernels see it, zero where nothing was kept."""
    parts = read(packed)
    dense = torch.zeros(parts.rows, parts.columns)
    dense[parts.row, parts.column] = parts.value
    return dense


def mask_of(packed: Tensor) -> Tensor:
    """Return which weights are kept, bool (rows, columns); see :func:`read`."""
    parts = read(packed)
    mask = torch.zeros(parts.rows, parts.columns, dtype=torch.bool)
    mask[parts.row, parts.column] = True
    return mask


def shape_of(packed: Tensor) -> tuple[int, int, int]:
    """Return rows, columns and kept weights as the header says.

    Raises:
        PackedError: no header.
    """
    fields = _header(packed)
    return fields[6], fields[7], fields[8]


def values_of(packed: Tensor) -> str:
    """Return how the values are stored, one of :data:`VALUES`.

    Raises:
        PackedError: no header.
    """
    kind = _header(packed)[2]
    if kind >= len(VALUES):
        raise _damaged("its header is impossible")
    return list(VALUES)[kind]


def _header(packed: Tensor) -> tuple[int, ...]:
    if packed.dtype != torch.uint8 or packed.dim() != 1 or not packed.is_contiguous():
        raise PackedError(
            f"a packed matrix is a contiguous uint8 tensor of one axis, not {packed.dtype} "
            f"of shape {tuple(packed.shape)}."
        )
    if len(packed) < _HEADER.size:
        raise PackedError(f"a packed matrix has at least {_HEADER.size} bytes, not {len(packed)}.")
    fields: tuple[int, ...] = _HEADER.unpack(packed[: _HEADER.size].numpy().tobytes())
    if fields[0] != MAGIC or fields[1] != VERSION:
        raise PackedError(f"no packed matrix of version {VERSION}; pack the weights again.")
    return fields


def read(packed: Tensor) -> Parts:
    """Take a packed matrix apart and check all of it.

    Raises:
        PackedError: it contradicts itself.
    """
    _, _, kind, panel, block, n_groups, rows, columns, kept, segments, zero = _header(packed)
    if kind >= len(_VALUE_BYTES):
        raise _damaged("its header is impossible")
    scales = rows if kind == VALUES["int8"] else 0
    sizes = (panel, block, MOST - panel + 1, MOST - block + 1, rows + 1, columns + 1, kept + 1)
    limit = len(packed)
    if zero or min(*sizes, segments + 1) < 1 or max(kept, segments, n_groups) > limit:
        raise _damaged("its header is impossible")
    panels, blocks = -(-rows // panel), -(-columns // block)
    cells = panels * blocks
    lengths = [
        _HEADER.size,
        (cells + 1) * _CELL_BYTES,
        n_groups * _GROUP_BYTES,
        scales * 4,
        kept * _VALUE_BYTES[kind],
        kept,
        segments,
    ]
    if sum(lengths) != limit:
        raise _damaged(f"its header asks for {sum(lengths):,} bytes and it has {limit:,}")
    parts = packed.split(lengths)
    # Copies, as parts of a byte tensor are not aligned for wider numbers.
    table = parts[1].clone().view(torch.int64).view(-1, 2)
    groups = parts[2].clone().view(torch.int16).view(-1, 2).to(torch.int64) & 0xFFFF
    count, in_group = groups.unbind(1)
    per_group = torch.stack([count * in_group, in_group, torch.ones_like(count)])
    ends = torch.cat([torch.zeros(3, 1, dtype=torch.int64), per_group.cumsum(1)], 1)
    first_group = table[:, 1] >> 32
    value_of, segment_of = table[:, 0], table[:, 1] & 0xFFFFFFFF
    good = (
        bool(((count >= 1) & (count <= block) & (in_group >= 1) & (in_group <= panel)).all())
        and int(first_group[0]) == 0
        and int(first_group[-1]) == n_groups
        and bool((first_group.diff() >= 0).all())
        and bool((ends[0][first_group.clamp(0, n_groups)] == value_of).all())
        and bool((ends[1][first_group.clamp(0, n_groups)] == segment_of).all())
        and int(ends[0, -1]) == kept
        and int(ends[1, -1]) == segments
    )
    if not good:
        raise _damaged("its counts do not add up")
    cell_of_group = torch.repeat_interleave(first_group.diff())
    cell = cell_of_group.repeat_interleave(in_group)
    per_segment = count.repeat_interleave(in_group)
    in_panel = parts[6].to(torch.int64)
    row = cell // max(blocks, 1) * panel + in_panel
    in_block = parts[5].to(torch.int64)
    column = (cell % max(blocks, 1) * block).repeat_interleave(per_segment) + in_block
    all_rows = row.repeat_interleave(per_segment)
    inside = (in_panel < panel).all() & (row < rows).all()
    inside &= (in_block < block).all() & (column < columns).all()
    if not inside:
        raise _damaged("it has weights outside the matrix")
    within = torch.repeat_interleave(per_segment)
    rising = (column.diff() > 0) | (within.diff() != 0)
    if not rising.all() or (row * max(blocks, 1) + cell % max(blocks, 1)).unique().numel() != len(
        row
    ):
        raise _damaged("it has a weight twice, or its columns are not in order")
    name, dtype = list(zip(VALUES, (torch.float32, torch.bfloat16, torch.int8), strict=True))[kind]
    value = parts[4].clone().view(dtype).float()
    if scales:
        value *= parts[3].clone().view(torch.float32)[all_rows]
    return Parts(rows, columns, all_rows, column, value, name)


def _damaged(why: str) -> PackedError:
    return PackedError(f"the packed matrix is damaged: {why}. Pack the weights again.")
