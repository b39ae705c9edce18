"""The command that gives a spec again, for the evidence and the report. Torch-free."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ticketry.config import DATA_OPTIONS, DataSpec, FindSpec
from ticketry.recipes import FIELD_OF_OPTION, RECIPES
from ticketry.searchspec import SearchSpec

_SEARCH_FLAGS = (
    "grid",
    "rewind",
    "rewind_step",
    "start",
    "criterion",
    "pattern",
    "allocation",
    "layer_densities",
    "min_layer_density",
    "calibration_batches",
    "gradual_start",
    "gradual_end",
    "gradual_updates",
)


def data_flags(data: DataSpec) -> list[str]:
    """Return the options that choose the data."""
    flags = {"--task": data.task, "--data": data.data}
    flags |= {option: getattr(data, field) for option, field in DATA_OPTIONS.items()}
    shown = {
        flag: ",".join(value) if isinstance(value, tuple) else value
        for flag, value in flags.items()
        if value
    }
    return [f"{flag} {shlex.quote(value)}" for flag, value in shown.items()]


def shared_flags(spec: FindSpec) -> list[str]:
    """Return the options that ``find`` and ``verify`` share, defaults of the recipe left out."""
    parts = [
        f"--replicates {spec.replicates}",
        f"--controls {','.join(spec.controls) or 'none'}",
        f"--recipe {spec.recipe.name}",
    ]
    named = RECIPES[spec.recipe.name]
    for option, field in FIELD_OF_OPTION.items():
        value = getattr(spec.recipe, field)
        if value != getattr(named, field):
            parts.append(f"--{option.replace('_', '-')} {_plain(value)}")
    if spec.seed:
        parts.append(f"--seed {spec.seed}")
    if spec.device != FindSpec.device:
        parts.append(f"--device {spec.device}")
    if spec.threads != FindSpec.threads:
        parts.append(f"--threads {spec.threads}")
    if spec.keep_model:
        parts.append("--keep-model")
    return parts


def find_command(spec: FindSpec, out: Path) -> str:
    """Return the ``ticketry find`` command of a spec."""
    search = spec.search
    parts = [f"ticketry find --model {shlex.quote(spec.model)}"]
    if spec.revision:
        parts.append(f"--revision {shlex.quote(spec.revision)}")
    parts += data_flags(spec.data)
    parts.append(f"--sparsity {_plain(search.sparsity)} --method {search.method}")
    if search.method == "one-shot":
        parts.append(f"--from {search.source}")
    if search.levels is not None and search.method == "imp":
        parts.append(f"--levels {search.levels}")
    if search.rate is not None:
        parts.append(f"--rate {_plain(search.rate)} --rate-of {search.rate_of}")
    parts += _search_flags(search)
    if spec.scope != ("encoder",):
        parts += [f"--scope {shlex.quote(name)}" for name in spec.scope]
    return " ".join([*parts, *shared_flags(spec), f"--out {shlex.quote(str(out))}"])


def _search_flags(search: SearchSpec) -> list[str]:
    """Return the search's options that are not at their default."""
    parts = []
    for name in _SEARCH_FLAGS:
        value = getattr(search, name)
        if value == getattr(SearchSpec(), name):
            continue
        if name == "layer_densities":
            value = ",".join(f"{pattern}={_plain(density)}" for pattern, density in value)
        elif name == "grid":
            value = ",".join(_plain(level) for level in value)
        parts.append(f"--{name.replace('_', '-')} {shlex.quote(_plain(value))}")
    return parts


def verify_command(spec: FindSpec, out: Path) -> str:
    """Return the ``ticketry verify`` command of a spec; the ticket's place is left open."""
    parts = ["ticketry verify TICKET", *data_flags(spec.data), *shared_flags(spec)]
    return " ".join([*parts, f"--out {shlex.quote(str(out))}"])


def connect_command(spec: FindSpec, out: Path) -> str:
    """Return the ``ticketry connect`` command of a spec; the ticket's place is left open."""
    shared = [part for part in shared_flags(spec) if not part.startswith("--controls")]
    parts = ["ticketry connect TICKET", *data_flags(spec.data), *shared]
    return " ".join([*parts, f"--out {shlex.quote(str(out))}"])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
