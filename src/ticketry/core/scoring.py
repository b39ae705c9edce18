"""Weights and their statistics, scored piece by piece."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ticketry.core.score import STATISTICS, Criterion, Formula
from ticketry.errors import ScoreError

Statistics = Mapping[str, Mapping[str, Tensor]]
"""Statistic -> tensor's name -> values, shaped like the weights."""


@dataclass(frozen=True)
class Scores:
    """The scores of a model's weights, computed where they are asked for.

    Attributes:
        formula: of the criterion.
        weights: name -> weights.
        statistics: (statistic, name -> values) in the order in which the formula takes them.
    """

    formula: Formula
    weights: Mapping[str, Tensor]
    statistics: tuple[tuple[str, Mapping[str, Tensor]], ...]

    def tensors(self, name: str) -> tuple[Tensor, ...]:
        """Return a tensor's weights and statistics, to be cut into pieces alike."""
        return (
            self.weights[name].detach(),
            *(values[name].detach() for _, values in self.statistics),
        )

    def of(self, name: str, pieces: Sequence[Tensor]) -> Tensor:
        """Return the scores of a flat piece, float32 on the CPU; they may be NaN.

        Args:
            name: the tensor's, for the message.
            pieces: the same flat piece of each of :meth:`tensors`.

        Raises:
            ScoreError: the formula gave another shape or dtype.
        """
        plain = [piece.to("cpu", torch.float32) for piece in pieces]
        scores = self.formula(*plain)
        if scores.shape != plain[0].shape or scores.dtype != torch.float32:
            raise ScoreError(
                f"the criterion gave scores of shape {tuple(scores.shape)} and dtype "
                f"{scores.dtype} for a piece of tensor {name!r}; expected "
                f"{tuple(plain[0].shape)} and torch.float32."
            )
        return scores

    def nan_fault(self, name: str) -> ScoreError:
        """Build the error for a tensor with a score that is NaN: where, and what it comes from."""
        flats = [tensor.reshape(-1) for tensor in self.tensors(name)]
        for (statistic, _), flat in zip(self.statistics, flats[1:], strict=True):
            if (index := _first_nan(flat)) is not None:
                return ScoreError(
                    f"statistic {statistic!r} of tensor {name!r} is NaN (first at flat index "
                    f"{index}); expected numbers. A loss that is not finite gives such "
                    "statistics: look at the data and the weights it was computed with."
                )
        index = _first_nan(self.of(name, flats))
        return ScoreError(
            f"tensor {name!r} has a score that is NaN (first at flat index {index}); expected "
            "numbers. A training that diverged leaves such weights: lower its learning rate."
        )


def _first_nan(flat: Tensor) -> int | None:
    found = torch.isnan(flat).nonzero()
    return int(found[0]) if len(found) else None


def scores_of(
    criterion: Criterion, weights: Mapping[str, Tensor], statistics: Statistics | None
) -> Scores | None:
    """Bring a criterion, weights and statistics together; None where the ranking is drawn.

    Args:
        criterion: what ranks.
        weights: name -> floating-point tensor.
        statistics: at least those that the criterion needs; others are not looked at.

    Raises:
        ScoreError: a statistic is missing, lacks a tensor, or one of its tensors has another
            shape or is not floating-point.
    """
    if criterion.formula is None:
        return None
    given = statistics or {}
    for statistic in criterion.needs:
        if statistic not in given:
            raise ScoreError(
                f"criterion {criterion.name!r} needs the statistic {statistic!r} "
                f"({STATISTICS.get(statistic, 'its own')}); "
                f"found {', '.join(sorted(given)) or 'none'}."
            )
    for statistic, name in itertools.product(criterion.needs, sorted(weights)):
        _check_statistic(statistic, name, given[statistic].get(name), weights[name])
    return Scores(criterion.formula, weights, tuple((s, given[s]) for s in criterion.needs))


def _check_statistic(statistic: str, name: str, found: Tensor | None, weights: Tensor) -> None:
    expected = tuple(weights.shape)
    if found is None:
        raise ScoreError(
            f"statistic {statistic!r} lacks tensor {name!r}; expected one of shape {expected}, as "
            "for every tensor that is selected from."
        )
    if tuple(found.shape) != expected:
        raise ScoreError(
            f"statistic {statistic!r} of tensor {name!r} has shape {tuple(found.shape)}; expected "
            f"{expected}, the shape of the weights."
        )
    if not found.is_floating_point():
        raise ScoreError(
            f"statistic {statistic!r} of tensor {name!r} has dtype "
            f"{str(found.dtype).removeprefix('torch.')}; expected floating-point values."
        )
