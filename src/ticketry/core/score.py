"""Criteria: how much a weight matters. One formula each; higher = keep.

A formula maps a flat piece of weights, and the same piece of each statistic that it needs (all
float32, any length), to scores of that length. It sees tensors in pieces, so that selection needs
no copy of the model; a formula may therefore look at each weight alone. Scores may be negative and
infinite, but never NaN. The statistics come from the caller: see :data:`STATISTICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ticketry.errors import unknown_name

Formula = Callable[..., Tensor]
"""(weights, *statistics) -> scores."""

STATISTICS: Mapping[str, str] = {
    "gradient": "mean of dL/dw over calibration batches",
    "squared_gradient": "mean of (dL/dw)² over calibration batches",
    "hessian_gradient": "H·g: the Hessian of the calibration loss times its gradient",
    "synflow": "dR/d|w|, R the sum of outputs with weights |w| and an input of ones",
    "movement": "−Σ w·dL/dw over the steps of a training",
}
"""What a formula may need beside the weights: name -> what it is, per weight."""


@dataclass(frozen=True)
class Criterion:
    """How weights are ranked.

    Attributes:
        name: its name in :data:`CRITERIA`.
        formula: (weights, *statistics) -> scores; None: the ranking is drawn, not computed.
        needs: names of the statistics that the formula takes, in its order.
        description: the formula in words.
        source: where it comes from.
    """

    name: str
    formula: Formula | None
    needs: tuple[str, ...]
    description: str
    source: str


def magnitude(weights: Tensor) -> Tensor:
    """Score a weight by its absolute value, |w|.

    Source: Han et al. 2015, arXiv 1506.02626, §3.
    """
    return weights.abs()


def snip(weights: Tensor, gradient: Tensor) -> Tensor:
    """Score a weight by how much the loss changes with its connection, |w·g|.

    Source: Lee et al. 2019, arXiv 1810.02340, §4. Differs: not divided by the sum over all
        weights, which changes no ranking; at any weights, not only before training.
    """
    return (weights * gradient).abs()


def grasp(weights: Tensor, hessian_gradient: Tensor) -> Tensor:
    """Score a weight by how much gradient flow its removal costs, w·(H·g).

    Removing w changes ‖g‖² by −2·w·(H·g) to first order: high scores are weights whose removal
    lowers it, negative ones stand in its way.

    Source: Wang et al. 2020, arXiv 2002.07376, §4. Differs: the paper's score is −w·(H·g) and its
        highest are removed; here the sign is turned, because higher = keep. The temperature of the
        paper's loss is the caller's, as are the batches.
    """
    return weights * hessian_gradient


def synflow(weights: Tensor, synflow: Tensor) -> Tensor:
    """Score a weight by its share in the flow through the network of |weights|, |w|·dR/d|w|.

    Source: Tanaka et al. 2020, arXiv 2006.05467, Algorithm 1. Differs: one round; the paper's
        100, each with R of the weights that are left, are the search's. One-shot, it can empty a
        layer, which the rounds are there to prevent.
    """
    return weights.abs() * synflow


def taylor(weights: Tensor, squared_gradient: Tensor) -> Tensor:
    """Score a weight by the squared change of loss at its removal, to first order, w²·E[g²].

    Source: Molchanov et al. 2019, arXiv 1906.10771, eq. 8. Differs: per weight, where the
        paper prunes filters by the sum over their weights or by a gate; the mean over batches is
        taken at one point instead of between training steps.
    """
    return weights.square() * squared_gradient


def movement(weights: Tensor, movement: Tensor) -> Tensor:
    """Score a weight by how far training moved it away from zero, −Σ w·g.

    The statistic is the score; the weights take no part.

    Source: Sanh et al. 2020, arXiv 2005.07683, §4. Differs: the sum is that of an ordinary
        training, without mask, without the straight-through estimator and without the scores' own
        learning rate (which scales all scores alike).
    """
    return movement


CRITERIA: Mapping[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("magnitude", magnitude, (), "|w|", "Han et al. 2015, arXiv 1506.02626"),
        Criterion(
            "random", None, (), "drawn, all alike", "Frankle & Carbin 2019, arXiv 1803.03635"
        ),
        Criterion("snip", snip, ("gradient",), "|w·g|", "Lee et al. 2019, arXiv 1810.02340"),
        Criterion(
            "grasp", grasp, ("hessian_gradient",), "w·(H·g)", "Wang et al. 2020, arXiv 2002.07376"
        ),
        Criterion(
            "synflow", synflow, ("synflow",), "|w|·dR/d|w|", "Tanaka et al. 2020, arXiv 2006.05467"
        ),
        Criterion(
            "taylor",
            taylor,
            ("squared_gradient",),
            "w²·E[g²]",
            "Molchanov et al. 2019, arXiv 1906.10771",
        ),
        Criterion(
            "movement", movement, ("movement",), "−Σ w·g", "Sanh et al. 2020, arXiv 2005.07683"
        ),
    )
}


def criterion_named(name: str) -> Criterion:
    """Return a criterion.

    Raises:
        UnknownNameError: shows the nearest names.
    """
    if name not in CRITERIA:
        raise unknown_name("criterion", name, CRITERIA)
    return CRITERIA[name]
