"""The largest matching sparsity of every method and source on every task, of all studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ticketry.metrics import say_sparsity
from ticketry.studies.tables import mask_name, say_largest, table

_HEAD = ["study", "task", "mask", "tested", "within 1 std", "≥ mean", "non-inferior", "the paper's"]
_WORDS = """## Largest matching sparsities

The largest sparsity up to which every tested one matches dense: within one standard deviation of
it (the papers' reading), at least its mean, and not inferior by more than the margin. A ticket that
matches at the last tested one may match further on. The paper's are of its own models, data and
lengths; "–" is a task or mask that it does not have, or, in the other columns, none.
"""


def largest_matching(
    summaries: Sequence[Mapping[str, Any]], papers: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return a section with one line a curve, of studies that tested more than one sparsity.

    Args:
        summaries: as :func:`ticketry.studies.summary.summarise` returns them.
        papers: study -> its part of ``results/paper.yaml``; its ``largest`` holds the paper's
            numbers by "mask, task" as they stand in the table.

    Returns:
        Markdown; nothing where there is no such study.
    """
    rows = []
    for summary in summaries:
        known = papers.get(summary["study"], {}).get("largest", {})
        for curve in summary["curves"]:
            tested = curve["sparsities"]
            if len(tested) < 2 or all(mean is None for mean in curve["means"]):
                continue
            mask = mask_name(curve)
            rows.append(
                [
                    summary["study"],
                    curve["target"],
                    mask,
                    ", ".join(say_sparsity(sparsity) for sparsity in tested),
                    *say_largest(curve),
                    str(known.get(f"{mask}, {curve['target']}", "–")),
                ]
            )
    return "\n".join([_WORDS, *table(_HEAD, rows), ""]) if rows else ""
