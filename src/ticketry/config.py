"""Frozen specifications of a run: what the user asked for, checked, with units and fingerprint.

A spec holds only what decides the result. Where the run lies, how many workers share it and what is
printed are not part of it, so they may change between two calls of one run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ticketry.controls import parse_control
from ticketry.errors import ConfigError, unknown_name_message
from ticketry.recipes import Recipe, check_recipe
from ticketry.searchspec import SearchSpec, check_search

SCHEMA_VERSION = 1

ANSWERS = ("extractive-qa", "extractive-qa-v2")
UNLABELLED = ("causal-lm", "masked-lm")
OWN_COLUMNS = (*ANSWERS, "token-classification")
"""Objectives whose columns have names of their own, so that none need be given."""
PRETRAINING = ("simclr", "moco", "supervised")
"""What vision models are pre-trained with, over images with a class each."""
IMAGE_OBJECTIVES = ("image-classification", "detection", "segmentation", *PRETRAINING)
DATA_OBJECTIVES = (
    "classification", "regression", "multi-label", *UNLABELLED, *OWN_COLUMNS, *IMAGE_OBJECTIVES
)  # fmt: skip
"""What may be learned of the user's own data."""
DEVICES = ("auto", "cpu", "cuda")


def canonical_json(value: Any) -> str:
    """Serialise so that equal values give equal bytes (sorted keys, no spaces, no NaN)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (hex) of ``value``'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(seed: int, purpose: str) -> int:
    """Return a 31-bit seed for one purpose, independent of those for others.

    Args:
        seed: the replicate's or the search's seed.
        purpose: what the random numbers are for, such as ``"head"`` or ``"order"``.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def search_seed(seed: int) -> int:
    """Return the seed of the search; never one of :func:`verification_seeds` of any run seed."""
    return seed * 1000


def verification_seeds(seed: int, replicates: int) -> tuple[int, ...]:
    """Return the seeds of the replicates: 1, 2, … after the search's own seed."""
    return tuple(seed * 1000 + i for i in range(1, replicates + 1))


@dataclass(frozen=True)
class DataSpec:
    """Which data: a named task, or a file or hub dataset with its columns.

    Attributes:
        task: a name, or the path of a task's YAML file.
        label_columns: columns of 0 and 1, one for each label, instead of ``label_column``.
        objective: what is learned; classification when not given.
        data_config: of a hub data set that has several.
        test_split: the split of a hub data set that is tested on.
    """

    task: str | None = None
    data: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    test_data: str | None = None
    split_seed: int = 0
    label_columns: tuple[str, ...] = ()
    objective: str | None = None
    data_config: str | None = None
    test_split: str | None = None

    @property
    def label(self) -> str:
        """A short name for messages."""
        return self.task or self.data or "?"


DATA_OPTIONS: Mapping[str, str] = {
    "--text-column": "text_column",
    "--text-pair-column": "text_pair_column",
    "--label-column": "label_column",
    "--label-columns": "label_columns",
    "--objective": "objective",
    "--test-data": "test_data",
    "--data-config": "data_config",
    "--test-split": "test_split",
}
"""Options that go with ``--data`` -> their fields."""


@dataclass(frozen=True)
class FindSpec:
    """Everything that decides the result of ``find``."""

    model: str
    data: DataSpec
    search: SearchSpec = field(default_factory=SearchSpec)
    recipe: Recipe = field(default_factory=Recipe)
    revision: str | None = None
    scope: tuple[str, ...] = ("encoder",)
    replicates: int = 3
    controls: tuple[str, ...] = ("random-layerwise",)
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    keep_model: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        spec = {"schema_version": SCHEMA_VERSION, "kind": "find", **dataclasses.asdict(self)}
        spec["recipe"] = self.recipe.to_json()
        plain: dict[str, Any] = json.loads(canonical_json(spec))  # lists, not tuples
        return plain

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the spec's canonical JSON."""
        return fingerprint(self.to_json())


def check_data(data: DataSpec) -> list[str]:
    """Return every fault of a data choice that can be seen without opening it."""
    faults: list[str] = []
    given = {option: getattr(data, field) for option, field in DATA_OPTIONS.items()}
    given = {option: value for option, value in given.items() if value}
    if data.task and data.data:
        faults.append("--task and --data were both given; give one.")
    elif not data.task and not data.data:
        faults.append("neither --task nor --data was given; name a task or a file.")
    elif data.task:
        if given:
            names = ", ".join(given)
            faults.append(f"{names} go with --data; a named --task knows its columns.")
    elif data.objective and data.objective not in DATA_OBJECTIVES:
        faults.append(unknown_name_message("--objective", data.objective, DATA_OBJECTIVES))
    else:
        faults += _check_columns(data, given)
    if data.test_data and data.test_split:
        faults.append("--test-data and --test-split were both given; give one.")
    return faults


def _check_columns(data: DataSpec, given: Mapping[str, Any]) -> list[str]:
    """Return the faults of an objective's columns."""
    objective = data.objective or "classification"
    if objective in OWN_COLUMNS:
        faults = _no_label_columns(data)
        if objective not in ANSWERS and data.text_pair_column:
            faults.append(
                f"--text-pair-column and --objective {objective} exclude each other: it learns "
                "from one text alone."
            )
        return faults
    if objective in IMAGE_OBJECTIVES:
        return _image_columns(objective, given)
    plain_text = str(data.data).lower().endswith(".txt")
    faults = []
    if not data.text_column and not plain_text:
        faults.append("--data needs --text-column: the column's name in the file.")
    if objective in UNLABELLED:
        labels = ("--label-column", "--label-columns", "--text-pair-column")
        if some := [option for option in labels if option in given]:
            faults.append(
                f"{', '.join(some)} and --objective {objective} exclude each other: it learns "
                "from one text alone."
            )
        return faults
    if plain_text:
        faults.append(
            f"--data {data.data} is text without labels, for --objective causal-lm or "
            f"masked-lm; {objective} needs a table."
        )
    elif objective == "multi-label":
        if bool(data.label_column) == bool(data.label_columns):
            faults.append(
                "--objective multi-label needs either --label-column (names separated by ;) or "
                "--label-columns (of 0 and 1)."
            )
        elif len(data.label_columns) == 1:
            faults.append("--label-columns names one column; expected at least two.")
    else:
        faults += _no_label_columns(data)
        if not data.label_column:
            faults.append("--data needs --label-column: the column's name in the file.")
    return faults


def _image_columns(objective: str, given: Mapping[str, Any]) -> list[str]:
    """Return the faults of columns of images: a hub data set alone has any."""
    refused = ["--text-pair-column", "--label-columns"]
    if objective in ("detection", "segmentation"):
        refused += ["--text-column", "--label-column", "--data-config"]
    if some := [option for option in refused if option in given]:
        return [f"{', '.join(some)} and --objective {objective} exclude each other."]
    return []


def _no_label_columns(data: DataSpec) -> list[str]:
    return ["--label-columns go with --objective multi-label."] if data.label_columns else []


def check_find(spec: FindSpec) -> None:
    """Raise one :class:`ConfigError` that lists every fault of ``spec``."""
    faults = [*check_data(spec.data), *check_search(spec.search), *check_recipe(spec.recipe)]
    if not spec.model:
        faults.append("--model is empty; give a hub id, a folder, or 'minilm'.")
    if spec.replicates < 2:
        faults.append(
            f"--replicates is {spec.replicates}; expected at least 2, "
            "because one run has no spread to judge by."
        )
    for control in spec.controls:
        try:
            parse_control(control)
        except ValueError as fault:
            faults.append(str(fault))
    if spec.device not in DEVICES:
        faults.append(unknown_name_message("--device", spec.device, DEVICES))
    if spec.threads < 1:
        faults.append(f"--threads is {spec.threads}; expected at least 1.")
    if not 0 <= spec.seed < 2**20:
        faults.append(f"--seed is {spec.seed}; expected a whole number in [0, {2**20}).")
    if not spec.scope:
        faults.append("--scope is empty; give a scope name or patterns.")
    if faults:
        raise ConfigError(faults)
