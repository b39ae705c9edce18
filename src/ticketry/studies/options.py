"""What ``find`` would refuse of a plan's tasks and arms."""

from __future__ import annotations

from ticketry.errors import ConfigError, unknown_name_message
from ticketry.studies.spec import SAME, StudySpec
from ticketry.tasks.registry import TASKS, is_task_file


def find_faults(spec: StudySpec) -> list[str]:
    """Return what ``find`` would refuse of any task, arm and sparsity, each once."""
    faults = []
    unknown = set()
    for task, options in spec.tasks.items():
        name = str(options.get("task", task))
        if "data" not in options and name not in TASKS and not is_task_file(name):
            unknown.add(task)
            faults.append(unknown_name_message("task", name, TASKS))
            continue
        try:
            spec.find_spec(task)
        except ConfigError as error:
            faults += [f"task {task}: {fault}" for fault in error.faults]
    for arm in spec.arms:
        tasks = arm.sources or tuple(t for t in arm.targets if t != SAME)
        for task in tasks:
            if task in unknown or task not in spec.tasks:
                continue
            for sparsity in arm.sparsities:
                try:
                    spec.find_spec(task, arm, sparsity)
                except ConfigError as error:
                    faults += [f"arm {arm.name}: {fault}" for fault in error.faults]
            break  # the arm's own options are the same for every task
    return faults
