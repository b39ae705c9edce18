"""The page on several tickets: a comparison in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.metrics import say_difference, say_score, scale_of
from ticketry.report import figures
from ticketry.report.page import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAIRS = 28
"""Pairs that are drawn; the table has all."""


def render_comparison(found: Mapping[str, Any]) -> str:
    """Return one self-contained page about a comparison (:func:`ticketry.comparison.compare`).

    Raises:
        InputError: jinja2 or matplotlib is not installed.
    """
    from markupsafe import Markup

    groups = _groups(found["tickets"])
    values = {
        "base": found["base"],
        "rows": [_row(row) for row in found["tickets"]],
        "groups": [
            {"task": task, "metric": rows[0]["metric"], "figure": Markup(_curve(rows, number))}
            | {"words": _curve_words(rows)}
            for number, (task, rows) in enumerate(groups.items())
        ],
        "pairs": [_pair(pair) for pair in found["overlaps"]],
        "overlaps": Markup(_bars(found["overlaps"][:MOST_PAIRS])),
        "drawn": min(MOST_PAIRS, len(found["overlaps"])),
        "labels": [row["label"] for row in found["tickets"]],
        "layers": [
            {
                "name": layer["name"],
                "densities": [f"{layer['density'][r['label']]:.1%}" for r in found["tickets"]],
            }
            for layer in found["layers"]
        ],
    }
    return environment().get_template("compare.html.j2").render(**values)


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Put tickets together that were verified on the same data with the same metric."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["verdict"] is not None:
            groups.setdefault((row["data_sha256"], row["metric"]), []).append(row)
    named: dict[str, list[Mapping[str, Any]]] = {}
    for (sha256, _), members in groups.items():
        name = members[0]["task"]
        if name in named:  # other data under the same name
            name = f"{name} (data {sha256[:8]})"
        named[name] = sorted(members, key=lambda row: row["sparsity"])
    return named


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    said = {
        "label": row["label"],
        "sparsity": f"{row['sparsity']:.1%}",
        "pattern": row["pattern"],
        "digest": row["mask_digest"][:12],
        "task": "–",
        "verdict": "candidate",
        "winning": "–",
        "score": "–",
        "dense": "–",
        "difference": "–",
        "method": "–",
        "cost": "–",
    }
    if row["verdict"] is None:
        return said
    winning = {True: "yes", False: "no", None: "not tested"}[row["verdict"]["winning"]]
    stamp = " (undertrained reference)" if row["undertrained_reference"] else ""
    cost = row["cost_dense_equivalents"]
    return said | {
        "task": row["task"],
        "verdict": row["verdict"]["noninferior"] + stamp,
        "winning": winning,
        "score": _mean_std(row["metric"], row["ticket"]),
        "dense": _mean_std(row["metric"], row["dense"]),
        "difference": say_difference(row["metric"], row["difference"], sign=True),
        "method": f"{row['method']}, {row['criterion']}",
        "cost": "–" if cost is None else f"{cost:.2f}",
    }


def _mean_std(metric: str, arm: Mapping[str, Any]) -> str:
    spread = say_difference(metric, arm["std"], decimals=2)
    return f"{say_score(metric, arm['mean'])} ± {spread} (n = {arm['replicates']})"


def _pair(pair: Mapping[str, Any]) -> dict[str, str]:
    said = {name: pair[name] for name in ("a", "b")}
    for name in ("kept", "kept_by_chance", "pruned", "pruned_by_chance"):
        said[name] = f"{pair[name]:.1%}"
    return said


def _curve_words(rows: Sequence[Mapping[str, Any]]) -> str:
    metric = rows[0]["metric"]
    parts = [
        f"at {row['sparsity']:.1%} ticket {say_score(metric, row['ticket']['mean'])}, dense "
        f"{say_score(metric, row['dense']['mean'])}"
        + "".join(
            f", {name} {say_score(metric, arm['mean'])}" for name, arm in row["controls"].items()
        )
        for row in rows
    ]
    return "; ".join(parts) + "."


def _curve(rows: Sequence[Mapping[str, Any]], number: int) -> str:
    """Draw test score against sparsity: dense with one standard deviation, ticket, controls."""
    scale = scale_of(rows[0]["metric"])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        x = [100 * row["sparsity"] for row in rows]
        low = [scale * (row["dense"]["mean"] - row["dense"]["std"]) for row in rows]
        high = [scale * (row["dense"]["mean"] + row["dense"]["std"]) for row in rows]
        means = [scale * row["dense"]["mean"] for row in rows]
        if len(rows) > 1:
            axes.fill_between(x, low, high, color=figures.DENSE, alpha=0.2, linewidth=0)
            axes.plot(x, means, color=figures.DENSE, linewidth=1.2)
        axes.errorbar(
            x, means, yerr=[scale * row["dense"]["std"] for row in rows], fmt="s",
            color=figures.DENSE, markersize=4, linewidth=1, label="dense",
        )  # fmt: skip
        axes.errorbar(
            x, [scale * row["ticket"]["mean"] for row in rows],
            yerr=[scale * row["ticket"]["std"] for row in rows], fmt="o-",
            color=figures.TICKET, markersize=5.5, linewidth=1.8, label="ticket",
        )  # fmt: skip
        for style, name in zip("^vD<>pP*Xd", _controls(rows), strict=False):
            points = [
                (at, scale * row["controls"][name]["mean"])
                for at, row in zip(x, rows, strict=True)
                if name in row["controls"]
            ]
            axes.plot(
                [p[0] for p in points], [p[1] for p in points], style, color=figures.CONTROL,
                markersize=6, linestyle=":", linewidth=1, label=name,
            )  # fmt: skip
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel(f"test {rows[0]['metric']}{' (%)' if scale == 100 else ''}")
        axes.grid(axis="y", linewidth=0.6)
        axes.tick_params(axis="y", colors=figures.MUTED)
        axes.margins(x=0.08)
        axes.legend(frameon=False, fontsize=8.5, labelcolor=figures.INK)

    return figures.draw_svg(draw, 2.9, f"curve-{number}")


def _controls(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["controls"]))


def _bars(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Draw the overlap of each pair as a bar, and chance as a stroke across it."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind in zip(panels, ("kept", "pruned"), strict=True):
            for y, pair in enumerate(pairs):
                axes.barh(y, 100 * pair[kind], color=figures.TICKET, height=0.55)
                chance = 100 * pair[f"{kind}_by_chance"]
                axes.plot([chance] * 2, [y - 0.42, y + 0.42], color=figures.BAD, linewidth=2)
            axes.set_xlim(0, 104)
            axes.set_title(f"{kind} weights", loc="left", pad=4)
            axes.set_xlabel("overlap (%)")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", linewidth=0.6)
        names = [f"{_short(pair['a'])} – {_short(pair['b'])}" for pair in pairs]
        panels[0].set_yticks(range(len(pairs)), names)
        panels[0].set_ylim(len(pairs) - 0.4, -0.6)

    return figures.draw_svg(draw, 0.75 + 0.3 * len(pairs), "overlaps")


def _short(label: str) -> str:
    return label if len(label) <= 14 else f"…{label[-13:]}"
