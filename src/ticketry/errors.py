"""Every error that ticketry raises on purpose, and how a name is suggested.

::

    TicketryError              the run failed; exit code 1
    ├── TrainingError          a training cannot go on (a loss that is not finite)
    ├── StorageError           the disk is full, read-only or out of reach
    └── InputError             what the user gave cannot be used; exit code 2
        ├── ConfigError        one or more faults of a configuration, all listed at once
        ├── UnknownNameError   a name outside a registry; shows the nearest ones
        ├── DataError          a data set that cannot be read or learnt from
        ├── ModelError         a model that cannot be loaded or is not supported
        ├── ScopeError         a scope that selects nothing, or clashes with the model
        ├── ScoreError         scores of a wrong shape, or not a number
        ├── MaskError          masks that do not fit each other or a model
        ├── PackedError        a packed sparse matrix that is damaged or does not fit
        ├── ExportError        a model that another runtime does not take, or takes otherwise
        ├── BankError          a bank of tickets that cannot take or serve a task
        ├── TicketError        a ticket folder that is damaged or of another version
        │   ├── BaseMismatchError   a ticket applied to another base model
        │   └── HubError            the hub does not give or take a ticket
        └── RunError           a run folder that cannot be used
            ├── RunMismatchError    it belongs to another configuration
            └── RunLockedError      another process is at work in it

A message says what was found, what was expected and what to do. Messages are API: tests
assert them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TicketryError(Exception):
    """The run failed for a reason that the message names."""

    exit_code = 1


class TrainingError(TicketryError):
    """A training cannot go on; the run folder stays resumable."""


class StorageError(TicketryError):
    """A file could not be written or read; nothing half-written is left behind."""


class InputError(TicketryError):
    """What the user gave cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """One or more faults of a configuration.

    Args:
        faults: one sentence each; all faults that can be seen at once are listed.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        if len(self.faults) == 1:
            message = self.faults[0]
        else:
            message = f"{len(self.faults)} faults in the configuration:\n" + "\n".join(
                f"  - {fault}" for fault in self.faults
            )
        super().__init__(message)


class UnknownNameError(InputError):
    """A name outside a registry."""


class DataError(InputError):
    """A data set that cannot be read or learnt from."""


class ModelError(InputError):
    """A model that cannot be loaded or is not supported."""


class ScopeError(InputError):
    """A scope that selects nothing, or that clashes with the model."""


class ScoreError(InputError):
    """Scores of a wrong shape, or not a number."""


class MaskError(InputError):
    """Masks that do not fit each other or a model."""


class PackedError(InputError):
    """A packed matrix or model that is damaged, or that does not fit its layer or its input."""


class ExportError(InputError):
    """A model that cannot be exported, or whose outputs differ in the other runtime."""


class BankError(InputError):
    """A bank of tickets that cannot take a task, or cannot serve one exactly."""


class TicketError(InputError):
    """A ticket folder that is damaged, hostile or of another version."""


class BaseMismatchError(TicketError):
    """A ticket applied to a model that is not its base."""


class HubError(TicketError):
    """The hub does not give or take a ticket: a name, a right, a revision or the way to it."""


class RunError(InputError):
    """A run folder that cannot be used."""


class RunMismatchError(RunError):
    """A run folder that belongs to another configuration."""


class RunLockedError(RunError):
    """A run folder in which another process is at work."""


def nearest(name: str, choices: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the valid names closest to ``name``, best first (possibly none)."""
    return difflib.get_close_matches(name.lower(), sorted(choices), n=most, cutoff=0.5)


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UnknownNameError:
    """Build the error for a name outside a registry.

    Args:
        kind: what the name stands for, such as ``"task"``.
        name: the name that was given.
        choices: the valid names.
    """
    return UnknownNameError(unknown_name_message(kind, name, choices))


def unknown_name_message(kind: str, name: str, choices: Iterable[str]) -> str:
    """Say that a name is unknown, which are nearest, and which exist."""
    known = sorted(choices)
    close = nearest(name, known)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."
