"""Scores and differences as people say them."""

from __future__ import annotations

from ticketry.metrics.registry import METRICS


def say_sparsity(sparsity: float) -> str:
    """Say a sparsity as the papers do: 20%, 59.04%."""
    return f"{100 * sparsity:.4g}%"


def say_score(metric: str, value: float) -> str:
    """Say a score as people do: ``84.9%``, or ``0.849`` where percent make no sense.

    A metric with a unit says it, and what else goes with it: ``3.214 nats per token (perplexity
    24.88)``.
    """
    if _percent(metric):
        return f"{100 * value:.1f}%"
    known = METRICS.get(metric)
    unit = f" {known.unit}" if known and known.unit else ""
    also = f" ({known.also(value)})" if known and known.also else ""
    return f"{value:.3f}{unit}{also}"


def say_difference(metric: str, value: float, *, decimals: int = 1, sign: bool = False) -> str:
    """Say a difference of scores, in points (or plain), without a unit.

    Args:
        metric: its name.
        value: the difference in the metric's own unit.
        decimals: of a point; plain numbers get two more.
        sign: also show a plus.
    """
    scaled, places = (100 * value, decimals) if _percent(metric) else (value, decimals + 2)
    rounded = round(scaled, places) + 0.0  # no "-0.0"
    return f"{rounded:+.{places}f}" if sign and rounded > 0 else f"{rounded:.{places}f}"


def unit_of(metric: str) -> str:
    """Return the unit of a difference with a space before it: `` points``, or nothing."""
    if _percent(metric):
        return " points"
    known = METRICS.get(metric)
    return f" {known.unit}" if known and known.unit else ""


def scale_of(metric: str) -> float:
    """Return what a score is multiplied by where it is shown: 100 for percent, else 1."""
    return 100.0 if _percent(metric) else 1.0


def _percent(metric: str) -> bool:
    known = METRICS.get(metric)
    return known.percent if known else False
