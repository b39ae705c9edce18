"""The charts of a run's page; see :mod:`ticketry.report.drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.report.drawing import BAD, CONTROL, DENSE, INK, MUTED, TICKET, bare, svg
from ticketry.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def intervals(verdict: Verdict, scale: float) -> str:
    """Draw the difference ticket - dense with its three intervals and the margin.

    Args:
        verdict: whose ends are drawn.
        scale: 100 where people say points, else 1.
    """
    rows = [
        ("by seeds", verdict.seed_ci_low, verdict.seed_ci_high),
        ("by test examples", verdict.example_ci_low, verdict.example_ci_high),
        ("overall", verdict.overall_ci_low, verdict.overall_ci_high),
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        reach = 1.15 * max(
            verdict.margin, *(abs(end) for _, low, high in rows for end in (low, high))
        )
        axes.set_xlim(-scale * reach, scale * reach)
        axes.axvspan(-scale * reach, -scale * verdict.margin, color=BAD, alpha=0.16, linewidth=0)
        axes.axvline(-scale * verdict.margin, color=BAD, linewidth=1.4)
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        for y, (_, low, high) in enumerate(rows):
            axes.plot([scale * low, scale * high], [y, y], color=TICKET, linewidth=2.4)
            for end in (low, high):
                axes.plot([scale * end] * 2, [y - 0.13, y + 0.13], color=TICKET, linewidth=1.6)
            axes.plot(scale * verdict.difference, y, "o", color=TICKET, markersize=6.5)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.75)
        beside = verdict.margin > reach / 2  # on the side where there is room
        axes.annotate(
            "margin", (-scale * verdict.margin, -0.72), (3 if beside else -3, -1),
            textcoords="offset points", color=INK, va="top", ha="left" if beside else "right",
            fontsize=8.5,
        )  # fmt: skip
        axes.set_xlabel(f"ticket better than dense by{' (points)' if scale == 100 else ''}")
        bare(axes)

    said = "; ".join(f"{name}: {scale * low:.2f} to {scale * high:.2f}" for name, low, high in rows)
    words = (
        f"Ticket less dense: {scale * verdict.difference:.2f}. One-sided 95% ends {said}. "
        f"The margin lies at {-scale * verdict.margin:.2f}."
    )
    return svg(draw, 1.75, "intervals", words)


def scores(
    evidence: Mapping[str, Any], verdict: Verdict, arms: Sequence[tuple[str, str]], scale: float
) -> str:
    """Draw the test score of every fine-tuning, the mean and one standard deviation, by arm.

    Args:
        evidence: the run's.
        verdict: for the margin and its direction.
        arms: (label, ``dense`` | ``ticket`` | a control's name).
        scale: 100 where people say percent, else 1.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        sign = 1.0 if verdict.direction == "higher" else -1.0
        bound = scale * (verdict.dense_mean - sign * verdict.margin)
        axes.axvline(bound, color=BAD, linewidth=1.4)
        for y, (_, name) in enumerate(arms):
            arm = arm_of(evidence, name)
            colour = {"dense": DENSE, "ticket": TICKET}.get(name, CONTROL)
            mean, std = scale * arm["mean"], scale * arm["std"]
            axes.plot([mean - std, mean + std], [y, y], color=colour, linewidth=5, alpha=0.35)
            axes.plot([mean, mean], [y - 0.26, y + 0.26], color=colour, linewidth=2.2)
            values = [scale * score for score in arm["scores"]]
            heights = [y + offset for offset in _strip(values)]
            axes.plot(
                values, heights, "o", color=colour, markersize=6, alpha=0.85, linestyle="none"
            )
        axes.set_yticks(range(len(arms)), [label for label, _ in arms])
        axes.set_ylim(len(arms) - 0.45, -0.85)
        axes.annotate(
            "dense less the margin" if sign > 0 else "dense plus the margin",
            (bound, -0.82), (-4, -1), textcoords="offset points", color=INK, va="top",
            ha="right", fontsize=8.5,
        )  # fmt: skip
        axes.margins(x=0.08)
        axes.set_xlabel(f"test {verdict.metric}{' (%)' if scale == 100 else ''}")
        bare(axes)

    means = ", ".join(
        f"{label} {scale * arm_of(evidence, name)['mean']:.2f}" for label, name in arms
    )
    words = f"Test scores of each fine-tuning by arm. Means: {means}."
    return svg(draw, 0.75 + 0.42 * len(arms), "scores", words)


def layers(groups: Mapping[str, Sequence[tuple[str, float]]], sparsity: float) -> str:
    """Draw the sparsity of each tensor: a panel a kind of matrix, a bar a block.

    Args:
        groups: kind -> (block, sparsity in [0, 1]) in order.
        sparsity: over all, drawn as a line.
    """
    columns = 1 if len(groups) == 1 else 2
    rows = -(-len(groups) // columns)
    highest = max([sparsity, *(value for bars in groups.values() for _, value in bars)])

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for axes, (kind, bars) in zip(grid.flat, groups.items(), strict=False):
            axes.set_visible(True)
            places = range(len(bars))
            axes.bar(places, [100 * value for _, value in bars], color=TICKET, width=0.68)
            axes.axhline(100 * sparsity, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            every = -(-len(bars) // 8)
            axes.set_xticks(list(places)[::every], [name for name, _ in bars][::every])
            axes.set_xlim(-0.7, max(len(bars), 4) - 0.3)
            axes.set_title(kind if len(kind) <= 28 else f"…{kind[-27:]}", loc="left", pad=4)
            axes.set_ylim(0, min(104.0, 114 * highest) or 1.0)
            axes.tick_params(axis="y", colors=MUTED, length=0)
            axes.tick_params(axis="x", length=0)
            axes.grid(axis="y", linewidth=0.6)
            axes.spines["left"].set_visible(False)
        figure.supylabel("sparsity (%)", color=MUTED, fontsize=9.5)
        figure.supxlabel("block", color=MUTED, fontsize=9.5)

    values = [value for bars in groups.values() for _, value in bars]
    words = (
        f"Sparsity by kind of matrix and block, from {min(values):.1%} to {max(values):.1%}; "
        f"{sparsity:.1%} over all."
    )
    return svg(draw, 0.45 + 1.25 * rows, "layers", words)


def arm_of(evidence: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an arm's part of the evidence by its name."""
    arm: Mapping[str, Any] = (
        evidence[name] if name in ("dense", "ticket") else evidence["controls"][name]
    )
    return arm


def _strip(values: Sequence[float]) -> list[float]:
    """Set equal values a little apart, so that each dot is seen."""
    seen: dict[float, int] = {}
    offsets = []
    for value in values:
        turn = seen[value] = seen.get(value, -1) + 1
        offsets.append((0.11 * ((turn + 1) // 2)) * (-1 if turn % 2 else 1))
    return offsets
