"""A study's summary for people: Markdown, from ``summary.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ticketry.metrics import say_sparsity
from ticketry.studies.cells import DENSE
from ticketry.studies.remaining import remaining
from ticketry.studies.tables import (
    Section,
    found_on,
    mask_name,
    number,
    points,
    say_largest,
    section,
    table,
)

_SIGNS = {"yes": "yes", "no": "no", "inconclusive": "open"}


def opening(summary: Mapping[str, Any]) -> str:
    """Say how much of a study there is."""
    part = f" on the targets {', '.join(summary['only'])} alone" if summary.get("only") else ""
    return (
        f"{summary['model']}{part}; {summary['trainings_recorded']:,} of {summary['trainings']:,} "
        f"trainings recorded, {summary['hours']:g} hours of training (one worker's time)."
    )


def sections(summary: Mapping[str, Any]) -> list[Section]:
    """Return a study's tables.

    Args:
        summary: as :func:`ticketry.studies.summary.summarise` returns it.
    """
    return [
        *_targets(summary),
        *_curves(summary),
        *remaining(summary),
        *_own(summary),
        *_matrix(summary),
        *_controls(summary),
        *_universality(summary),
        *_overlaps(summary),
        *_kernels(summary),
        *_contrasts(summary),
    ]


def page(summary: Mapping[str, Any], level: int = 1) -> str:
    """Return a study's page as Markdown.

    Args:
        summary: as :func:`ticketry.studies.summary.summarise` returns it.
        level: of its heading.
    """
    lines = [f"{'#' * level} {summary['study']}: {summary['title']}", ""]
    if summary["paper"]:
        lines += [f"The paper's {summary['paper']}.", ""]
    lines += [opening(summary), ""]
    for part in sections(summary):
        words = f": {part.words}" if part.words else ""
        lines += [f"**{part.title}**{words}", "", *table(part.head, part.rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _targets(summary: Mapping[str, Any]) -> list[Section]:
    rows = []
    for name, target in summary["targets"].items():
        dense = _cell(summary, arm=DENSE, target=name)
        stamp = {True: "undertrained", False: "no more to learn", None: "–"}
        rows.append(
            [
                name,
                target["metric"],
                number(target, dense["mean"]),
                points(target, dense["std_all"]),
                str(sum(map(len, dense["scores"]))),
                points(target, target["budget_gain"], signed=True),
                stamp[target["undertrained_reference"]],
            ]
        )
    head = ["dense on", "metric", "mean", "std", "runs", "gain of the budget's second half", ""]
    return section("Dense", "test scores over all fine-tunings", head, rows)


def _cell(summary: Mapping[str, Any], **wanted: Any) -> Mapping[str, Any]:
    for cell in summary["cells"]:
        if all(cell[name] == value for name, value in wanted.items()):
            found: Mapping[str, Any] = cell
            return found
    raise KeyError(wanted)


def _curves(summary: Mapping[str, Any]) -> list[Section]:
    """Score minus dense against sparsity, where a method has several."""
    curves = [curve for curve in summary["curves"] if len(curve["sparsities"]) > 1]
    if not curves:
        return []
    sparsities = sorted({s for curve in curves for s in curve["sparsities"]})
    rows = []
    for curve in curves:
        row = [curve["target"], mask_name(curve)]
        for sparsity in sparsities:
            row.append(
                _against(
                    summary,
                    "dense",
                    arm=curve["arm"],
                    source=curve["source"],
                    target=curve["target"],
                    sparsity=sparsity,
                    control=None,
                )
            )
        rows.append([*row, *say_largest(curve)])
    head = [
        "task",
        "mask",
        *(say_sparsity(s) for s in sparsities),
        "largest within 1 std",
        "largest ≥ mean",
        "largest non-inferior",
    ]
    words = "test score minus dense, in points, masks' mean (verdict of non-inferiority)"
    return section("Score against sparsity", words, head, rows)


def _own(summary: Mapping[str, Any]) -> list[Section]:
    """Method × task on each task's own masks, where they stand in neither curve nor matrix."""
    of = [(c["arm"], c["source"], c["target"]) for c in summary["cells"] if c["control"] is None]
    cells = [c for c in summary["cells"] if c["control"] is None and c["arm"] != DENSE]
    met = {(c["arm"], c["sparsity"]) for c in cells if c["source"] != c["target"]}
    alone = [
        c
        for c in cells
        if of.count((c["arm"], c["source"], c["target"])) == 1
        and (c["arm"], c["sparsity"]) not in met
    ]
    targets = [t for t in summary["targets"] if any(c["target"] == t for c in alone)]
    rows = []
    for arm, sparsity in dict.fromkeys((c["arm"], c["sparsity"]) for c in alone):
        there = {"arm": arm, "sparsity": sparsity, "control": None}
        texts = [_against(summary, "dense", source=t, target=t, **there) for t in targets]
        rows.append([arm, say_sparsity(sparsity), *texts])
    words = "test score minus dense, in points, masks' mean (verdict of non-inferiority)"
    return section("Each task's own masks", words, ["mask", "sparsity", *targets], rows)


def _matrix(summary: Mapping[str, Any]) -> list[Section]:
    """Source × target at each sparsity, where sources meet other targets."""
    found: list[Section] = []
    cells = [c for c in summary["cells"] if c["arm"] != DENSE and c["control"] is None]
    groups = dict.fromkeys((c["arm"], c["sparsity"]) for c in cells if c["source"] != c["target"])
    for sparsity in dict.fromkeys(s for _, s in groups):
        met = {
            c["target"]
            for c in cells
            if c["sparsity"] == sparsity and (c["arm"], sparsity) in groups
        }
        targets = [target for target in summary["targets"] if target in met]
        rows = []
        for arm in dict.fromkeys(a for a, s in groups if s == sparsity):
            sources = dict.fromkeys(
                c["source"] for c in cells if c["arm"] == arm and c["sparsity"] == sparsity
            )
            for source in sources:
                place = {"arm": arm, "source": source, "sparsity": sparsity, "control": None}
                rows.append(
                    [
                        found_on(arm, source),
                        *(_against(summary, "dense", target=t, **place) for t in targets),
                    ]
                )
                same = [_against(summary, "same-task", target=t, **place) for t in targets]
                if any(text != "–" for text in same):
                    rows.append(["… against the same-task mask", *same])
        found += section(
            f"Transfer at {say_sparsity(sparsity)} sparsity",
            "test score minus dense, in points (verdict of non-inferiority)",
            ["mask ↓, fine-tuned on →", *targets],
            rows,
        )
    return found


def _controls(summary: Mapping[str, Any]) -> list[Section]:
    cells = [c for c in summary["cells"] if c["control"] is not None]
    if not cells:
        return []
    rows = []
    for cell in cells:
        place = {name: cell[name] for name in ("arm", "source", "target", "sparsity")}
        ticket = _cell(summary, control=None, **place)
        target = summary["targets"][cell["target"]]
        beaten = ticket["against"].get(cell["control"])
        rows.append(
            [
                cell["control"],
                found_on(cell["arm"], cell["source"]),
                cell["target"],
                say_sparsity(cell["sparsity"]),
                number(target, ticket["mean"]),
                number(target, cell["mean"]),
                "–" if beaten is None else points(target, beaten["difference"], signed=True),
                "–" if beaten is None else ("yes" if beaten["beaten"] else "no"),
            ]
        )
    head = ["control", "of the mask", "on", "sparsity", "mask", "control", "difference",
            "mask is better (one-sided 95%)"]  # fmt: skip
    return section("Controls", "test scores", head, rows)


def _universality(summary: Mapping[str, Any]) -> list[Section]:
    rows = []
    for row in summary["universality"]:
        readings = row["readings"]
        rows.append(
            [
                found_on(row["arm"], row["source"]),
                say_sparsity(row["sparsity"]),
                ", ".join(row["tasks"]),
                *(
                    readings[name]["answer"] if name in readings else "–"
                    for name in ("dense", "same-task")
                ),
            ]
        )
    if not rows:
        return []
    head = ["mask", "sparsity", "for", "not inferior to dense on all",
            "not inferior to the same-task mask on all"]  # fmt: skip
    return section("Universal for the named set?", "", head, rows)


def _overlaps(summary: Mapping[str, Any]) -> list[Section]:
    found: list[Section] = []
    for near in summary["overlaps"]:
        groups: dict[tuple[str, str | None], list[int]] = {}
        for i, mask in enumerate(near["masks"]):
            groups.setdefault((mask["arm"], mask["source"]), []).append(i)
        names = [found_on(*mask) for mask in groups]
        rows = []
        for name, ours in zip(names, groups.values(), strict=True):
            row = [name]
            for theirs in groups.values():
                pairs = [(i, j) for i in ours for j in theirs if i != j]
                if not pairs:
                    row.append("–")
                    continue
                kept, expected, pruned = (
                    sum(near[which][i][j] for i, j in pairs) / len(pairs)
                    for which in ("kept_iou", "kept_expected", "pruned_iou")
                )
                row.append(f"{kept:.3f} / {pruned:.3f} ({expected:.3f})")
            rows.append(row)
        found += section(
            f"Overlap of masks at {say_sparsity(near['sparsity'])} sparsity",
            "intersection over union of kept / of pruned weights (of kept ones by chance at their "
            "layer densities)",
            ["mask", *names],
            rows,
        )
    return found


def _kernels(summary: Mapping[str, Any]) -> list[Section]:
    groups: dict[tuple[str, str | None, float], list[Mapping[str, Any]]] = {}
    for row in summary.get("kernels", ()):
        groups.setdefault((row["arm"], row["source"], row["sparsity"]), []).append(row)
    rows = []
    for (arm, source, sparsity), masks in groups.items():
        zero, expected = (
            sum(mask[name] for mask in masks) / len(masks) for name in ("zero", "zero_expected")
        )
        rows.append(
            [
                found_on(arm, source),
                say_sparsity(sparsity),
                str(len(masks)),
                f"{100 * zero:.2f}%",
                f"{100 * expected:.2f}%",
            ]
        )
    head = ["mask", "sparsity", "masks", "zero kernels", "by chance"]
    words = (
        "share of convolution kernels of which nothing is kept, and of random masks with the "
        "same layer densities; kernels of one weight are left out"
    )
    return section("Zero kernels", words, head, rows)


def _contrasts(summary: Mapping[str, Any]) -> list[Section]:
    rows = []
    for found in summary["contrasts"]:
        interval = "–"
        if "difference" in found:
            interval = (
                f"{100 * found['difference']:+.2f} "
                f"[{100 * found['ci_low']:+.2f}, {100 * found['ci_high']:+.2f}]"
            )
        check = found.get("manipulation_check")
        moved = "–"
        if check is not None:
            moved = f"{check['between_arms']:.3f} / {check['between_seeds']:.3f}"
        rows.append(
            [
                f"{found['a']} − {found['b']}",
                say_sparsity(found["sparsity"]),
                str(found["searches"]),
                interval,
                f"±{100 * found['margin']:g}",
                moved,
                found["answer"],
            ]
        )
    if not rows:
        return []
    head = ["arms", "sparsity", "searches", "difference in points, 90% interval", "margin",
            "masks' distance between arms / between seeds", "answer"]  # fmt: skip
    words = "mean over targets, paired by search seed, interval over searches"
    return section("Contrasts", words, head, rows)


def _against(summary: Mapping[str, Any], reference: str, **wanted: Any) -> str:
    try:
        cell = _cell(summary, **wanted)
    except KeyError:
        return "–"
    found = cell["against"].get(reference)
    if found is None:
        return "–"
    target = summary["targets"][cell["target"]]
    difference = points(target, found["difference"], signed=True)
    return f"{difference} ({_SIGNS[found['noninferior']]})"
