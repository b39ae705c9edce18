"""Recipes: how a model is fine-tuned. Torch-free."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ticketry.errors import unknown_name_message

DTYPES = ("float32", "bfloat16")
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
        temperature: of contrastive pre-training; None: the objective's own.
        queue: keys that MoCo keeps.
        key_momentum: share of MoCo's momentum encoder that stays at each step.
        detections_per_image: that a detector keeps, those of the highest scores.
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
    temperature: float | None = None
    queue: int = 4096
    key_momentum: float = 0.99
    detections_per_image: int = 100

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
            "steps": f", ×0.1 at {', '.join(f'{share:.0%}' for share in self.drops)}"
            if self.drops
            else ", constant",
        }[self.schedule]
        size = f"≤ {self.max_length_tokens} tokens"
        if self.image_size_px is not None:
            size = f"images of {self.image_size_px} pixels"
        usual = RECIPES.get(self.name, self).weight_decay
        decay = "" if self.weight_decay == usual else f", weight decay {self.weight_decay:g}"
        warm = "" if self.temperature is None else f", temperature {self.temperature:g}"
        augmented = "" if self.augment == "none" else f", {self.augment}"
        return (
            f"{self.name}: {by}, learning rate {self.learning_rate:g}{course}, "
            f"batch {self.batch_size}, {self.epochs:g} epochs of {samples} examples"
            f"{decay}, {size}{augmented}{warm}, {self.dtype}{frozen}"
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
        "temperature",
        "queue",
        "key_momentum",
        "detections_per_image",
    )
}
"""Fields that came later, with their defaults."""


FIELD_OF_OPTION: Mapping[str, str] = {
    "epochs": "epochs",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "batch_size": "batch_size",
    "max_length": "max_length_tokens",
    "train_samples": "train_samples",
    "dtype": "dtype",
    "image_size": "image_size_px",
    "augment": "augment",
    "detector": "detector",
    "detections_per_image": "detections_per_image",
    "temperature": "temperature",
    "queue": "queue",
    "key_momentum": "key_momentum",
}
"""Option, by its name in YAML and in Python -> the field of a recipe that it changes."""

_PHOTOS = Recipe(
    name="photos",
    epochs=4.0,
    learning_rate=0.01,
    weight_decay=1e-4,
    clip_norm=0.0,
    optimizer="sgd",
    schedule="cosine",
)

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
    "images": dataclasses.replace(_PHOTOS, name="images", image_size_px=64),
    "photos": _PHOTOS,
    "pretrain": Recipe(
        name="pretrain",
        epochs=10.0,
        learning_rate=0.06,
        batch_size=128,
        weight_decay=5e-4,
        dtype="bfloat16",
        clip_norm=0.0,
        optimizer="sgd",
        schedule="cosine",
    ),
    "rounds": Recipe(
        name="rounds",
        epochs=10.0,
        learning_rate=1e-4,
        batch_size=256,
        weight_decay=1e-4,
        clip_norm=0.0,
        optimizer="sgd",
        schedule="steps",
        image_size_px=224,
    ),
    "voc-boxes": Recipe(
        name="voc-boxes",
        epochs=50.0,
        learning_rate=1e-4,
        batch_size=8,
        weight_decay=5e-4,
        clip_norm=0.0,
        optimizer="sgd",
        schedule="cosine",
        image_size_px=416,
    ),
    "voc-masks": Recipe(
        name="voc-masks",
        epochs=12.0,
        learning_rate=0.01,
        batch_size=4,
        weight_decay=1e-4,
        clip_norm=0.0,
        optimizer="sgd",
        schedule="steps",
        drops=(0.6, 22 / 30),
        warmup_fraction=100 / 30_000,
        image_size_px=480,
    ),
}


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
    if not (math.isfinite(recipe.weight_decay) and recipe.weight_decay >= 0):
        faults.append(
            f"--weight-decay is {recipe.weight_decay}; expected a finite number, 0 or above."
        )
    if recipe.temperature is not None and not 0.01 <= recipe.temperature <= 100:
        faults.append(f"--temperature is {recipe.temperature}; expected 0.01 to 100.")
    if recipe.queue < 1:
        faults.append(f"--queue is {recipe.queue}; expected at least 1.")
    if not 0 <= recipe.key_momentum < 1:
        faults.append(f"--key-momentum is {recipe.key_momentum}; expected 0 up to below 1.")
    if recipe.detections_per_image < 1:
        faults.append(
            f"--detections-per-image is {recipe.detections_per_image}; expected at least 1."
        )
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
