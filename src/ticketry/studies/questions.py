"""What is asked of all cells together: curves, universality, overlaps, and contrasts of arms."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ticketry.metrics import get_metric
from ticketry.studies.cells import DENSE, CellKey, Found, Grid
from ticketry.studies.ledger import Ledger
from ticketry.studies.spec import Contrast, StudySpec

Cells = Mapping[CellKey, Mapping[str, Any]]
READINGS = ("noninferior", "matches_paper", "matches_strict")


def curves(cells: Cells) -> list[dict[str, Any]]:
    """Return the largest matching sparsity of each method and source on each task, in all readings.

    It is the largest s such that every tested level up to s matches (statistics.md).
    """
    lines: dict[tuple[str, str | None, str], list[CellKey]] = {}
    for key in cells:
        if key.arm != DENSE and key.control is None:
            lines.setdefault((key.arm, key.source, key.target), []).append(key)
    found = []
    for (arm, source, target), keys in lines.items():
        keys.sort(key=lambda key: key.sparsity)
        largest: dict[str, float | None] = {}
        for reading in READINGS:
            largest[reading] = None
            for key in keys:
                against = cells[key]["against"].get("dense")
                if against is None or against[reading] not in (True, "yes"):
                    break
                largest[reading] = key.sparsity
        found.append(
            {
                "arm": arm,
                "source": source,
                "target": target,
                "sparsities": [key.sparsity for key in keys],
                "means": [cells[key]["mean"] for key in keys],
                "largest": largest,
            }
        )
    return found


def universality(spec: StudySpec, cells: Cells) -> list[dict[str, Any]]:
    """Say whether each source's masks hold on every target, by both readings of "universal".

    "dense": not inferior to dense on every target; "same-task": not inferior to the mask of the
    target's own search, at the same sparsity, on every other target. All must pass, so nothing is
    corrected for many comparisons.
    """
    rows: dict[tuple[str, str | None, float], list[CellKey]] = {}
    for key in cells:
        if key.arm != DENSE and key.control is None:
            rows.setdefault((key.arm, key.source, key.sparsity), []).append(key)
    found = []
    for (arm, source, sparsity), keys in rows.items():
        targets = [key.target for key in keys]
        if len(targets) < 2:
            continue
        answers: dict[str, Any] = {}
        for reference in ("dense", "same-task"):
            looked_at = [key for key in keys if reference == "dense" or key.target != key.source]
            said = [
                cells[key]["against"].get(reference, {}).get("noninferior") for key in looked_at
            ]
            if all(answer is None for answer in said):
                continue
            answers[reference] = {
                "answer": _all(said),
                "targets": {
                    key.target: answer for key, answer in zip(looked_at, said, strict=True)
                },
            }
        if answers:
            found.append(
                {
                    "arm": arm,
                    "source": source,
                    "sparsity": sparsity,
                    "tasks": targets,
                    "readings": answers,
                }
            )
    return found


def _all(answers: Sequence[str | None]) -> str:
    if all(answer == "yes" for answer in answers):
        return "yes"
    return "no" if "no" in answers else "inconclusive"


def overlaps(grid: Grid, ledger: Ledger) -> list[dict[str, Any]]:
    """Return how alike the masks of each sparsity are, against chance at their layer densities."""
    found = []
    for step in grid.overlaps:
        if step.key not in ledger:
            continue
        masks = _masks_of(grid, step.needs)
        record = ledger.record(step.key)
        found.append(
            {
                "sparsity": masks[0].sparsity,
                "masks": [
                    {"arm": mask.arm, "source": mask.source, "number": mask.number}
                    for mask in masks
                ],
                **{name: record[name] for name in record if name != "masks"},
            }
        )
    return found


def zero_kernels(grid: Grid, ledger: Ledger) -> list[dict[str, Any]]:
    """Return the share of kernels that each mask empties, and of random ones of its layers."""
    found = []
    for step in grid.kernels:
        if step.key not in ledger:
            continue
        record = ledger.record(step.key)
        rows = zip(
            _masks_of(grid, step.needs),
            *(record[name] for name in ("zero", "zero_expected", "kernels")),
            strict=True,
        )
        found += [
            {
                "sparsity": mask.sparsity,
                "arm": mask.arm,
                "source": mask.source,
                "number": mask.number,
                "zero": zero / kernels,
                "zero_expected": expected / kernels,
            }
            for mask, zero, expected, kernels in rows
            if kernels
        ]
    return found


def _masks_of(grid: Grid, keys: Sequence[str]) -> list[Found]:
    by_key: dict[str, Found] = {}
    for mask in grid.found:
        by_key.setdefault(mask.start.mask_key, mask)
    return [by_key[key] for key in keys]


def contrasts(
    spec: StudySpec, grid: Grid, ledger: Ledger, near: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Answer each contrast, at each sparsity: mean over targets of score(a) - score(b).

    The interval is Student's t over searches, paired by seed, one-sided 95% at either end (a 90%
    interval); within the margin at both ends the arms are equivalent (two one-sided tests).
    """
    return [
        _contrast(contrast, sparsity, grid, ledger, near)
        for contrast in spec.contrasts
        for sparsity in sorted({key.sparsity for key in grid.cells if key.arm == contrast.a})
    ]


def _opposite(arm: str, key: CellKey, grid: Grid) -> CellKey | None:
    """Return the cell of an arm that a cell stands against; None where there is none.

    That of the same source; else, of masks of θ0 alone, the one they have for all; else that of
    the masks that were found on the target itself.
    """
    for source in (key.source, None, key.target):
        other = CellKey(arm, source, key.target, key.sparsity)
        if other in grid.cells:
            return other
    return None


def _contrast(
    contrast: Contrast,
    sparsity: float,
    grid: Grid,
    ledger: Ledger,
    near: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    from scipy import special

    gains: dict[int, list[float]] = {}
    per_target: dict[str, list[float]] = {}
    pairs = [
        (grid.cells[key], grid.cells[other])
        for key in grid.cells
        if key.arm == contrast.a and key.control is None and key.sparsity == sparsity
        if (other := _opposite(contrast.b, key, grid)) is not None
    ]
    for a, b in pairs:
        sign = get_metric(grid.scenes[a.key.target].data.metric).sign
        for number, (ours, theirs) in enumerate(zip(a.groups, b.groups, strict=False)):
            steps = (*ours, *theirs)
            if all(step.key in ledger for step in steps):
                means = [
                    statistics.fmean(ledger.record(step.key)["test_score"] for step in group)
                    for group in (ours, theirs)
                ]
                gains.setdefault(number, []).append(sign * (means[0] - means[1]))
                per_target.setdefault(a.key.target, []).append(gains[number][-1])
    whole = [statistics.fmean(found) for found in gains.values() if len(found) == len(pairs)]
    result: dict[str, Any] = {
        "name": contrast.name,
        "a": contrast.a,
        "b": contrast.b,
        "sparsity": sparsity,
        "margin": contrast.margin,
        "targets": {name: statistics.fmean(found) for name, found in per_target.items()},
        "searches": len(whole),
        "gains": whole,
        "answer": "not measured yet",
    }
    if len(whole) < 2:
        return result
    mean = statistics.fmean(whole)
    reach = float(special.stdtrit(len(whole) - 1, 0.95)) * statistics.stdev(whole)
    reach /= math.sqrt(len(whole))
    low, high = mean - reach, mean + reach
    result |= {"difference": mean, "ci_low": low, "ci_high": high}
    result["answer"] = _answer(low, high, contrast.margin)
    if contrast.decide_by_overlap:
        check = manipulation_check(contrast, sparsity, near)
        result["manipulation_check"] = check
        if check is None:
            result["answer"] = "not measured yet"
        elif not check["differs"]:
            result["answer"] = "not decidable at this budget"
    return result


def _answer(low: float, high: float, margin: float) -> str:
    if -margin < low and high < margin:
        return "equivalent"
    if low > 0:
        return "a is better"
    if high < 0:
        return "b is better"
    return "inconclusive"


def manipulation_check(
    contrast: Contrast, sparsity: float, near: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Say whether masks differ more between the arms than between the seeds of one arm.

    Distances are 1 - overlap of kept sets. Between arms: of equal seeds, which share the data's
    order; between seeds: within either arm. The arms differ where the mean distance between arms is
    above the mean within them; the extremes stand beside it.
    """
    table = next((t for t in near if math.isclose(t["sparsity"], sparsity)), None)
    if table is None:
        return None
    between, within = [], []
    names = table["masks"]
    for i, j in itertools.combinations(range(len(names)), 2):
        one, two = names[i], names[j]
        if {one["arm"], two["arm"]} - {contrast.a, contrast.b} or one["source"] != two["source"]:
            continue
        distance = 1.0 - table["kept_iou"][i][j]
        if one["arm"] == two["arm"]:
            within.append(distance)
        elif one["number"] == two["number"]:
            between.append(distance)
    if not between or not within:
        return None
    return {
        "between_arms": statistics.fmean(between),
        "between_seeds": statistics.fmean(within),
        "between_arms_least": min(between),
        "between_seeds_most": max(within),
        "differs": statistics.fmean(between) > statistics.fmean(within),
    }
