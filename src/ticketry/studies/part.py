"""A part of a study, by its targets: what is run this time, in the same folder as the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ticketry.errors import ConfigError, unknown_name_message
from ticketry.studies.spec import SAME, ArmSpec, StudySpec


def part_of(spec: StudySpec, patterns: Sequence[str]) -> StudySpec:
    """Return a study with the cells of some targets alone.

    Arms that reach none of them fall away, with their controls and contrasts, and so do sources
    that stay on their own task: what is left loads no model or data that it does not need.

    Args:
        spec: the whole plan; its fingerprint stays that of the folder.
        patterns: names of targets; ``*`` and ``?`` stand for what they do in a shell.

    Raises:
        ConfigError: patterns that no target has.
    """
    targets = _targets(spec)
    if faults := [
        unknown_name_message("target of --only", pattern, targets)
        for pattern in patterns
        if not any(fnmatchcase(target, pattern) for target in targets)
    ]:
        raise ConfigError(faults)
    chosen = {t for t in targets if any(fnmatchcase(t, pattern) for pattern in patterns)}
    arms = tuple(arm for whole in spec.arms if (arm := _arm(whole, chosen)) is not None)
    names = {arm.name for arm in arms}
    return dataclasses.replace(
        spec,
        targets=tuple(name for name in spec.targets if name in chosen or name == SAME),
        arms=arms,
        controls=tuple(control for control in spec.controls if control.of in names),
        contrasts=tuple(c for c in spec.contrasts if c.a in names and c.b in names),
    )


def _targets(spec: StudySpec) -> tuple[str, ...]:
    """Return every task that a mask may be fine-tuned on."""
    named = [*spec.targets]
    for arm in spec.arms:
        named += arm.sources if arm.targets == (SAME,) else arm.targets
    return tuple(dict.fromkeys(name for name in named if name != SAME))


def _arm(arm: ArmSpec, chosen: set[str]) -> ArmSpec | None:
    """Return what an arm does for the chosen targets; None where that is nothing."""
    if arm.targets == (SAME,):
        sources = tuple(source for source in arm.sources if source in chosen)
        return dataclasses.replace(arm, sources=sources) if sources else None
    targets = tuple(target for target in arm.targets if target in chosen)
    return dataclasses.replace(arm, targets=targets) if targets else None
