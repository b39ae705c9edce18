"""The page on a study: its summary in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ticketry.metrics import say_difference, say_score, say_sparsity, scale_of
from ticketry.report.drawing import BAD, CONTROL, DENSE, INK, MUTED, TICKET, draw_page, svg
from ticketry.report.grids import FAINTEST, STRONGEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = Mapping[str, Any]
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLES = ("-", "-.", ":")
_MOST_NUMBERED = 9


class Table(Protocol):
    """A table of the page (:class:`ticketry.studies.tables.Section`)."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def words(self) -> str: ...  # noqa: D102
    @property
    def head(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def rows(self) -> Sequence[Sequence[str]]: ...  # noqa: D102


@dataclass(frozen=True)
class Chart:
    """A chart and the table of its numbers."""

    name: str
    title: str
    words: str
    svg: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def render_study(summary: Mapping[str, Any], opening: str, tables: Sequence[Table]) -> str:
    """Return one self-contained page about a study.

    Args:
        summary: as :func:`ticketry.studies.summary.summarise` returns it.
        opening: how much of the study there is.
        tables: of the page, in order.
    """
    charts = [*_curves(summary), *_maps(summary, tables)]
    beside = {chart.title for chart in charts}
    values = {
        "study": summary["study"],
        "title": summary["title"],
        "paper": summary["paper"],
        "opening": opening,
        "charts": charts,
        "tables": [table for table in tables if table.title not in beside],
        "figures": {chart.name: chart.svg for chart in charts},
    }
    return draw_page("study.html.j2", values)


def _curves(summary: Mapping[str, Any]) -> list[Chart]:
    """Draw test score against sparsity, for each target."""
    found = []
    for number, (target, facts) in enumerate(summary["targets"].items()):
        lines = [
            cell
            for cell in summary["cells"]
            if cell["target"] == target and cell["arm"] != "dense" and cell["mean"] is not None
        ]
        if len({cell["sparsity"] for cell in lines}) < 2:
            continue
        dense = next(c for c in summary["cells"] if c["arm"] == "dense" and c["target"] == target)
        name = f"curve-{number}"
        found.append(
            Chart(
                name,
                f"Score against sparsity on {target}",
                f"Test {facts['metric']}: dense as a band of one standard deviation over its "
                "fine-tunings, each method as the mean of its masks with one standard deviation "
                "between masks; controls are dashed.",
                _curve(target, facts["metric"], dense, lines, name),
                ("mask", "sparsity", "mean", "std between masks", "masks"),
                _curve_rows(facts["metric"], [dense, *lines]),
            )
        )
    return found


def _curve_rows(metric: str, cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for cell in cells:
        name = _name(cell)
        spread = cell["std_masks"]
        rows.append(
            (
                name,
                say_sparsity(cell["sparsity"]),
                "–" if cell["mean"] is None else say_score(metric, cell["mean"]),
                "–" if spread is None else say_difference(metric, spread, decimals=2),
                f"{cell['groups_recorded']} of {cell['groups']}",
            )
        )
    return rows


def _name(cell: Cell) -> str:
    found = "" if cell["source"] in (None, cell["target"]) else f", {cell['source']}"
    return f"{cell['control']} of {cell['arm']}{found}" if cell["control"] else cell["arm"] + found


def _lines(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: float(cell["sparsity"])):
        groups.setdefault(_name(cell), []).append(cell)
    return groups


def _curve(target: str, metric: str, dense: Cell, cells: Sequence[Cell], name: str) -> str:
    scale = scale_of(metric)
    groups = _lines(cells)

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        if dense["mean"] is not None:
            spread = scale * (dense["std_all"] or 0.0)
            level = scale * dense["mean"]
            axes.axhspan(level - spread, level + spread, color=DENSE, alpha=0.18, linewidth=0)
            axes.axhline(level, color=DENSE, linewidth=1.4, label="dense")
        for number, (label, line) in enumerate(groups.items()):
            control = line[0]["control"]
            axes.errorbar(
                [100 * cell["sparsity"] for cell in line],
                [scale * cell["mean"] for cell in line],
                yerr=[scale * (cell["std_masks"] or 0.0) for cell in line],
                color=CONTROL if control else TICKET,
                linestyle="--" if control else _STYLES[number % len(_STYLES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5,
                linewidth=1.3,
                capsize=2,
                label=label,
            )
        axes.set_xticks(sorted({round(100 * cell["sparsity"], 1) for cell in cells}))
        axes.set_xlabel("sparsity (%)")
        axes.grid(axis="y", linewidth=0.6)
        axes.legend(loc="best", fontsize=8, frameon=False, labelcolor=INK)

    words = "; ".join(
        f"{label}: "
        + ", ".join(f"{say_sparsity(cell['sparsity'])} {scale * cell['mean']:.4g}" for cell in line)
        for label, line in groups.items()
    )
    level = "not measured" if dense["mean"] is None else f"{scale * dense['mean']:.4g}"
    return svg(draw, 3.0, name, f"Test {metric} on {target}. Dense: {level}. {words}.")


def _maps(summary: Mapping[str, Any], tables: Sequence[Table]) -> list[Chart]:
    """Draw the source × target table of each sparsity at which masks meet other tasks."""
    cells = [
        cell for cell in summary["cells"] if cell["arm"] != "dense" and cell["control"] is None
    ]
    moved = [cell for cell in cells if cell["source"] not in (None, cell["target"])]
    found = []
    for number, sparsity in enumerate(dict.fromkeys(cell["sparsity"] for cell in moved)):
        rows: dict[str, dict[str, Cell]] = {}
        for cell in cells:
            if cell["sparsity"] == sparsity:
                name = f"{cell['arm']}, {cell['source']}" if cell["source"] else cell["arm"]
                rows.setdefault(name, {})[cell["target"]] = cell
        name = f"map-{number}"
        title = f"Transfer at {say_sparsity(sparsity)} sparsity"
        table = next(table for table in tables if table.title == title)
        found.append(
            Chart(
                name,
                title,
                "Test score minus dense, a row a mask's source and a column a target; the deeper "
                "the colour, the larger the loss. In brackets: y, not inferior to dense; n, "
                "inferior; ?, open.",
                _map(rows, summary["targets"], sparsity, name),
                table.head,
                table.rows,
            )
        )
    return found


def _map(
    rows: Mapping[str, Mapping[str, Cell]],
    targets: Mapping[str, Mapping[str, Any]],
    sparsity: float,
    name: str,
) -> str:
    losses = [
        max(0.0, -against["difference"])
        for row in rows.values()
        for cell in row.values()
        if (against := cell["against"].get("dense")) is not None
    ]
    most = max(losses, default=0.0) or 1.0
    signs = {"yes": "y", "no": "n", "inconclusive": "?"}

    def draw(figure: Figure) -> None:
        from matplotlib.patches import Rectangle

        axes: Axes = figure.subplots()
        for y, row in enumerate(rows.values()):
            for x, target in enumerate(targets):
                cell = row.get(target)
                against = None if cell is None else cell["against"].get("dense")
                if against is None:
                    axes.text(x - 0.03, y - 0.04, "–", color=MUTED, ha="center", va="center")
                    continue
                share = max(0.0, -against["difference"]) / most
                axes.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 0.94, 0.92, facecolor=BAD,
                              alpha=FAINTEST + share * (STRONGEST - FAINTEST), linewidth=0)
                )  # fmt: skip
                if len(targets) <= _MOST_NUMBERED:
                    value = scale_of(targets[target]["metric"]) * against["difference"]
                    text = f"{value:+.1f} ({signs[against['noninferior']]})"
                    axes.text(x - 0.03, y - 0.04, text, color=INK, ha="center", va="center",
                              fontsize=7.5)  # fmt: skip
        axes.set_xlim(-0.5, len(targets) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(targets)), [_short(target) for target in targets])
        axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
        axes.tick_params(axis="both", length=0)
        axes.spines[:].set_visible(False)

    said = []
    for row, cells in rows.items():
        for target, cell in cells.items():
            against = cell["against"].get("dense")
            if against is not None:
                difference = say_difference(
                    targets[target]["metric"], against["difference"], sign=True
                )
                said.append(f"{row} on {target}: {difference}, {against['noninferior']}")
    return svg(
        draw,
        0.6 + 0.3 * len(rows),
        name,
        f"Test score minus dense at {say_sparsity(sparsity)} sparsity. "
        f"{'; '.join(said) or 'Nothing yet'}.",
    )


def _short(label: str) -> str:
    return label if len(label) <= 20 else f"…{label[-19:]}"
