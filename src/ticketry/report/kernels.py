"""What a page says of a mask's kernels: a table of the zero ones, and a map of one tensor's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ticketry.core.kernels import kept_by_kernel, kernel_counts
from ticketry.core.mask import Mask
from ticketry.report.drawing import BAD, TICKET, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MAPS = 4
"""Tickets whose kernels are drawn; the table has all."""

MOST_CELLS = 24
"""Rows and columns of a map; more outputs or inputs share a cell, which is their mean."""

_SHADES = 6


def kernel_facts(masks: Mapping[str, Mask]) -> list[dict[str, Any]]:
    """Return, tensor by tensor, the kernels of each mask as JSON values; none without kernels."""
    rows: dict[str, dict[str, Any]] = {}
    for label, mask in masks.items():
        for count in kernel_counts(mask):
            row = rows.setdefault(
                count.name,
                {"name": count.name, "kernels": count.kernels, "size": count.size, "tickets": {}},
            )
            row["tickets"][label] = {
                "zero": count.zero,
                "zero_expected": count.zero_expected,
                "empty_outputs": count.empty_outputs,
            }
    return list(rows.values())


def zero_kernels(facts: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return label -> share of all kernels that are zero, and of random masks of these layers."""
    total = sum(row["kernels"] for row in facts) or 1
    labels = facts[0]["tickets"] if facts else ()
    return {
        label: (
            sum(row["tickets"][label]["zero"] for row in facts) / total,
            sum(row["tickets"][label]["zero_expected"] for row in facts) / total,
        )
        for label in labels
    }


def zero_kernel_lines(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say the zero kernels of each ticket in lines for people; none without kernels."""
    found = zero_kernels(facts)
    if not found:
        return []
    width = max(map(len, found))
    return [
        f"zero kernels, of {sum(row['kernels'] for row in facts):,} of more than one weight, and "
        "what chance gives at these layer densities:",
        *(f"  {label:<{width}}  {share:7.2%}  (chance {chance:.2%})"
          for label, (share, chance) in found.items()),
    ]  # fmt: skip


def kernel_maps(
    masks: Mapping[str, Mask], facts: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the kernels of the tensor with the largest share of zero ones, as coarse as drawn.

    Args:
        masks: label -> mask.
        facts: of these masks, by :func:`kernel_facts`.
    Returns:
        JSON values: ``name``, ``shape`` and, by label, ``kept`` (rows of shares kept, outputs ×
        inputs in at most 24 × 24 cells); None where no tensor has kernels.
    """
    shown = dict(list(masks.items())[:MOST_MAPS])
    shares = {
        row["name"]: sum(row["tickets"][label]["zero"] for label in shown) / row["kernels"]
        for row in facts
        if row["kernels"]
    }
    if not shares:
        return None
    name = max(shares, key=lambda name: (shares[name], name))
    first = next(iter(shown.values()))
    return {
        "name": name,
        "shape": list(first.shape(name)),
        "kept": {label: _coarse(mask, name) for label, mask in shown.items()},
    }


def _coarse(mask: Mask, name: str) -> list[list[float]]:
    outputs, inputs, *window = mask.shape(name)
    shares = kept_by_kernel(mask, name) / np.prod(window)
    for axis, size in enumerate((outputs, inputs)):
        cells = min(size, MOST_CELLS)
        edges = np.arange(cells) * size // cells
        counts = np.diff(edges, append=size)
        sums = np.add.reduceat(shares, edges, axis=axis)
        shares = sums / (counts[:, None] if axis == 0 else counts)
    return [[round(float(share), 4) for share in row] for row in shares]


def draw_kernel_maps(maps: Mapping[str, Any]) -> str:
    """Draw what :func:`kernel_maps` returned: a panel a ticket, dark where much is kept."""
    labels = list(maps["kept"])

    def panel(axes: Axes, label: str) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        rows = np.array(maps["kept"][label])
        # One path a shade, not one a cell: a tenth of the page's bytes.
        shades = np.where(rows > 0, np.ceil(rows * _SHADES).clip(1), 0).astype(int)
        for shade in range(_SHADES + 1):
            cells = [_cell(x, y) for y, x in zip(*np.nonzero(shades == shade), strict=True)]
            if not cells:
                continue
            axes.add_patch(
                PathPatch(
                    Path.make_compound_path(*cells),
                    facecolor=TICKET if shade else BAD,
                    alpha=0.1 + 0.9 * shade / _SHADES if shade else 0.9,
                    linewidth=0,
                )
            )
        axes.set_xlim(-0.5, rows.shape[1] - 0.5)
        axes.set_ylim(rows.shape[0] - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(label if len(label) <= 20 else f"…{label[-19:]}", loc="left", pad=4)
        axes.set_xlabel("inputs")
        axes.set_ylabel("outputs")

    def draw(figure: Figure) -> None:
        grid = np.atleast_1d(figure.subplots(-(-len(labels) // 2), 2)).ravel()
        for axes, label in zip(grid, labels, strict=False):
            panel(axes, label)
        for axes in grid[len(labels) :]:
            axes.set_visible(False)

    words = "; ".join(
        f"{label} keeps nothing in {_empty(maps['kept'][label]):.0%} of the cells"
        for label in labels
    )
    return svg(
        draw,
        2.6 * -(-len(labels) // 2),
        "kernels",
        f"Map of the kernels of {maps['name']}, outputs by inputs, the darker the more of a kernel "
        f"is kept: {words}. The numbers stand in the table below.",
    )


def _cell(x: int, y: int) -> Any:
    from matplotlib.path import Path

    left, right, top, bottom = x - 0.5, x + 0.44, y - 0.5, y + 0.44
    return Path(
        [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True
    )


def _empty(rows: Sequence[Sequence[float]]) -> float:
    return float(np.mean(np.array(rows) == 0))
