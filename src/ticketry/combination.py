"""Names of criteria, patterns and allocations, and which of them go together. Needs no torch.

A configuration is checked with this before anything heavy is imported; ``core/`` carries it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ticketry.errors import ConfigError, unknown_name_message

CRITERIA = ("magnitude", "random", "snip", "grasp", "synflow", "taylor", "movement")
"""Names of :data:`ticketry.core.score.CRITERIA`."""

ALLOCATIONS = ("global", "uniform", "erk", "given")
"""How the kept weights are shared out among tensors; see ``core/allocation.py``."""

PATTERNS = ("unstructured", "N:M", "ROWSxCOLUMNS", "head", "neuron")
"""Forms of a pattern's name, such as ``"2:4"`` and ``"32x1"`` for the two in capitals."""


@dataclass(frozen=True)
class Unstructured:
    """Any weight may be kept."""


@dataclass(frozen=True)
class Groups:
    """N:M: ``keep`` of every ``size`` consecutive inputs of an output are kept.

    Attributes:
        keep: N.
        size: M, above N.
    """

    keep: int
    size: int

    @property
    def density(self) -> float:
        """Return N / M, the only density there is."""
        return self.keep / self.size


@dataclass(frozen=True)
class Blocks:
    """Rectangles of a tensor's outputs × inputs are kept or pruned as a whole.

    Attributes:
        rows: outputs in a block.
        columns: inputs in a block.
    """

    rows: int
    columns: int


@dataclass(frozen=True)
class Units:
    """Named parts of the network are kept or pruned as a whole.

    Attributes:
        kind: ``"head"`` or ``"neuron"``.
    """

    kind: str


Pattern = Unstructured | Groups | Blocks | Units


def parse_pattern(text: str) -> Pattern:
    """Return the pattern of a name such as ``"unstructured"``, ``"2:4"``, ``"4x4"``, ``"head"``.

    Raises:
        ConfigError: no such pattern, or sizes that make none.
    """
    if text == "unstructured":
        return Unstructured()
    if text in ("head", "neuron"):
        return Units(text)
    numbers = re.fullmatch(r"([0-9]{1,6})([:x])([0-9]{1,6})", text)
    if numbers is None:
        raise ConfigError(unknown_name_message("pattern", text, PATTERNS))
    first, second = int(numbers[1]), int(numbers[3])
    if numbers[2] == ":":
        if not 0 < first < second:
            raise ConfigError(
                f"pattern {text!r} keeps {first} of every {second} weights; expected N:M with N "
                "from 1 and M above N, such as 2:4."
            )
        return Groups(first, second)
    if first * second < 2:
        raise ConfigError(
            f"pattern {text!r} has blocks of {first * second} weights; expected ROWSxCOLUMNS of 2 "
            "weights and more, such as 4x4. Single weights are the pattern unstructured."
        )
    return Blocks(first, second)


def check_combination(
    criterion: str, pattern: str, allocation: str, min_layer_density: float = 0.0
) -> str | None:
    """Say why a choice cannot be carried out; None if it can.

    Every criterion goes with every pattern and allocation; an allocation must leave a pattern its
    say over densities.

    Args:
        criterion: one of :data:`CRITERIA`.
        pattern: of one of the forms :data:`PATTERNS`.
        allocation: one of :data:`ALLOCATIONS`.
        min_layer_density: as in :func:`ticketry.core.select.select`; 0 is no floor.
    """
    return next(iter(combination_faults(criterion, pattern, allocation, min_layer_density)), None)


def combination_faults(
    criterion: str, pattern: str, allocation: str, min_layer_density: float = 0.0
) -> list[str]:
    """Return every unknown name of a choice, or why known ones do not go together.

    Args:
        criterion: as in :func:`check_combination`, and so are the others.
    """
    faults = []
    if criterion not in CRITERIA:
        faults.append(unknown_name_message("criterion", criterion, CRITERIA))
    if allocation not in ALLOCATIONS:
        faults.append(unknown_name_message("allocation", allocation, ALLOCATIONS))
        allocation = ALLOCATIONS[0]
    reason = check_pattern(pattern, allocation, min_layer_density)
    return [*faults, reason] if reason is not None else faults


def check_pattern(pattern: str, allocation: str, min_layer_density: float = 0.0) -> str | None:
    """Say why a pattern, an allocation and a floor do not go together; None if they do."""
    if allocation not in ALLOCATIONS:
        return unknown_name_message("allocation", allocation, ALLOCATIONS)
    try:
        kind = parse_pattern(pattern)
    except ConfigError as fault:
        return str(fault)
    if isinstance(kind, Groups) and allocation in ("erk", "given"):
        return (
            f"pattern {pattern} keeps {kind.keep} of every {kind.size} weights, so every tensor "
            f"has density {kind.density:g}; allocation {allocation} gives tensors densities of "
            "their own. Use global or uniform, which change nothing here."
        )
    if isinstance(kind, Units) and allocation == "erk":
        return (
            f"a {pattern} lies in several tensors and is kept or pruned in all of them; allocation "
            "erk gives each tensor a density of its own. Use global, uniform or given."
        )
    if min_layer_density and (allocation != "global" or isinstance(kind, Groups | Units)):
        return (
            f"min_layer_density {min_layer_density} is a floor for tensors that compete for "
            f"weights or blocks; with pattern {pattern} and allocation {allocation} they do not. "
            "Drop it, or use allocation global with unstructured or block patterns."
        )
    return None
