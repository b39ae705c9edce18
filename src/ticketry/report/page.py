"""What the page says: records in, values for the template out."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ticketry.metrics import say_difference, say_score, scale_of, unit_of
from ticketry.report import figures
from ticketry.report.costs import cost_of
from ticketry.report.curves import ANSWERS, Tested, Trail, curve
from ticketry.report.drawing import draw_page
from ticketry.report.grids import cost_bars, kept_map
from ticketry.report.layers import (
    kept_grid,
    layer_groups,
    layer_row,
    layer_words,
    weights_words,
)
from ticketry.searchspec import REWINDS
from ticketry.verdict import Verdict
from ticketry.verdict.wording import headline

PLAIN = {"pattern": "unstructured", "allocation": "global"}


def render(
    evidence: Mapping[str, Any],
    config: Mapping[str, Any],
    times: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None,
) -> str:
    """Return the page; see :func:`ticketry.report.render_report`."""
    return draw_page("report.html.j2", page(evidence, config, times, plan))


def page(
    evidence: Mapping[str, Any],
    config: Mapping[str, Any],
    times: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return everything that the template shows; every value is plain text but ``figures``."""
    verdict = Verdict.from_json(evidence["verdict"])
    metric = verdict.metric
    first, *others = verdict.sentences()
    arms = [("dense", "dense"), ("ticket", "ticket")]
    arms += [(name, name) for name in evidence["controls"]]
    scale = scale_of(metric)
    groups = layer_groups(evidence["layers"])
    grid, blocks = kept_grid(evidence["layers"])
    tested, trail = Tested.of(evidence), Trail.of(evidence)
    cost = cost_of(evidence, times, plan)
    return {
        "tone": _tone(verdict),
        "headline": headline(verdict),
        "first": first.removeprefix(f"{headline(verdict)}: "),
        "others": others,
        "task": evidence["task"],
        "base": evidence["base"],
        "sparsity": f"{evidence['sparsity']:.1%}",
        "metric": metric,
        "margin": f"{say_difference(metric, verdict.margin)}{unit_of(metric)}",
        "readings": _readings(verdict),
        "interval_rows": _interval_rows(verdict),
        "arms": [_arm_row(evidence, verdict, label, name) for label, name in arms],
        "seeds": evidence["seeds"],
        "layers": [layer_row(row) for row in evidence["layers"]],
        "kept": _kept_rows(grid, blocks),
        "blocks": blocks,
        "curve_rows": _curve_rows(tested, trail, metric),
        "trailed": len(trail.points) > 1,
        "layer_words": layer_words(evidence),
        "weights": weights_words(evidence),
        "search": _search(evidence, metric),
        "cost": cost,
        "data": _data(evidence),
        "recipe": _recipe(evidence["recipe"]),
        "warnings": evidence["warnings"],
        "command": command_lines(evidence["command"]),
        "hashes": _hashes(evidence, config),
        "figures": {
            "intervals": figures.intervals(verdict, scale),
            "scores": figures.scores(evidence, verdict, arms, scale),
            "layers": figures.layers(groups, evidence["sparsity"]) if groups else "",
            "curve": curve([tested], metric, scale, trail),
            "kept": kept_map(grid, blocks) if grid else "",
            "cost": cost_bars(cost["bars"]) if cost["bars"] else "",
        },
    }


def _tone(verdict: Verdict) -> str:
    if verdict.noninferior == "yes":
        return "open" if verdict.winning is False or verdict.undertrained_reference else "good"
    return "bad" if verdict.noninferior == "no" else "open"


def _interval_rows(verdict: Verdict) -> list[dict[str, str]]:
    rows = [
        ("by seeds", f"Student's t over {verdict.replicates} paired seeds",
         verdict.seed_ci_low, verdict.seed_ci_high),
        ("by test examples", f"bootstrap over {verdict.test_examples:,} test examples, all "
         "replicates together", verdict.example_ci_low, verdict.example_ci_high),
        ("overall", "both sources of noise together; never narrower than either",
         verdict.overall_ci_low, verdict.overall_ci_high),
    ]  # fmt: skip
    return [
        {
            "name": name,
            "how": how,
            "low": say_difference(verdict.metric, low, decimals=2, sign=True),
            "high": say_difference(verdict.metric, high, decimals=2, sign=True),
        }
        for name, how, low, high in rows
    ]


def _readings(verdict: Verdict) -> list[tuple[str, str]]:
    said = {True: "yes", False: "no", None: "not tested"}
    winning = said[verdict.winning] if verdict.at_theta0 else "not said: it starts elsewhere"
    if verdict.winning is False and verdict.noninferior != "no":
        winning = "not shown"
    return [
        ("Not worse than dense by more than the margin (noninferior)", verdict.noninferior),
        ("Winning: not worse, and better than random-layerwise", winning),
        ("Papers' reading: within one standard deviation of dense", said[verdict.matches_paper]),
        ("Strict reading: mean at least that of dense", said[verdict.matches_strict]),
        ("Dense reference undertrained", said[verdict.undertrained_reference]),
    ]


def _arm_row(
    evidence: Mapping[str, Any], verdict: Verdict, label: str, name: str
) -> dict[str, Any]:
    arm, metric = figures.arm_of(evidence, name), verdict.metric
    less = ""
    if name == "ticket":
        less = say_difference(metric, verdict.difference, sign=True)
    elif name != "dense":
        gap = arm["mean"] - verdict.dense_mean
        less = say_difference(metric, gap if verdict.direction == "higher" else -gap, sign=True)
    validation = statistics.fmean(arm["validation_scores"])
    half = arm.get("half_budget_validation_scores")
    return {
        "label": label,
        "kind": {"dense": "dense", "ticket": "ticket"}.get(name, "control"),
        "description": arm.get("description", ""),
        "mean": say_score(metric, arm["mean"]),
        "std": say_difference(metric, arm["std"], decimals=2),
        "scores": ", ".join(say_score(metric, score) for score in arm["scores"]),
        "against_dense": less,
        "validation": say_score(metric, validation),
        "half_budget": say_score(metric, statistics.fmean(half)) if half else "",
    }


def _search(evidence: Mapping[str, Any], metric: str) -> dict[str, Any]:
    search = evidence["search"]
    before, levels = 0.0, []
    for level in search["levels"]:
        score = level.get("validation_score")
        levels.append(
            {
                "level": level["level"],
                "trained_at": f"{before:.1%}",
                "sparsity": f"{level['sparsity']:.1%}",
                "kept": f"{level['kept']:,}",
                "validation": "" if score is None else say_score(metric, score),
            }
        )
        before = level["sparsity"]
    how = {
        "imp": "Rounds of training and pruning (imp)",
        "one-shot": "One-shot pruning",
        "gradual": "Pruning within one training (gradual)",
    }
    method = how.get(search["method"], search["method"])
    rewind = REWINDS.get(search.get("rewind", "pretrained"), "")
    if search["method"] == "imp":
        step = search.get("rewind_step")
        method += f": {rewind}{f' ({step})' if step else ''}"
    for name in ("pattern", "allocation"):
        if search.get(name, PLAIN[name]) != PLAIN[name]:
            method += f", {name} {search[name]}"
    where = {"theta0": "the pre-trained weights θ0", "trained": "trained weights"}
    return {
        "method": method,
        "from": where.get(search["from"], search["from"]),
        "criterion": search["criterion"],
        "levels": levels,
        "scored": any(level["validation"] for level in levels),
    }


def _kept_rows(
    grid: Mapping[str, Mapping[str, float]], blocks: Sequence[str]
) -> list[tuple[str, list[str]]]:
    return [
        (kind, [f"{row[block]:.1%}" if block in row else "–" for block in blocks])
        for kind, row in grid.items()
    ]


def _curve_rows(tested: Tested, trail: Trail, metric: str) -> list[dict[str, str]]:
    """Return the numbers of the curve: what, on which split, at which sparsity, and the score."""

    def row(what: str, split: str, at: float, mean: float, std: float | None) -> dict[str, str]:
        spread = "–" if std is None else say_difference(metric, std, decimals=2)
        mean_text = say_score(metric, mean)
        return {"what": what, "split": split, "at": f"{at:.1%}", "mean": mean_text, "std": spread}

    rows = [
        row(f"search, level {n}", "validation", at, score, None)
        for n, (at, score) in enumerate(trail.points, start=1)
    ]
    rows.append(row("dense", "validation", 0.0, trail.dense, None))
    rows.append(row("dense", "test", 0.0, *tested.dense))
    said = ANSWERS[tested.answer]
    rows.append(row(f"ticket ({said})", "test", tested.sparsity, *tested.ticket))
    rows += [row(name, "test", tested.sparsity, *arm) for name, arm in tested.controls.items()]
    return rows


def _data(evidence: Mapping[str, Any]) -> dict[str, Any]:
    data = evidence["data"]
    cut = data.get("truncated") or {}
    return {
        "source": data["source"],
        "labels": ", ".join(str(label) for label in data["labels"]) or "none",
        "splits": [
            {
                "name": name,
                "examples": f"{data[name]:,}",
                "truncated": f"{cut[name]:,}" if name in cut else "",
            }
            for name in ("train", "validation", "test")
        ],
        "truncated": bool(cut),
        "notes": data["notes"],
    }


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        (name.replace("_", " "), "all" if value is None else str(value))
        for name, value in sorted(recipe.items())
        if name != "description"
    ]
    return {"words": recipe.get("description", ""), "rows": rows}


def _hashes(evidence: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("base model", f"{evidence['base']['name']}"),
        ("base revision", str(evidence["base"]["revision"] or "none given")),
        ("base weights, SHA-256", evidence["base"]["sha256"]),
        ("data, SHA-256", evidence["data_sha256"]),
        ("mask, SHA-256", str(config.get("mask_digest", "not recorded"))),
        ("search seeds", _numbers(evidence["seeds"]["search"]) or "none"),
        ("replicate seeds", _numbers(evidence["seeds"]["verify"])),
    ]


def command_lines(command: str) -> str:
    """Break a shell command before its options, so that it can be read and still be pasted."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    lines = [""]
    for word in words:
        if word.startswith("--"):
            lines.append(" ")
        lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(line.removeprefix(" ") if not n else line for n, line in enumerate(lines))


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


__all__ = ["page", "render"]
