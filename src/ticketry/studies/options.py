"""What ``find`` would refuse of a plan's tasks and arms."""

from __future__ import annotations

from ticketry.errors import ConfigError
from ticketry.studies.spec import SAME, StudySpec
from ticketry.tasks.registry import joint_parts, source_only, task_faults


def find_faults(spec: StudySpec) -> list[str]:
    """Return what ``find`` would refuse of any task, arm and sparsity, each once."""
    faults = []
    unknown = set()
    verified = set(spec.targets)
    for arm in spec.arms:
        verified |= set(arm.sources if arm.targets == (SAME,) else arm.targets)
    for task, options in spec.tasks.items():
        name = str(options.get("task", task))
        if "data" not in options and (wrong := task_faults(name)):
            unknown.add(task)
            faults += wrong
            continue
        if "data" not in options and joint_parts(name) and task in verified:
            faults.append(source_only(name))
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
