"""What reading one image costs: counted, since it depends on its size and on what is read of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ticketry.models.contrastive import features
from ticketry.models.loading import BaseRef, base_model
from ticketry.recipes import Recipe
from ticketry.tasks.base import TaskData
from ticketry.tasks.dense import side_of
from ticketry.tasks.pixels import decode_image, processing_of

FORWARDS = {"simclr": 6.0, "moco": 4.0}
"""Objective -> a step's cost in forward passes of an image, where it isn't three (a backward pass
is two): simCLR trains on two views, MoCo on one, and reads the other."""


def image_flops(base: BaseRef, backbone: nn.Module, data: TaskData, recipe: Recipe) -> float:
    """Count the FLOPs of one forward and backward pass of an image, with neck and head.

    Args:
        base: the base model.
        backbone: it, loaded.
        data: of an objective whose examples are images.
        recipe: decides their size, and the detector.

    Raises:
        ModelError: the base cannot do what the objective needs.
        DataError: the first example is no image.
        ConfigError: images are too small for the objective.
    """
    height, width, _ = decode_image(data.train.texts[0]).shape
    side = recipe.image_size_px
    model: Any = None
    if data.objective in ("detection", "segmentation"):
        side = side_of(data.objective, recipe, (height, width))
        model = _dense(base, data, recipe, side).eval()
    processing = processing_of(base, side)
    blank = torch.zeros(1, processing.channels, *processing.size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if model is None:
            features(base_model(backbone), blank)
        else:
            model(list(blank) if data.objective == "detection" else blank)
    return FORWARDS.get(data.objective, 3.0) * counter.get_total_flops()


def _dense(base: BaseRef, data: TaskData, recipe: Recipe, side: int) -> nn.Module:
    from ticketry.models.dense import (
        OUTPUT_STRIDE,
        STRIDES,
        build_detector,
        build_segmenter,
        load_trunk,
    )

    classes = len(data.labels)
    if data.objective == "detection":
        trunk, kept = load_trunk(base, STRIDES), recipe.detections_per_image
        return build_detector(trunk, recipe.detector, classes, side, kept, 0)
    return build_segmenter(load_trunk(base, (OUTPUT_STRIDE,), dilated=True), classes, 0)
