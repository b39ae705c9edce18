"""A task as one YAML file: where the data lie, what is learned, how it is scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ticketry.config import DATA_OPTIONS, DataSpec, check_data
from ticketry.errors import ConfigError, nearest
from ticketry.metrics import METRICS, metrics_for
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.yamlfile import read_yaml

KEYS = ("name", "data", *DATA_OPTIONS.values(), "metric", "margin")
_LISTS = ("label_columns",)


def load_yaml_task(path: str, *, split_seed: int = 0) -> TaskData:
    """Load a task from its YAML file.

    Args:
        path: of the file; ``data`` and ``test_data`` in it may be relative to its folder.
        split_seed: decides what is split off.

    Raises:
        ConfigError: the file has faults; lists all of them.
        DataError: a fault of the data.
    """
    task = read_task(path)
    data = task.get
    return load_file(
        task["data"],
        text_column=data("text_column"),
        text_pair_column=data("text_pair_column"),
        label_column=data("label_column"),
        label_columns=tuple(data("label_columns") or ()),
        objective=data("objective") or "classification",
        test_data=data("test_data"),
        config=data("data_config"),
        test_split=data("test_split"),
        metric=data("metric"),
        margin=data("margin"),
        name=data("name"),
        seed=split_seed,
    )


def read_task(path: str) -> dict[str, Any]:
    """Read a task's YAML file and check it.

    Returns:
        Key -> value, paths made whole; keys that were left out are not there.

    Raises:
        ConfigError: it cannot be read, or has faults; lists all of them.
    """
    file = Path(path).expanduser()
    try:
        content = read_yaml(file)
    except OSError as error:
        raise ConfigError(f"--task {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"--task {path} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"--task {path} holds {type(content).__name__}; expected `key: value` lines, with keys "
            f"among {', '.join(KEYS)}."
        )
    task = {str(key).replace("-", "_"): value for key, value in content.items()}
    task = {key: value for key, value in task.items() if value is not None}
    faults = _faults(task)
    if faults:
        raise ConfigError([f"--task {path}: {fault}" for fault in faults])
    for key in ("data", "test_data"):
        if key in task and (file.parent / task[key]).exists():
            task[key] = str(file.parent / task[key])
    return task


def task_files(path: str) -> list[Path]:
    """Return a task's YAML file and the data files that it names."""
    task = read_task(path)
    named = [Path(path).expanduser(), *(Path(task[k]) for k in ("data", "test_data") if k in task)]
    return [file for file in named if file.is_file()]


def _faults(task: dict[str, Any]) -> list[str]:
    faults = []
    for key in sorted(set(task) - set(KEYS)):
        close = nearest(key, KEYS)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        faults.append(f"unknown key {key!r}.{hint}")
    for key in KEYS:
        if key not in task or key == "margin":
            continue
        value = task[key]
        if key in _LISTS:
            if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
                faults.append(f"{key} is {value!r}; expected a list of column names.")
        elif not isinstance(value, str):
            faults.append(f"{key} is {value!r}; expected text.")
    if faults:
        return faults
    if "data" not in task:
        faults.append("data is missing; name a file (relative to this one) or a hub data set.")
    else:
        chosen = {field: task[field] for field in DATA_OPTIONS.values() if field in task}
        chosen["label_columns"] = tuple(chosen.get("label_columns", ()))
        said = check_data(DataSpec(data=task["data"], **chosen))
        faults += [_as_key(fault) for fault in said]
    return faults + _metric_faults(task)


def _metric_faults(task: dict[str, Any]) -> list[str]:
    faults = []
    fitting = metrics_for(task.get("objective", "classification"))
    if "metric" in task and fitting and task["metric"] not in fitting:
        objective = task.get("objective", "classification")
        faults.append(
            f"metric is {task['metric']!r}; expected one of those for {objective}: "
            f"{', '.join(fitting)}."
        )
    margin = task.get("margin")
    if margin is not None and (
        isinstance(margin, bool)
        or not isinstance(margin, int | float)
        or not (math.isfinite(margin) and margin > 0)
    ):
        known = METRICS.get(task.get("metric", fitting[0] if fitting else ""))
        usual = f", such as {known.margin}" if known else ""
        faults.append(
            f"margin is {margin!r}; expected a number above 0 in the metric's own unit{usual}."
        )
    return faults


def _as_key(fault: str) -> str:
    """Say a fault of an option by the key that stands for it here."""
    for option, key in {**DATA_OPTIONS, "--data": "data"}.items():
        for end in (" ", ",", ":", "."):
            fault = fault.replace(option + end, key + end)
    return fault
