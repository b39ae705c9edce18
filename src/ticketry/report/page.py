"""What the page says: records in, values for the template out."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ticketry.metrics import say_difference, say_score, scale_of, unit_of
from ticketry.report import figures
from ticketry.searchspec import REWINDS
from ticketry.verdict import Verdict
from ticketry.verdict.wording import headline

PLAIN = {"pattern": "unstructured", "allocation": "global"}
MOST_PANELS = 12
"""More kinds of matrices than this are drawn as one panel."""


def render(
    evidence: Mapping[str, Any], config: Mapping[str, Any], times: Mapping[str, Any] | None
) -> str:
    """Return the page; see :func:`ticketry.report.render_report`."""
    from markupsafe import Markup

    values = page(evidence, config, times)
    values["figures"] = {name: Markup(svg) for name, svg in values["figures"].items()}
    return environment().get_template("report.html.j2").render(**values)


def environment() -> Any:
    """Return the templates; everything put into them is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("ticketry"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(
    evidence: Mapping[str, Any], config: Mapping[str, Any], times: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return everything that the template shows; every value is plain text but ``figures``."""
    verdict = Verdict.from_json(evidence["verdict"])
    metric = verdict.metric
    first, *others = verdict.sentences()
    arms = [("dense", "dense"), ("ticket", "ticket")]
    arms += [(name, name) for name in evidence["controls"]]
    scale = scale_of(metric)
    groups = layer_groups(evidence["layers"])
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
        "layers": [_layer_row(row) for row in evidence["layers"]],
        "layer_words": _layer_words(evidence),
        "weights": _weights(evidence),
        "search": _search(evidence, metric),
        "cost": _cost(evidence, times),
        "data": _data(evidence),
        "recipe": _recipe(evidence["recipe"]),
        "warnings": evidence["warnings"],
        "command": command_lines(evidence["command"]),
        "hashes": _hashes(evidence, config),
        "figures": {
            "intervals": figures.intervals(verdict, scale),
            "scores": figures.scores(evidence, verdict, arms, scale),
            "layers": figures.layers(groups, evidence["sparsity"]) if groups else "",
            "levels": _levels_figure(evidence, verdict, scale),
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


def _layer_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": row["name"],
        "shape": " × ".join(str(size) for size in row["shape"]),
        "kept": f"{row['kept']:,}",
        "prunable": f"{row['prunable']:,}",
        "sparsity": f"{_sparsity(row):.1%}",
    }


def _sparsity(row: Mapping[str, Any]) -> float:
    return 1.0 - float(row["kept"] / row["prunable"]) if row["prunable"] else 0.0


_BLOCK = re.compile(r"^(?:.*?\.)??(\d+)\.(.+?)(?:\.weight)?$")


def layer_groups(layers: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """Group tensors into kinds of matrices by their names, in the order of their blocks.

    ``encoder.layer.3.output.dense.weight`` is block 3 of the kind ``output.dense``; a name without
    a number is a kind of its own. With too many kinds, tensors are merged by block.

    Returns:
        kind -> [(block, sparsity)].
    """
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in layers:
        match = _BLOCK.match(row["name"])
        block, kind = (int(match[1]), match[2]) if match else (-1, row["name"])
        found.setdefault(kind.removesuffix(".weight"), {}).setdefault(block, []).append(row)
    if len(found) > MOST_PANELS:
        merged: dict[int, list[Mapping[str, Any]]] = {}
        for blocks in found.values():
            for block, rows in blocks.items():
                merged.setdefault(block, []).extend(rows)
        found = {"all prunable tensors of a block": merged}
    return {
        kind: [
            ("" if block < 0 else str(block), _merged_sparsity(rows))
            for block, rows in sorted(blocks.items())
        ]
        for kind, blocks in found.items()
    }


def _merged_sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    kept, prunable = (sum(row[name] for row in rows) for name in ("kept", "prunable"))
    return _sparsity({"kept": kept, "prunable": prunable})


def _layer_words(evidence: Mapping[str, Any]) -> str:
    rows = evidence["layers"]
    if not rows:
        return "No tensors are recorded."
    low, high = min(rows, key=_sparsity), max(rows, key=_sparsity)
    return (
        f"From {_sparsity(low):.1%} in {low['name']} to {_sparsity(high):.1%} in {high['name']}; "
        f"{evidence['sparsity']:.1%} over all (the dashed line)."
    )


def _weights(evidence: Mapping[str, Any]) -> str:
    return (
        f"{evidence['kept']:,} of {evidence['prunable']:,} prunable weights are kept. Over all "
        f"{evidence['total_parameters']:,} parameters of the base model, embeddings included, "
        f"{evidence['model_sparsity']:.1%} are pruned."
    )


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


def _levels_figure(evidence: Mapping[str, Any], verdict: Verdict, scale: float) -> str:
    """A curve needs two points; a level trains the network that the level before left."""
    before, points = 0.0, []
    for level in evidence["search"]["levels"]:
        if level.get("validation_score") is not None:
            points.append((before, level["validation_score"]))
        before = level["sparsity"]
    if len(points) < 2:
        return ""
    dense = statistics.fmean(evidence["dense"]["validation_scores"])
    return figures.levels(points, dense, verdict.metric, scale)


def _cost(evidence: Mapping[str, Any], times: Mapping[str, Any] | None) -> dict[str, Any]:
    cost = evidence["search"]["cost_dense_equivalents"]
    trainings = (times or {}).get("trainings", [])
    spent = [row["seconds"] for row in trainings if row.get("seconds") is not None]
    environment = (times or {}).get("environment", {})
    return {
        "search": "" if cost is None else f"{cost:.2f}",
        "wall": duration(times["wall_s"]) if times else "",
        "sum": duration(sum(spent)) if spent else "",
        "trainings": [
            {"name": row["name"], "seconds": f"{row['seconds']:,.1f}"}
            for row in trainings
            if row.get("seconds") is not None
        ],
        "environment": [(str(name), str(value)) for name, value in sorted(environment.items())],
    }


def duration(seconds: float) -> str:
    """Say seconds as people do."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


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


__all__ = ["environment", "layer_groups", "page", "render"]
