"""The words of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ticketry import config
from ticketry.recipes import FIELD_OF_OPTION
from ticketry.searchspec import CALIBRATED, SearchSpec

RECIPE_OPTIONS = ("recipe", *FIELD_OF_OPTION)
DATA_OPTIONS = ("task", "data", "model", "revision", *config.DATA_OPTIONS.values())
SEARCH_OPTIONS = tuple(
    f.name for f in dataclasses.fields(SearchSpec) if f.name not in ("sparsity", "layer_densities")
)
ARM_KEYS = (*SEARCH_OPTIONS, *RECIPE_OPTIONS, "sources", "targets", "sparsities", "masks",
             "rewind_share", "fine_tunings")  # fmt: skip
KEYS = (
    "schema_version", "study", "title", "paper", "model", "revision", "scope", "seed", "device",
    "threads", "masks", "fine_tunings", "half_budget", "recipe", "tasks", "sources", "targets",
    "sparsities", "sparsity_of", "arms", "controls", "contrasts", "overlaps", "prunable", "sizes",
)  # fmt: skip


def is_sparsity(value: Any) -> bool:
    """Say whether a value is a number in [0, 1)."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < 1


def option(name: str) -> str:
    """Return an option's name in Python; ``from`` is ``source``."""
    name = name.replace("-", "_")
    return "source" if name == "from" else name


def searches_a_task(search: Mapping[str, Any]) -> bool:
    """Say whether a search looks at any task's data."""
    if search.get("method") == "one-shot" and search.get("source") == "theta0":
        return search.get("criterion", "magnitude") in CALIBRATED
    return True
