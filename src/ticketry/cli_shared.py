"""What the commands share: options taken apart, a run's place, notes and JSON on their streams."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ticketry.errors import ConfigError
from ticketry.terminal import echo

_NOT_OPTIONS = frozenset({"config", "plan", "as_json", "ticket"})


def given_options(
    given: Mapping[str, Any], config: Path | None, own: Collection[str] = ()
) -> dict[str, Any]:
    """Return the options that were given, those of ``--config`` below them.

    Args:
        given: every option of a command, None where it was not given.
        config: of ``--config``.
        own: options of this command alone that a file may hold too.
    """
    chosen = {
        name: value
        for name, value in given.items()
        if name not in _NOT_OPTIONS and value is not None and value is not False
    }
    if config is None:
        return chosen
    from ticketry.options import read_config

    return {**read_config(config, own), **chosen}


def note(line: str) -> None:
    """Print a line for people on standard error."""
    echo(line, err=True)


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    echo(json.dumps(value, allow_nan=False))


def take_place(options: dict[str, Any], *, needed: bool = False) -> dict[str, Any]:
    """Take the options that decide no result out of ``options``."""
    place = {name: options.pop(name, None) for name in ("out", "store", "workers")}
    if needed and place["out"] is None:
        raise ConfigError("--out is missing; give the folder to write to.")
    for name in ("out", "store"):
        place[name] = None if place[name] is None else Path(place[name])
    return place


def make_place(place: Mapping[str, Any], plan_only: bool = False) -> Any:
    """Return where a run lies, as :func:`take_place` found it, with a bar for its progress."""
    from ticketry.console import ConsoleEvents
    from ticketry.jobs import Place

    return Place(**place, events=ConsoleEvents(), say=note, plan_only=plan_only)
