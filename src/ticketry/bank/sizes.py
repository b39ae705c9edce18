"""What a bank takes in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskBytes:
    """What one task takes in memory, in bytes.

    Attributes:
        mask: one bit for each prunable weight.
        head: tensors that the base lacks.
        small: biases, norms and pooler of its own.
        tables: buffers that are not saved, such as position numbers.
    """

    mask: int
    head: int
    small: int
    tables: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.mask + self.head + self.small + self.tables


@dataclass(frozen=True)
class BankBytes:
    """What a bank takes in memory, in bytes; Python's objects not counted.

    Attributes:
        base: the base's tensors, once.
        image: the masked matrices of the task that is served, once.
        tasks: by name.
    """

    base: int
    image: int
    tasks: Mapping[str, TaskBytes]

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.image + sum(task.total for task in self.tasks.values())
