"""What a page says of how alike masks are: tables of pairs, and the map of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.report.drawing import INK, MUTED, TICKET, svg
from ticketry.report.grids import FAINTEST, STRONGEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED = 10
"""Tickets up to which a map's cells hold their numbers."""

MOST_LISTED = 6
"""Pairs up to which a page lists every tensor; JSON has them all."""


NOISE = 3.0
"""Spreads of chance; what lies nearer to chance than that is not told from it."""


def beyond(found: Mapping[str, Any]) -> str:
    """Say how far two masks share more than chance gives, and how much of it layers explain."""
    z, left = (found["chance"][kind]["z"] for kind in ("density", "layers"))
    if z is None:
        return "these densities leave nothing to chance"
    if z < -NOISE:
        return f"less is shared than by chance ({z:+,.1f} spreads)"
    if z < NOISE or found["by_layers"] is None:
        return f"no more is shared than by chance ({z:+,.1f} spreads)"
    said = f"of what is shared beyond chance, layer densities explain {found['by_layers']:.0%}"
    return said if left is None else f"{said}; {left:+,.1f} spreads of chance are left"


def pair_rows(pair: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a pair's measures, a row each: what, found, and both kinds of chance."""
    rows = []
    for measure, name, share in (
        ("kept", "overlap of the kept", True),
        ("pruned", "overlap of the pruned", True),
        ("kept_cosine", "cosine of the kept", False),
        ("pruned_cosine", "cosine of the pruned", False),
        ("agreement", "agreement", True),
    ):
        row = {"a": pair["a"], "b": pair["b"], "measure": name}
        row["found"] = f"{pair[measure]:.1%}" if share else f"{pair[measure]:.3f}"
        for kind, chance in pair["chance"].items():
            value, spread = chance[measure], chance[f"{measure}_spread"]
            row[kind] = (
                f"{value:.1%} ± {100 * spread:.2g}" if share else f"{value:.3f} ± {spread:.2g}"
            )
        rows.append(row)
    return rows


def part_row(pair: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, str]:
    """Return one kind of matrix, or one tensor, of a pair."""
    density, layers = part["chance"]["density"], part["chance"]["layers"]
    z = layers["z"]
    return {
        "a": pair["a"],
        "b": pair["b"],
        "name": part["name"],
        **{name: f"{part[name]:.1%}" for name in ("kept", "pruned", "agreement")},
        **{f"{name}_density": f"{density[name]:.1%}" for name in ("kept", "pruned", "agreement")},
        **{f"{name}_layers": f"{layers[name]:.1%}" for name in ("kept", "pruned", "agreement")},
        "z": "–" if z is None else f"{z:+,.1f}",
    }


def likeness_map(labels: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> str:
    """Draw the overlap of every pair below the diagonal, and chance above it.

    Args:
        labels: of the tickets, in order; at least three.
        pairs: as :func:`ticketry.comparison.compare` gives them.
    """
    places = {label: place for place, label in enumerate(labels)}
    names = [label if len(label) <= 14 else f"…{label[-13:]}" for label in labels]
    count = len(labels)

    def panel(axes: Axes, part: str) -> None:
        from matplotlib.patches import Rectangle

        for pair in pairs:
            x, y = sorted((places[pair["a"]], places[pair["b"]]))
            chance = pair["chance"]["layers"][part]
            for column, row, share, ink in ((x, y, pair[part], INK), (y, x, chance, MUTED)):
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 0.94, 0.92, facecolor=TICKET,
                              alpha=FAINTEST + share * (STRONGEST - FAINTEST), linewidth=0)
                )  # fmt: skip
                if count <= MOST_NUMBERED:
                    axes.text(column - 0.03, row - 0.04, f"{100 * share:.0f}", color=ink,
                              ha="center", va="center", fontsize=8)  # fmt: skip
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_yticks(range(count), names)
        axes.set_xticks(range(count), [str(place + 1) for place in range(count)])
        axes.set_yticklabels([f"{name}  {place + 1}" for place, name in enumerate(names)])
        axes.tick_params(axis="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{part} weights", loc="left", pad=4)

    def draw(figure: Figure) -> None:
        for axes, part in zip(figure.subplots(2, 1), ("kept", "pruned"), strict=True):
            panel(axes, part)

    words = "; ".join(_range(pairs, part) for part in ("kept", "pruned"))
    return svg(
        draw,
        2 * (0.45 + 0.27 * count),
        "likeness",
        f"Overlap of every pair of {count} masks below the diagonal, chance at their layer "
        f"densities above it. Overlap of {words}. The numbers stand in the table below.",
    )


def _range(pairs: Sequence[Mapping[str, Any]], part: str) -> str:
    low, *_, high = sorted(pairs, key=lambda pair: pair[part])
    return (
        f"{part} weights: from {low[part]:.1%} ({low['a']} and {low['b']}) to {high[part]:.1%} "
        f"({high['a']} and {high['b']})"
    )
