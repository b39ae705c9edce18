"""Flat options, as the command line, a YAML file and Python calls give them, into checked specs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ticketry.config import DATA_OPTIONS, PRETRAINING, DataSpec, FindSpec, check_find
from ticketry.errors import ConfigError, nearest, unknown_name_message
from ticketry.recipes import FIELD_OF_OPTION, RECIPES, Recipe
from ticketry.searchspec import N_OF_M, SearchSpec
from ticketry.yamlfile import read_yaml

USUAL_RECIPES = {"minilm": "embedded", "lite0": "images"}
"""Packaged model -> the recipe where none is named."""
USUAL_OF_OBJECTIVES = {
    **dict.fromkeys(("image-classification", "detection", "segmentation"), "photos"),
    **dict.fromkeys(PRETRAINING, "pretrain"),
}
"""Objective -> that of other models; ``paper`` (BERT's) where it is not here."""

_DATA = ("task", "data", *DATA_OPTIONS.values())
_SEARCH = tuple(field.name for field in dataclasses.fields(SearchSpec))
RECIPE_OPTIONS = frozenset(FIELD_OF_OPTION)
"""Options that change a recipe."""
_RUN = ("model", "revision", "scope", "replicates", "controls", "seed", "device", "threads")
OPTIONS = frozenset({*_DATA, *_SEARCH, *FIELD_OF_OPTION, *_RUN, "recipe", "keep_model"})
"""Every option that decides a result, by its name in YAML and in Python."""

RUN_OPTIONS = frozenset({"out", "store", "workers"})
"""Options that a YAML file may also set, and that decide no result."""


def build_recipe(options: Mapping[str, Any], faults: list[str]) -> Recipe:
    """Return the named recipe with the options' changes; note an unknown name in ``faults``."""
    name = options.get("recipe") or USUAL_RECIPES.get(str(options.get("model")))
    name = name or USUAL_OF_OBJECTIVES.get(_objective(options), "paper")
    if name not in RECIPES:
        faults.append(unknown_name_message("--recipe", str(name), RECIPES))
        name = "paper"
    changes = {
        field: options[option]
        for option, field in FIELD_OF_OPTION.items()
        if options.get(option) is not None
    }
    return dataclasses.replace(RECIPES[name], **changes)


def _objective(options: Mapping[str, Any]) -> str:
    """Return what is learned, as far as options tell; faults are found elsewhere."""
    from ticketry.tasks.registry import TASKS

    objective, task = options.get("objective"), str(options.get("task") or "")
    if objective is None and task in TASKS:
        objective = TASKS[task].objective
    elif objective is None and task.endswith((".yaml", ".yml")):
        try:
            said = read_yaml(Path(task))
        except (OSError, ValueError):
            said = None
        objective = said.get("objective") if isinstance(said, Mapping) else None
    return str(objective)


def recipe_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that give a recorded recipe again."""
    named = {option: recipe.get(field) for option, field in FIELD_OF_OPTION.items()}
    return {"recipe": recipe.get("name"), **named}


def build_search(options: Mapping[str, Any], faults: list[str]) -> SearchSpec:
    """Return the search; a grid and an N:M pattern give the sparsity where none was given."""
    given = {name: options[name] for name in _SEARCH if options.get(name) is not None}
    if "grid" in given:
        given["grid"] = _numbers(given["grid"], faults)
    if "layer_densities" in given:
        given["layer_densities"] = _densities(given["layer_densities"], faults)
    if "sparsity" not in given:
        group = N_OF_M.match(str(given.get("pattern", "")))
        if given.get("grid"):
            given["sparsity"] = given["grid"][-1]
        elif group and int(group[1]) < int(group[2]):
            given["sparsity"] = 1.0 - int(group[1]) / int(group[2])
    return SearchSpec(**given)


def _numbers(value: Any, faults: list[str]) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        faults.append(f"--grid is {value!r}; expected numbers such as 0.2,0.36,0.488.")
        return ()


def _densities(value: Any, faults: list[str]) -> tuple[tuple[str, float], ...]:
    """Read ``PATTERN=DENSITY,…``, a YAML file of them, or a mapping."""
    pairs: Any = value
    if isinstance(value, str):
        if Path(value).is_file():
            pairs = _density_file(Path(value), faults)
        else:
            pairs = dict(part.rpartition("=")[::2] for part in value.split(","))
    if not isinstance(pairs, Mapping):
        pairs = dict(pairs) if isinstance(pairs, list | tuple) else {"": value}
    found = []
    for name, density in pairs.items():
        try:
            if not str(name).strip():
                raise ValueError
            found.append((str(name).strip(), float(density)))
        except (TypeError, ValueError):
            faults.append(
                f"--layer-densities has {name!r}: {density!r}; expected PATTERN=DENSITY, such as "
                "'encoder.layer.0.*=0.8,*=0.5', or a YAML file of them."
            )
    return tuple(found)


def _density_file(path: Path, faults: list[str]) -> Any:
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        faults.append(f"--layer-densities {path} is not YAML: {error}.")
        return {}


def build_data(options: Mapping[str, Any]) -> DataSpec:
    """Return the data choice."""
    chosen: dict[str, Any] = {name: options.get(name) for name in _DATA}
    chosen["label_columns"] = as_names(chosen["label_columns"] or ())
    return DataSpec(**chosen)


def build_find_spec(options: Mapping[str, Any]) -> FindSpec:
    """Turn flat options into a checked spec.

    Args:
        options: option name -> value; None means "not given".

    Raises:
        ConfigError: lists every fault at once.
    """
    faults = [f"unknown option {name!r}.{_hint(name)}" for name in sorted(set(options) - OPTIONS)]
    faults += check_types(options)
    if faults:
        raise ConfigError(faults)
    recipe = build_recipe(options, faults)
    search = build_search(options, faults)
    run = {name: options[name] for name in _RUN if options.get(name) is not None}
    run["model"] = run.get("model", "")
    for name in ("scope", "controls"):
        if name in run:
            run[name] = as_names(run[name])
    if run.get("controls") == ("none",):
        run["controls"] = ()
    spec = FindSpec(
        **run,
        data=build_data(options),
        search=search,
        recipe=recipe,
        keep_model=bool(options.get("keep_model", False)),
    )
    try:
        check_find(spec)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return spec


def as_names(value: Any) -> tuple[str, ...]:
    """Split ``"a,b"`` or a list of such into names, keeping order, once each."""
    parts = [value] if isinstance(value, str) else list(value)
    names = [name.strip() for part in parts for name in str(part).split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def _python_name(option: str) -> str:
    """Return an option's name in Python; ``--from`` is ``source``, as ``from`` is a keyword."""
    name = option.replace("-", "_")
    return "source" if name == "from" else name


_NUMBERS = {
    "sparsity",
    "rate",
    "min_layer_density",
    "gradual_start",
    "gradual_end",
    "epochs",
    "learning_rate",
    "weight_decay",
    "temperature",
    "key_momentum",
}
_COUNTS = {
    "levels",
    "rewind_step",
    "calibration_batches",
    "gradual_updates",
    "batch_size",
    "max_length",
    "train_samples",
    "image_size",
    "detections_per_image",
    "queue",
    "replicates",
    "seed",
    "threads",
    "workers",
}


def check_types(options: Mapping[str, Any]) -> list[str]:
    """Return a fault for each option whose value is of a wrong type (YAML gives any type)."""
    faults = []
    for name, value in options.items():
        shown = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if name in _COUNTS:
            if isinstance(value, bool) or not isinstance(value, int):
                faults.append(f"{shown} is {value!r}; expected a whole number.")
        elif name in _NUMBERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                faults.append(f"{shown} is {value!r}; expected a number.")
        elif name in ("scope", "controls", "label_columns"):
            if not isinstance(value, str | list | tuple):
                faults.append(f"{shown} is {value!r}; expected names.")
        elif name in ("grid", "layer_densities"):
            if not isinstance(value, str | list | tuple | Mapping):
                faults.append(f"{shown} is {value!r}; expected a list or text.")
        elif name == "keep_model":
            if not isinstance(value, bool):
                faults.append(f"{shown} is {value!r}; expected true or false.")
        elif name in OPTIONS | RUN_OPTIONS and not isinstance(value, str | Path):
            faults.append(f"{shown} is {value!r}; expected text.")
    return faults


def _hint(name: str) -> str:
    close = nearest(name, OPTIONS | RUN_OPTIONS)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def read_config(path: Path, own: Collection[str] = ()) -> dict[str, Any]:
    """Read options from a YAML file; keys are option names with ``_`` or ``-``.

    Args:
        path: of the file.
        own: options of one command alone, which checks them itself.

    Raises:
        ConfigError: the file cannot be read, is not a mapping, or has unknown keys or wrong types.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"--config {path} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(f"--config {path} holds {kind}; expected `option: value` lines.")
    options = {_python_name(str(key)): value for key, value in content.items()}
    known = OPTIONS | RUN_OPTIONS | set(own)
    faults = [
        f"--config {path}: unknown option {name!r}.{_hint(name)}"
        for name in sorted(set(options) - known)
    ]
    common = {name: value for name, value in options.items() if name not in own}
    faults += [f"--config {path}: {fault}" for fault in check_types(common)]
    if faults:
        raise ConfigError(faults)
    return options
