"""Models of several sizes on the same data, by how many weights their masks leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ticketry.metrics import say_sparsity
from ticketry.studies.tables import Section, mask_name, number, points, section

_HEAD = ("weights kept", "of", "fine-tuned on", "mask", "sparsity", "score", "minus its dense")
_COPIED = ("target", "arm", "source", "sparsity", "mean")


def remaining(summary: Mapping[str, Any]) -> list[Section]:
    """Return the tables of models of several sizes, one for each data set that has such."""
    tables: dict[int, list[list[str]]] = {}
    for row in by_remaining(summary):
        target = summary["targets"][row["target"]]
        tables.setdefault(row["data"], []).append(
            [
                f"{row['kept']:,}",
                f"{row['prunable']:,}",
                row["target"],
                mask_name(row),
                say_sparsity(row["sparsity"]),
                number(target, row["mean"]),
                points(target, row["difference"], signed=True),
            ]
        )
    return [
        part
        for rows in tables.values()
        for part in section(
            f"By weights that are left, {' and '.join(dict.fromkeys(row[2] for row in rows))}",
            "models of several sizes on the same data; test scores",
            _HEAD,
            rows,
        )
    ]


def by_remaining(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells to set side by side at equal weights, most weights first.

    Args:
        summary: of a study. Targets are of the same data if these have the same hash and are
            scored alike; those of which there is one size alone are left out, and so are controls
            and cells without a score.
    Returns:
        A mapping for each cell: ``data`` (of which group), ``kept``, ``prunable``, ``target``,
        ``arm``, ``source``, ``sparsity``, ``mean`` and ``difference`` (to the target's dense).

    Source: arXiv 2012.06908, Figures 9 and 12.
    """
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for name, target in summary["targets"].items():
        if target.get("prunable"):  # pages of earlier versions do not say it
            alike = target["data_sha256"], target["metric"]
            groups.setdefault(alike, {})[name] = target["prunable"]
    of = {
        name: (number, sizes[name])
        for number, sizes in enumerate(groups.values())
        if len(set(sizes.values())) > 1
        for name in sizes
    }
    rows = []
    for cell in summary["cells"]:
        if cell["control"] is None and cell["mean"] is not None and cell["target"] in of:
            number, prunable = of[cell["target"]]
            against = cell["against"].get("dense")
            rows.append(
                {
                    "data": number,
                    "kept": round((1.0 - cell["sparsity"]) * prunable),
                    "prunable": prunable,
                    **{name: cell[name] for name in _COPIED},
                    "difference": None if against is None else against["difference"],
                }
            )
    return sorted(rows, key=lambda row: (row["data"], -row["kept"], row["target"], row["arm"]))
