"""Metrics: the margin of each, how a score follows from predictions, resampling of test examples.

Torch-free. numpy, scipy and scikit-learn are imported inside functions, so that the command line,
which only needs the names, starts fast.
"""

from __future__ import annotations

from ticketry.metrics.base import Metric, Outputs, resample
from ticketry.metrics.classes import ClassCounts, Counts, count
from ticketry.metrics.registry import METRICS, get_metric, metrics_for
from ticketry.metrics.resampling import Resampled
from ticketry.metrics.wording import say_difference, say_score, say_sparsity, scale_of, unit_of

__all__ = [
    "METRICS",
    "ClassCounts",
    "Counts",
    "Metric",
    "Outputs",
    "Resampled",
    "count",
    "get_metric",
    "metrics_for",
    "resample",
    "say_difference",
    "say_score",
    "say_sparsity",
    "scale_of",
    "unit_of",
]
