"""What the tables of a study's page are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ticketry.metrics import say_sparsity


@dataclass(frozen=True)
class Section:
    """One table of a study's page.

    Attributes:
        title: in a few words.
        words: what the numbers are.
        head: of the columns.
        rows: as text.
    """

    title: str
    words: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def section(
    title: str, words: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[Section]:
    """Return a table, or none where it has no rows."""
    return [Section(title, words, tuple(head), tuple(map(tuple, rows)))] if rows else []


def mask_name(curve: Mapping[str, Any]) -> str:
    """Return how a curve's masks are called: the method, and where they were found if elsewhere."""
    return found_on(curve["arm"], curve["source"] if curve["source"] != curve["target"] else None)


def found_on(arm: str, source: str | None) -> str:
    """Return how masks are called: the method and, where they are of one task, that task."""
    return f"{arm}, {source}" if source else arm


def say_largest(curve: Mapping[str, Any]) -> list[str]:
    """Return a curve's largest matching sparsities: within 1 std, ≥ mean, non-inferior."""
    largest = (
        curve["largest"][name] for name in ("matches_paper", "matches_strict", "noninferior")
    )
    return ["–" if found is None else say_sparsity(found) for found in largest]


def number(target: Mapping[str, Any], value: float | None) -> str:
    """Say a score of a target; ``–`` where there is none."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if in_points(target) else f"{value:.3f}"


def points(target: Mapping[str, Any], value: float | None, *, signed: bool = False) -> str:
    """Say a difference of scores of a target; ``–`` where there is none."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if in_points(target) else f"{value:{sign}.3f}"


def in_points(target: Mapping[str, Any]) -> bool:
    """Say whether a target's scores are shares, which are said in percent."""
    return target["metric"] not in ("loss", "perplexity")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table, a line each."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "|".join(["---"] * len(head)) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
