"""From a data choice to prepared data, whatever door it came through."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from ticketry.config import IMAGE_OBJECTIVES, DataSpec
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.registry import is_task_file, load_task
from ticketry.tasks.yamltask import task_files

MOST_STAMPED = 20_000
"""Files of a folder of images, at most, whose change is noticed without reading them."""


def load_data(spec: DataSpec, say: Callable[[str], None]) -> TaskData:
    """Load the data that a checked spec names.

    Args:
        spec: a task, or a file or hub data set with its columns.
        say: given a line about each download.

    Raises:
        InputError: they cannot be had or used.
    """
    if spec.task:
        return load_task(spec.task, split_seed=spec.split_seed, say=say)
    assert spec.data
    return load_file(
        spec.data,
        text_column=spec.text_column,
        text_pair_column=spec.text_pair_column,
        label_column=spec.label_column,
        label_columns=spec.label_columns,
        objective=spec.objective or "classification",
        test_data=spec.test_data,
        config=spec.data_config,
        test_split=spec.test_split,
        seed=spec.split_seed,
    )


def data_files(spec: DataSpec) -> list[Path]:
    """Return the files whose change makes a finished run stale."""
    if spec.task and is_task_file(spec.task):
        return task_files(spec.task)
    named = [Path(name).expanduser() for name in (spec.data, spec.test_data) if name]
    found = [path for path in named if path.is_file()]
    for folder in named:
        if spec.objective in IMAGE_OBJECTIVES and folder.is_dir():
            # Folders too: their time changes when a file comes or goes.
            found += islice(folder.rglob("*"), MOST_STAMPED)
    return found
