"""The page on several tickets: a comparison in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.metrics import say_difference, say_score, scale_of
from ticketry.report import drawing, require_report
from ticketry.report.curves import Tested, curve
from ticketry.report.drawing import draw_page
from ticketry.report.kernels import draw_kernel_maps, zero_kernels
from ticketry.report.likenesses import MOST_LISTED, beyond, likeness_map, pair_rows, part_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAIRS = 28
"""Pairs that are drawn; the table has all."""


def render_comparison(found: Mapping[str, Any]) -> str:
    """Return one self-contained page about a comparison (:func:`ticketry.comparison.compare`).

    Raises:
        InputError: jinja2 or matplotlib is not installed.
    """
    require_report()
    groups = _groups(found["tickets"])
    values = {
        "base": found["base"],
        "rows": [_row(row) for row in found["tickets"]],
        "groups": [
            {
                "name": f"curve-{number}",
                "task": task,
                "metric": rows[0]["metric"],
                "rows": [line for row in rows for line in _curve_rows(row)],
            }
            for number, (task, rows) in enumerate(groups.items())
        ],
        "pairs": [row for pair in found["overlaps"] for row in pair_rows(pair)],
        "beyond": [_beyond(pair) for pair in found["overlaps"]],
        "kinds": _parts(found["overlaps"], "kinds"),
        "tensors": _parts(found["overlaps"][:MOST_LISTED], "layers"),
        "listed": min(MOST_LISTED, len(found["overlaps"])),
        "counted": len(found["overlaps"]),
        "figures": {
            "overlaps": _bars(found["overlaps"][:MOST_PAIRS]),
            "likeness": _map(found) if len(found["tickets"]) > 2 else "",
            "kernels": draw_kernel_maps(found["kernel_maps"]) if found["kernel_maps"] else "",
            **{f"curve-{n}": _curve(rows, n) for n, rows in enumerate(groups.values())},
        },
        "drawn": min(MOST_PAIRS, len(found["overlaps"])),
        "labels": [row["label"] for row in found["tickets"]],
        "kernels": _kernels(found["kernels"]),
        "mapped": (found["kernel_maps"] or {}).get("name"),
        "layers": [
            {
                "name": layer["name"],
                "densities": [f"{layer['density'][r['label']]:.1%}" for r in found["tickets"]],
            }
            for layer in found["layers"]
        ],
    }
    return draw_page("compare.html.j2", values)


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


def _beyond(pair: Mapping[str, Any]) -> dict[str, str]:
    said = {"a": pair["a"], "b": pair["b"], "words": beyond(pair)}
    for kind, chance in pair["chance"].items():
        said[kind] = "–" if chance["z"] is None else f"{chance['z']:+,.1f}"
    share = pair["by_layers"]
    return {**said, "by_layers": "–" if share is None else f"{share:.0%}"}


def _parts(pairs: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, str]]:
    return [part_row(pair, part) for pair in pairs for part in pair[name]]


def _kernels(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a tensor, and one of all: zero kernels of each ticket, and chance."""
    rows = [
        {
            "name": row["name"],
            "kernels": f"{row['kernels']:,}",
            "cells": [
                f"{ticket['zero'] / row['kernels']:.1%} "
                f"({ticket['zero_expected'] / row['kernels']:.1%})"
                if row["kernels"]
                else "–"
                for ticket in row["tickets"].values()
            ],
            "empty": [f"{ticket['empty_outputs']:,}" for ticket in row["tickets"].values()],
        }
        for row in facts
    ]
    if rows:
        rows.append(
            {
                "name": "all of them",
                "kernels": f"{sum(row['kernels'] for row in facts):,}",
                "cells": [f"{share:.1%} ({chance:.1%})" for share, chance in
                          zero_kernels(facts).values()],
                "empty": [
                    f"{sum(row['tickets'][label]['empty_outputs'] for row in facts):,}"
                    for label in facts[0]["tickets"]
                ],
            }
        )  # fmt: skip
    return rows


def _map(found: Mapping[str, Any]) -> str:
    return likeness_map([row["label"] for row in found["tickets"]], found["overlaps"])


def _curve_rows(row: Mapping[str, Any]) -> list[dict[str, str]]:
    arms = {"ticket": row["ticket"], "dense": row["dense"], **row["controls"]}
    return [
        {
            "label": row["label"],
            "sparsity": f"{row['sparsity']:.1%}",
            "arm": name,
            "mean": say_score(row["metric"], arm["mean"]),
            "std": say_difference(row["metric"], arm["std"], decimals=2),
        }
        for name, arm in arms.items()
    ]


def _tested(row: Mapping[str, Any]) -> Tested:
    arms = {"ticket": row["ticket"], "dense": row["dense"], **row["controls"]}
    scores = {name: (arm["mean"], arm["std"]) for name, arm in arms.items()}
    return Tested(
        label=_short(row["label"]),
        sparsity=row["sparsity"],
        ticket=scores.pop("ticket"),
        dense=scores.pop("dense"),
        answer="winning" if row["verdict"]["winning"] else row["verdict"]["noninferior"],
        controls=scores,
    )


def _curve(rows: Sequence[Mapping[str, Any]], number: int) -> str:
    """Draw test score against sparsity: the dense band, tickets marked by verdict, controls."""
    metric = rows[0]["metric"]
    tested = [_tested(row) for row in rows]
    return curve(tested, metric, scale_of(metric), name=f"curve-{number}")


def _bars(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Draw the overlap of each pair as a bar, and chance as a stroke across it."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind in zip(panels, ("kept", "pruned"), strict=True):
            for y, pair in enumerate(pairs):
                axes.barh(y, 100 * pair[kind], color=drawing.TICKET, height=0.55)
                chance = 100 * pair[f"{kind}_by_chance"]
                axes.plot([chance] * 2, [y - 0.42, y + 0.42], color=drawing.BAD, linewidth=2)
            axes.set_xlim(0, 104)
            axes.set_title(f"{kind} weights", loc="left", pad=4)
            axes.set_xlabel("overlap (%)")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", linewidth=0.6)
        names = [f"{_short(pair['a'])} – {_short(pair['b'])}" for pair in pairs]
        panels[0].set_yticks(range(len(pairs)), names)
        panels[0].set_ylim(len(pairs) - 0.4, -0.6)

    words = "; ".join(
        f"{pair['a']} and {pair['b']}: kept {pair['kept']:.1%}, by chance "
        f"{pair['kept_by_chance']:.1%}, pruned {pair['pruned']:.1%}, by chance "
        f"{pair['pruned_by_chance']:.1%}"
        for pair in pairs
    )
    return drawing.svg(
        draw, 0.75 + 0.3 * len(pairs), "overlaps", f"Overlap of each pair of masks: {words}."
    )


def _short(label: str) -> str:
    return label if len(label) <= 14 else f"…{label[-13:]}"
