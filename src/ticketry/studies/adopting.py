"""What of another study's records counts here: all, but searches that this machine must repeat.

A record tells a mask's digest. Where the mask itself is gone it is searched again, and must come
out the same, which holds on the machine that searched it: other kernels round otherwise, and a
mask is full of ties that a rounding decides. So a record of another machine whose mask would be
searched again is not taken over, nor is what was measured of that mask.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from ticketry.steps import Step
from ticketry.studies.around import machine_of
from ticketry.studies.cells import Grid
from ticketry.studies.ledger import Ledger


def keys_to_adopt(
    grid: Grid,
    own: Ledger,
    others: Sequence[Ledger],
    missing: Callable[[Ledger], Sequence[Step]],
) -> tuple[frozenset[str], int]:
    """Return the steps that other studies' records may count for, and how many may not.

    Args:
        grid: the study.
        own: its records; changed, in memory alone.
        others: of other studies.
        missing: the steps that are run where these are the records.
    """
    here = machine_of(platform.node())
    keys = {step.key for step in grid.steps}
    lines = dict(own.lines)
    before = set(lines)
    for other in others:
        lines = {**{k: line for k, line in other.lines.items() if k in keys}, **lines}
    offered = frozenset(set(lines) - before)
    foreign = {key for key in offered if lines[key]["environment"].get("machine") != here}
    dropped: set[str] = set()
    while True:
        own.lines = {key: line for key, line in lines.items() if key not in dropped}
        again = {step.key for step in missing(own)} & (foreign - dropped)
        searched = {step.key for step in grid.steps if step.key in again and _computed(step)}
        if not searched:
            return offered - dropped, len(dropped)
        dropped |= _downstream(grid, searched) & offered


def _computed(step: Step) -> bool:
    """Say whether a step's mask depends on the machine: one of the weights alone does not."""
    return step.train_passes + step.calibration_passes > 0 or bool(step.needs)


def _downstream(grid: Grid, keys: set[str]) -> set[str]:
    """Return steps and all that needs them, directly or through others."""
    found = set(keys)
    grown = True
    while grown:
        more = {s.key for s in grid.steps if s.key not in found and found.intersection(s.needs)}
        grown = bool(more)
        found |= more
    return found
