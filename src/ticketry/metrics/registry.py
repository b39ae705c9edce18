"""The metrics by name, each with the margin that was fixed before any run."""

from __future__ import annotations

from collections.abc import Mapping

from ticketry.errors import unknown_name
from ticketry.metrics import answers, boxes, classes, entities, flags, maps, numbers, tokens
from ticketry.metrics.base import Metric
from ticketry.metrics.classes import ClassCounts


def _answers(name: str, *, exact: bool, may_be_none: bool) -> Metric:
    """Return a metric of SQuAD."""
    outputs = answers.AnswerScores(exact, may_be_none)
    objective = "extractive-qa-v2" if may_be_none else "extractive-qa"
    return Metric(name=name, margin=0.01, fn=outputs.mean, outputs=outputs, objectives=(objective,))


def _boxes(name: str, thresholds: tuple[float, ...]) -> Metric:
    """Return an average precision."""
    outputs = boxes.AveragePrecision(thresholds)
    return Metric(
        name=name, margin=0.01, fn=outputs.mean, outputs=outputs, objectives=("detection",)
    )


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            margin=0.01,
            fn=classes.accuracy,
            outputs=ClassCounts(classes.accuracy_from_counts, right_or_wrong=True),
        ),
        Metric(name="f1", margin=0.01, fn=classes.f1, outputs=ClassCounts(classes.f1_from_counts)),
        Metric(
            name="mcc",
            margin=0.01,
            fn=classes.mcc,
            outputs=ClassCounts(classes.mcc_from_counts),
            percent=False,
        ),
        Metric(
            name="pearson",
            margin=0.01,
            fn=numbers.pearson,
            outputs=numbers.Correlation(ranks=False),
            objectives=("regression",),
            percent=False,
        ),
        Metric(
            name="spearman",
            margin=0.01,
            fn=numbers.spearman,
            outputs=numbers.Correlation(ranks=True),
            objectives=("regression",),
            percent=False,
        ),
        Metric(
            name="micro-f1",
            margin=0.01,
            fn=flags.micro_f1,
            outputs=flags.FlagCounts(whole=False),
            objectives=("multi-label",),
        ),
        Metric(
            name="exact-match",
            margin=0.01,
            fn=flags.exact_match,
            outputs=flags.FlagCounts(whole=True),
            objectives=("multi-label",),
        ),
        Metric(
            name="loss",
            margin=0.01,
            fn=tokens.nats_per_token,
            outputs=tokens.TokenLoss(),
            objectives=("causal-lm", "masked-lm"),
            direction="lower",
            percent=False,
            unit="nats per token",
            also=tokens.perplexity,
        ),
        Metric(
            name="mlm-accuracy",
            margin=0.005,
            fn=tokens.share_right,
            outputs=tokens.TokensRight(),
            objectives=("masked-lm",),
        ),
        Metric(
            name="entity-f1",
            margin=0.01,
            fn=entities.entity_f1,
            outputs=entities.EntityCounts(),
            objectives=("token-classification",),
        ),
        _answers("squad-f1", exact=False, may_be_none=False),
        _answers("squad-em", exact=True, may_be_none=False),
        _answers("squad-v2-f1", exact=False, may_be_none=True),
        _answers("squad-v2-em", exact=True, may_be_none=True),
        Metric(
            name="retrieval",
            margin=0.01,
            fn=classes.accuracy,
            outputs=ClassCounts(classes.accuracy_from_counts, right_or_wrong=True),
            objectives=("simclr", "moco", "supervised"),
        ),
        _boxes("ap", boxes.ALL),
        _boxes("ap50", (0.5,)),
        _boxes("ap75", (0.75,)),
        Metric(
            name="miou",
            margin=0.01,
            fn=maps.mean_iou,
            outputs=maps.MapCounts(),
            objectives=("segmentation",),
        ),
    )
}
"""F1 is that of class 1 when the labels are 0 and 1, else the macro average; mcc is Matthews'
correlation; loss is in nats per token, and 0.01 of it are 1% of perplexity; mlm-accuracy is the
share of hidden tokens that are predicted; SQuAD's F1 and exact match are shares, as the scripts of
version 1.1 and of version 2 count them; ap is COCO's, the mean over thresholds from 50% to 95%,
ap50 and ap75 are those of one threshold; retrieval is the share of images whose nearest
neighbour among those trained on is of their class; miou is the mean over classes of intersection
over union. Margins: statistics.md, written before any run."""


def get_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        UnknownNameError: shows the nearest names.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def metrics_for(objective: str) -> tuple[str, ...]:
    """Return the names of an objective's metrics, the usual one first."""
    usual = USUAL.get(objective)
    names = [name for name, metric in METRICS.items() if objective in metric.objectives]
    return tuple(sorted(names, key=lambda name: name != usual))


USUAL: Mapping[str, str] = {
    "classification": "accuracy",
    "image-classification": "accuracy",
    "regression": "spearman",
    "multi-label": "micro-f1",
    "causal-lm": "loss",
    "masked-lm": "mlm-accuracy",
    "token-classification": "entity-f1",
    "extractive-qa": "squad-f1",
    "extractive-qa-v2": "squad-v2-f1",
    "detection": "ap",
    "segmentation": "miou",
    "simclr": "retrieval",
    "moco": "retrieval",
    "supervised": "retrieval",
}
"""Objective -> the metric of data that name none."""
