"""What a task's examples are for: each objective's workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ticketry.errors import unknown_name

if TYPE_CHECKING:
    from ticketry.config import Recipe
    from ticketry.models.loading import BaseRef
    from ticketry.tasks.base import TaskData


def _classification(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.classification import SequenceClassification

    return SequenceClassification(base, data, recipe)


OBJECTIVES: Mapping[str, Callable[[BaseRef, TaskData, Recipe], Any]] = {
    "classification": _classification,
}
"""Objective -> builder of its :class:`~ticketry.tasks.workload.Workload`; light to import."""


def workload_for(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    """Bind a task's data to a base model.

    Raises:
        UnknownNameError: an unknown objective; shows the nearest.
    """
    if data.objective not in OBJECTIVES:
        raise unknown_name("objective", data.objective, OBJECTIVES)
    return OBJECTIVES[data.objective](base, data, recipe)
