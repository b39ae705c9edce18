"""Score against sparsity: what was tested, and what a search saw on validation on its way."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.report.drawing import BAD, CONTROL, DENSE, INK, MUTED, TICKET, svg
from ticketry.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("^", "s", "D", "v", "P", "*", "<", ">", "h")
_SIZE = 6.5


@dataclass(frozen=True)
class Tested:
    """A verified ticket in a chart.

    Attributes:
        label: short, stands beside its mark; empty for none.
        sparsity: in [0, 1].
        ticket, dense: mean and sample standard deviation of the test scores.
        answer: ``winning``, or the verdict's ``noninferior``.
        controls: name -> mean and sample standard deviation.
    """

    label: str
    sparsity: float
    ticket: tuple[float, float]
    dense: tuple[float, float]
    answer: str
    controls: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, evidence: Mapping[str, Any], label: str = "") -> Tested:
        """Read a ticket's test scores from its evidence."""
        verdict = Verdict.from_json(evidence["verdict"])
        return cls(
            label,
            evidence["sparsity"],
            (evidence["ticket"]["mean"], evidence["ticket"]["std"]),
            (evidence["dense"]["mean"], evidence["dense"]["std"]),
            "winning" if verdict.winning else verdict.noninferior,
            {name: (arm["mean"], arm["std"]) for name, arm in evidence["controls"].items()},
        )


@dataclass(frozen=True)
class Trail:
    """What a search saw on the validation split.

    Attributes:
        points: (sparsity of the trained network in [0, 1], validation score), a training each.
        dense: mean validation score of the dense replicates.
    """

    points: tuple[tuple[float, float], ...]
    dense: float

    @classmethod
    def of(cls, evidence: Mapping[str, Any]) -> Trail:
        """Read a search's levels; each trains the network that the level before it left."""
        before, points = 0.0, []
        for level in evidence["search"]["levels"]:
            if level.get("validation_score") is not None:
                points.append((before, level["validation_score"]))
            before = level["sparsity"]
        return cls(tuple(points), statistics.fmean(evidence["dense"]["validation_scores"]))


ANSWERS: Mapping[str, str] = {
    "winning": "winning",
    "yes": "not worse than dense",
    "inconclusive": "inconclusive",
    "no": "worse than dense",
}
"""How a ticket's mark is named."""


def curve(
    tickets: Sequence[Tested],
    metric: str,
    scale: float,
    trail: Trail | None = None,
    *,
    name: str = "curve",
) -> str:
    """Draw test scores against sparsity, and above them the search's validation scores.

    Args:
        tickets: of one base and task.
        metric: its name.
        scale: 100 where people say percent, else 1.
        trail: of a search with two scored levels or more; None leaves the upper panel out.
        name: of the chart, unlike that of any other on the page.
    """
    upper = trail is not None and len(trail.points) > 1

    def draw(figure: Figure) -> None:
        ratios = [1, 1.25] if upper else [1]
        panels = figure.subplots(
            2 if upper else 1, 1, sharex=True, squeeze=False, height_ratios=ratios
        )
        if upper:
            assert trail is not None
            _draw_trail(panels[0, 0], trail, metric, scale)
        axes = panels[-1, 0]
        _draw_tests(axes, tickets, metric, scale)
        highest = max(ticket.sparsity for ticket in tickets)
        axes.set_xlim(-3 if upper else None, max(100 * highest + 5, 10) if upper else None)
        axes.set_xlabel("sparsity (%)")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5
        )

    kinds = len({name for ticket in tickets for name in ticket.controls})
    height = (1.7 if upper else 0.0) + 2.5 + 0.1 * kinds
    return svg(draw, height, name, _words(tickets, metric, scale, trail if upper else None))


def _words(tickets: Sequence[Tested], metric: str, scale: float, trail: Trail | None) -> str:
    words = [f"Score ({metric}) against sparsity."]
    if trail:
        seen = ", ".join(f"{scale * score:.1f} at {at:.1%}" for at, score in trail.points)
        words.append(f"Validation, one training each: {seen}; dense {scale * trail.dense:.1f}.")
    for ticket in tickets:
        name = f"ticket {ticket.label}".strip()
        beside = "".join(
            f", {control} {scale * mean:.1f}" for control, (mean, _) in ticket.controls.items()
        )
        words.append(
            f"Test at {ticket.sparsity:.1%}: {name} {scale * ticket.ticket[0]:.1f}, "
            f"{ANSWERS[ticket.answer]}, dense {scale * ticket.dense[0]:.1f}{beside}."
        )
    return " ".join(words)


def _draw_trail(axes: Axes, trail: Trail, metric: str, scale: float) -> None:
    axes.axhline(scale * trail.dense, color=DENSE, linewidth=1.2, linestyle=(0, (4, 3)))
    x = [100 * at for at, _ in trail.points]
    axes.plot(x, [scale * score for _, score in trail.points], "o-", color=TICKET,
              linewidth=1.8, markersize=5)  # fmt: skip
    axes.annotate(
        "dense, mean of replicates", (0.995, scale * trail.dense), (0, 3),
        xycoords=("axes fraction", "data"), textcoords="offset points", color=INK,
        ha="right", va="bottom", fontsize=8.5,
    )  # fmt: skip
    axes.set_title("Validation: the search's own trainings, one a level", loc="left", pad=4)
    axes.margins(y=0.35)
    _label(axes, metric, scale)


def _draw_tests(axes: Axes, tickets: Sequence[Tested], metric: str, scale: float) -> None:
    for n, (dense, low, high) in enumerate(_bands(tickets)):
        mean, std = scale * dense[0], scale * dense[1]
        label = "dense, mean ± std" if n == 0 else None
        axes.fill_between([low, high], mean - std, mean + std, color=DENSE, alpha=0.22,
                          linewidth=0, label=label)  # fmt: skip
        axes.plot([low, high], [mean, mean], color=DENSE, linewidth=1.4)
    names = list(dict.fromkeys(name for ticket in tickets for name in ticket.controls))
    for n, name in enumerate(names):
        having = [ticket for ticket in tickets if name in ticket.controls]
        axes.errorbar(
            [100 * ticket.sparsity for ticket in having],
            [scale * ticket.controls[name][0] for ticket in having],
            [scale * ticket.controls[name][1] for ticket in having],
            fmt=_MARKERS[n % len(_MARKERS)], color=CONTROL, markersize=_SIZE, alpha=0.9,
            elinewidth=1.2, label=name if len(name) <= 24 else f"{name[:23]}…",
        )  # fmt: skip
    for answer, said in ANSWERS.items():
        having = [ticket for ticket in tickets if ticket.answer == answer]
        if having:
            axes.errorbar(
                [100 * ticket.sparsity for ticket in having],
                [scale * ticket.ticket[0] for ticket in having],
                [scale * ticket.ticket[1] for ticket in having],
                label=f"ticket, {said}", elinewidth=1.4, linestyle="none",
                **_MARKS[answer],
            )  # fmt: skip
    for ticket in tickets:
        axes.annotate(
            ticket.label, (100 * ticket.sparsity, scale * ticket.ticket[0]), (6, 4),
            textcoords="offset points", color=INK, fontsize=9,
        )  # fmt: skip
    axes.set_title("Test: verified by replicates, mean ± std", loc="left", pad=4)
    axes.margins(y=0.14)
    _label(axes, metric, scale)


_MARKS: Mapping[str, Any] = {
    "winning": {"marker": "*", "color": TICKET, "markersize": 12},
    "yes": {"marker": "o", "color": TICKET, "markersize": _SIZE},
    "inconclusive": {
        "marker": "o", "color": TICKET, "markersize": _SIZE, "markerfacecolor": "none",
        "markeredgewidth": 1.6,
    },
    "no": {"marker": "X", "color": BAD, "markersize": 8},
}  # fmt: skip


def _bands(tickets: Sequence[Tested]) -> list[tuple[tuple[float, float], float, float]]:
    """Return each dense arm with the stretch of sparsity (%) over which it is drawn.

    Tickets that share their dense runs share a band; other runs get one of their own.
    """
    stretches: dict[tuple[float, float], list[float]] = {}
    for ticket in tickets:
        stretches.setdefault(ticket.dense, []).append(100 * ticket.sparsity)
    if len(stretches) == 1:
        (found,) = stretches.values()
        return [(tickets[0].dense, min(0.0, *found), max(*found, 0.0) + 5)]
    return [(dense, min(at) - 1.5, max(at) + 1.5) for dense, at in stretches.items()]


def _label(axes: Axes, metric: str, scale: float) -> None:
    name = metric if len(metric) <= 20 else f"{metric[:19]}…"
    axes.set_ylabel(f"{name}{' (%)' if scale == 100 else ''}")
    axes.tick_params(axis="y", colors=MUTED)
    axes.grid(axis="y", linewidth=0.6)
