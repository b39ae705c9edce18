"""Torch-free schemas of what was measured; shared by verdict, ticket and report."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Replicate:
    """One fine-tuning of one arm.

    Attributes:
        seed: drives head initialisation, data order and dropout; arms are paired by it.
        validation_score: the task's metric on the validation split after training.
        test_score: the same on the test split.
        predictions: one for each test example, in test order: a class index, a number, a 0 or 1
            for each label, a document's (nats, tokens), or an answer's text.
    """

    seed: int
    validation_score: float
    test_score: float
    predictions: tuple[Any, ...]


@dataclass(frozen=True)
class Arm:
    """The replicates of one condition: dense, the ticket, or a control.

    Attributes:
        half_budget_validation: validation scores of the same seeds trained with half the budget,
            in the order of ``replicates``; for the dense arm, empty when it was not run.
    """

    name: str
    replicates: tuple[Replicate, ...]
    half_budget_validation: tuple[float, ...] = ()

    @property
    def scores(self) -> tuple[float, ...]:
        """Test scores, in the order of the replicates."""
        return tuple(replicate.test_score for replicate in self.replicates)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds, in the order of the replicates."""
        return tuple(replicate.seed for replicate in self.replicates)

    @property
    def mean(self) -> float:
        """Mean test score."""
        return statistics.fmean(self.scores)

    @property
    def std(self) -> float:
        """Sample standard deviation of the test scores (ddof = 1); needs two replicates."""
        return statistics.stdev(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Return the arm as it stands in ``ticket_evidence.json`` (without predictions)."""
        data: dict[str, Any] = {
            "scores": list(self.scores),
            "validation_scores": [r.validation_score for r in self.replicates],
            "seeds": list(self.seeds),
            "mean": self.mean,
            "std": self.std,
        }
        if self.half_budget_validation:
            data["half_budget_validation_scores"] = list(self.half_budget_validation)
        return data
