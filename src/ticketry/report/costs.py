"""What a run cost: by part in passes, and by step in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cost_of(
    evidence: Mapping[str, Any],
    times: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what the page says of a run's cost, as text; ``bars`` holds numbers for a chart.

    Args:
        evidence: for the search's cost.
        times: ``times.json``, for seconds; None leaves them out.
        plan: ``plan.json``, for passes by part; None, or one of an older run, leaves them out.
    """
    cost = evidence["search"]["cost_dense_equivalents"]
    seconds = seconds_of(times)
    environment = (times or {}).get("environment", {})
    parts = _parts(plan, seconds)
    return {
        "search": "" if cost is None else f"{cost:.2f}",
        "wall": duration(times["wall_s"]) if times else "",
        "sum": duration(sum(seconds.values())) if seconds else "",
        "parts": parts,
        "bars": [(part["name"], part["cost"]) for part in parts],
        "trainings": [
            {"name": name, "seconds": f"{spent:,.1f}"} for name, spent in seconds.items()
        ],
        "environment": [(str(name), str(value)) for name, value in sorted(environment.items())],
    }


def seconds_of(times: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the seconds of each step that has them, by name."""
    rows = (times or {}).get("trainings", [])
    return {row["name"]: row["seconds"] for row in rows if row.get("seconds") is not None}


def _parts(plan: Mapping[str, Any] | None, seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for step in (plan or {}).get("steps", []):
        if step.get("part"):
            grouped.setdefault(step["part"], []).append(step)
    rows = []
    for name, steps in grouped.items():
        known = [seconds[step["name"]] for step in steps if step["name"] in seconds]
        rows.append(
            {
                "name": name,
                "trainings": f"{sum(step['train_passes'] > 0 for step in steps)}",
                "train": f"{sum(step['train_passes'] for step in steps):,}",
                "score": f"{sum(step.get('calibration_passes', 0) for step in steps):,}",
                "eval": f"{sum(step['eval_passes'] for step in steps):,}",
                "cost": sum(step["dense_equivalents"] for step in steps),
                "seconds": f"{sum(known):,.1f}" if known else "–",
            }
        )
    return rows


def duration(seconds: float) -> str:
    """Say seconds as people do."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
