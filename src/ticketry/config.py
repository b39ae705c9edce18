"""Frozen specifications of a run: what the user asked for, checked, with units and fingerprint.

A spec holds only what decides the result. Where the run lies, how many workers share it and what is
printed are not part of it, so they may change between two calls of one run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ticketry.controls import parse_control
from ticketry.errors import ConfigError, unknown_name_message
from ticketry.searchspec import SearchSpec, check_search

SCHEMA_VERSION = 1

DTYPES = ("float32", "bfloat16")
ANSWERS = ("extractive-qa", "extractive-qa-v2")
UNLABELLED = ("causal-lm", "masked-lm")
OWN_COLUMNS = (*ANSWERS, "token-classification")
"""Objectives whose columns have names of their own, so that none need be given."""
TEXT_OBJECTIVES = ("classification", "regression", "multi-label", *UNLABELLED, *OWN_COLUMNS)
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


OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("linear", "steps", "constant", "cosine")
AUGMENTATIONS = ("none", "crop", "crop-flip")
DETECTORS = ("fcos", "retinanet", "faster-rcnn")


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned; one recipe serves every arm of a run.

    Defaults are those of the BERT paper's GLUE runs, ``squad`` is that of its SQuAD runs (arXiv
    2007.12223, Appendix A); ``cifar`` and ``visda`` are the CV paper's (arXiv 2012.06908, Appendix
    A1; protocols.md). Differs: biases and norms are not decayed.

    Attributes:
        warmup_fraction: share of the steps over which the rate rises from zero.
        clip_norm: of the gradient; 0: none.
        image_size_px: that images are resized to; None: what the model asks for.
        augment: of training images: ``crop`` shifts by up to an eighth of the size.
        schedule: ``linear`` and ``cosine`` end at zero, ``steps`` multiplies by 0.1 at ``drops``.
        drops: shares of the steps, rising.
    """

    name: str = "paper"
    epochs: float = 3.0
    learning_rate: float = 2e-5
    batch_size: int = 32
    max_length_tokens: int = 128
    train_samples: int | None = None
    weight_decay: float = 0.0
    adam_eps: float = 1e-8
    warmup_fraction: float = 0.0
    clip_norm: float = 1.0
    dtype: str = "float32"
    freeze_embeddings: bool = False
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "linear"
    drops: tuple[float, ...] = ()
    image_size_px: int | None = None
    augment: str = "none"
    detector: str = "fcos"

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain values, as keys and records hold it."""
        plain = dataclasses.asdict(self)
        # Left out where they say nothing new, so that the keys of earlier versions stay.
        for name in _LATER:
            if plain[name] == _LATER[name]:
                del plain[name]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe from :meth:`to_json`."""
        return cls(**{**data, "drops": tuple(data.get("drops", ()))})

    def describe(self) -> str:
        """Say the recipe in one line."""
        samples = "all" if self.train_samples is None else f"{self.train_samples:,}"
        frozen = ", embeddings frozen" if self.freeze_embeddings else ""
        by = "AdamW" if self.optimizer == "adamw" else f"SGD, momentum {self.momentum:g}"
        course = {
            "linear": " decayed linearly to 0",
            "cosine": " decayed to 0 along a cosine",
            "constant": ", constant",
            "steps": f", ×0.1 at {', '.join(f'{share:.0%}' for share in self.drops)}",
        }[self.schedule]
        size = f"≤ {self.max_length_tokens} tokens"
        if self.image_size_px is not None:
            size = f"images of {self.image_size_px} pixels"
        augmented = "" if self.augment == "none" else f", {self.augment}"
        return (
            f"{self.name}: {by}, learning rate {self.learning_rate:g}{course}, "
            f"batch {self.batch_size}, {self.epochs:g} epochs of {samples} examples, "
            f"{size}{augmented}, {self.dtype}{frozen}"
        )


_LATER: Mapping[str, Any] = {
    name: Recipe.__dataclass_fields__[name].default
    for name in (
        "optimizer",
        "momentum",
        "schedule",
        "drops",
        "image_size_px",
        "augment",
        "detector",
    )
}
"""Fields that came later, with their defaults."""


RECIPES: Mapping[str, Recipe] = {
    "paper": Recipe(),
    "embedded": Recipe(
        name="embedded",
        epochs=2.0,
        learning_rate=1e-4,
        max_length_tokens=48,
        dtype="bfloat16",
        freeze_embeddings=True,
    ),
    "squad": Recipe(
        name="squad",
        epochs=2.0,
        learning_rate=3e-5,
        batch_size=16,
        max_length_tokens=384,
    ),
    "cifar": Recipe(
        name="cifar",
        epochs=182.0,
        learning_rate=0.1,
        batch_size=256,
        weight_decay=2e-4,
        clip_norm=0.0,
        optimizer="sgd",
        schedule="steps",
        drops=(0.5, 136 / 182),
        image_size_px=32,
        augment="crop-flip",
    ),
    "visda": Recipe(
        name="visda",
        epochs=20.0,
        learning_rate=1e-3,
        batch_size=128,
        weight_decay=5e-4,
        clip_norm=0.0,
        optimizer="sgd",
        schedule="steps",
        drops=(0.5,),
        image_size_px=224,
        augment="crop-flip",
    ),
    "images": Recipe(
        name="images",
        epochs=4.0,
        learning_rate=0.01,
        weight_decay=1e-4,
        clip_norm=0.0,
        optimizer="sgd",
        schedule="cosine",
        image_size_px=64,
    ),
}


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


def check_recipe(recipe: Recipe) -> list[str]:
    """Return every fault of a recipe, one sentence each."""
    faults: list[str] = []
    positive = {
        "--epochs": recipe.epochs,
        "--learning-rate": recipe.learning_rate,
        "--batch-size": recipe.batch_size,
        "--max-length": recipe.max_length_tokens,
    }
    for option, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            faults.append(f"{option} is {value}; expected a finite number above 0.")
    if recipe.train_samples is not None and recipe.train_samples < 2:
        faults.append(f"--train-samples is {recipe.train_samples}; expected at least 2.")
    if recipe.dtype not in DTYPES:
        faults.append(unknown_name_message("--dtype", recipe.dtype, DTYPES))
    size = recipe.image_size_px
    if size is not None and not 8 <= size <= 4096:
        faults.append(f"--image-size is {size}; expected 8 to 4096 pixels.")
    if recipe.augment not in AUGMENTATIONS:
        faults.append(unknown_name_message("--augment", recipe.augment, AUGMENTATIONS))
    if recipe.detector not in DETECTORS:
        faults.append(unknown_name_message("--detector", recipe.detector, DETECTORS))
    return faults


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
    elif data.objective and data.objective not in TEXT_OBJECTIVES:
        faults.append(unknown_name_message("--objective", data.objective, TEXT_OBJECTIVES))
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
