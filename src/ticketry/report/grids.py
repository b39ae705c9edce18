"""Charts of rows: kept by kind of matrix and block, cost by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ticketry.report.drawing import CONTROL, DENSE, INK, TICKET, bare, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAINTEST, STRONGEST = 0.05, 0.45
"""Opacity of the least and the most kept cell: the number in it stays readable."""

_MOST_NUMBERED = 14


def kept_map(grid: Mapping[str, Mapping[str, float]], blocks: Sequence[str]) -> str:
    """Draw the share kept of each matrix: a row a kind, a column a block.

    Args:
        grid: kind -> block -> kept / prunable, in [0, 1].
        blocks: in order.
    """
    values = [value for row in grid.values() for value in row.values()]
    low, high = min(values), max(values)

    def draw(figure: Figure) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        for y, row in enumerate(grid.values()):
            for x, block in enumerate(blocks):
                if block not in row:
                    continue
                share = (row[block] - low) / (high - low) if high > low else 0.5
                alpha = FAINTEST + share * (STRONGEST - FAINTEST)
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 0.94, 0.92, facecolor=TICKET, alpha=alpha,
                              linewidth=0)
                )  # fmt: skip
                if len(blocks) <= _MOST_NUMBERED:
                    axes.text(x - 0.03, y - 0.04, f"{100 * row[block]:.0f}", color=INK,
                              ha="center", va="center", fontsize=8)  # fmt: skip
        axes.set_xlim(-0.5, len(blocks) - 0.5)
        axes.set_ylim(len(grid) - 0.5, -0.5)
        names = [kind if len(kind) <= 24 else f"…{kind[-23:]}" for kind in grid]
        axes.set_yticks(range(len(grid)), names)
        every = -(-len(blocks) // _MOST_NUMBERED)
        axes.set_xticks(range(0, len(blocks), every), list(blocks)[::every])
        axes.tick_params(axis="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("block")

    words = (
        f"Share of weights kept by kind of matrix ({len(grid)}) and block ({len(blocks)}), "
        f"from {low:.1%} to {high:.1%}."
    )
    return svg(draw, 0.55 + 0.27 * len(grid), "kept", words)


def cost_bars(parts: Sequence[tuple[str, float]]) -> str:
    """Draw what each part of a run cost, in dense-equivalents.

    Args:
        parts: (name, dense-equivalents) in order.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, (name, cost) in enumerate(parts):
            colour = {"ticket": TICKET, "search": TICKET}.get(name, DENSE)
            axes.barh(y, cost, color=CONTROL if name.startswith("control") else colour,
                      height=0.6, alpha=0.85)  # fmt: skip
            axes.annotate(f"{cost:.2f}", (cost, y), (4, 0), textcoords="offset points",
                          color=INK, va="center", fontsize=8.5)  # fmt: skip
        names = [name if len(name) <= 28 else f"{name[:27]}…" for name, _ in parts]
        axes.set_yticks(range(len(parts)), names)
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.margins(x=0.14)
        axes.set_xlabel("dense-equivalents")
        bare(axes)

    words = "Cost by part, in dense-equivalents: " + ", ".join(
        f"{name} {cost:.2f}" for name, cost in parts
    )
    return svg(draw, 0.55 + 0.27 * len(parts), "cost", f"{words}.")
