"""The objectives that vision models are pre-trained with, each over any set of labelled images.

Labels are not learned from but by ``supervised``; the retrieval probe reads them in all three.
"""

from __future__ import annotations

import dataclasses

from ticketry.errors import ConfigError, DataError
from ticketry.metrics import METRICS
from ticketry.parallel import launched
from ticketry.recipes import Recipe
from ticketry.tasks.base import SPLITS, Split, TaskData

CONTRASTIVE = ("simclr", "moco")
METRIC = "retrieval"


def as_pretraining(data: TaskData, objective: str) -> TaskData:
    """Return a task of image classification as one of pre-training on the same images.

    Raises:
        DataError: its examples are not images with a class each.
    """
    if data.objective != "image-classification":
        raise DataError(
            f"the data of {data.name} are for {data.objective}; {objective} needs images with a "
            "class each (which only its probe reads, unless it is supervised)."
        )
    return dataclasses.replace(
        data,
        name=f"{objective}/{data.name}",
        objective=objective,
        metric=METRIC,
        margin=METRICS[METRIC].margin,
    )


def check_pretraining(data: TaskData, recipe: Recipe) -> None:
    """Refuse what pre-training cannot do with these data and this recipe; all faults at once.

    Raises:
        ConfigError: a batch of too few images, an augmentation beside the objective's own, or a
            training shared by several processes.
    """
    if data.objective not in CONTRASTIVE:
        return
    faults = []
    if recipe.batch_size < 2:
        faults.append(
            f"--batch-size is {recipe.batch_size}; {data.objective} tells an image from others, "
            "so it needs 2 at least, better 128 or more."
        )
    elif len(data.train) < recipe.batch_size:
        faults.append(
            f"{data.name} has {len(data.train):,} training images, fewer than the --batch-size of "
            f"{recipe.batch_size}; give more images or a smaller batch."
        )
    if recipe.augment != "none":
        faults.append(
            f"--augment {recipe.augment} is for classification; {data.objective} draws two views "
            "of each image by its own rules."
        )
    if launched() > 1:
        faults.append(
            f"{data.objective} compares all images of a batch with each other, so a training "
            "cannot be shared by several processes; use --workers."
        )
    if faults:
        raise ConfigError(faults)


def check_channels(data: TaskData, channels: int) -> None:
    """Refuse images that a model cannot read.

    Raises:
        DataError: names the split and the image.
    """
    for name in SPLITS:
        split: Split = getattr(data, name)
        for number, text in enumerate(split.texts):
            found = text.partition(":")[0].rpartition("x")[2]
            if found not in ("1", str(channels)):
                raise DataError(
                    f"{data.name}: {name} image {number} has {found[:20] or 'no'} channels, the "
                    f"model reads {channels}; expected as many, or 1 (grey)."
                )
