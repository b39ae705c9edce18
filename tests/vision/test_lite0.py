"""The packaged EfficientNet-Lite0 names what is on real photographs: its conversion is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data, transform
from sklearn.datasets import load_sample_image
from transformers import AutoModelForImageClassification

from ticketry.assets import verify_asset
from ticketry.models.loading import load_backbone, prunable, resolve
from ticketry.models.packaged import LITE0, PACKAGED
from ticketry.tasks.pixels import processing_of

PHOTOGRAPHS = {
    "espresso": (data.coffee, 967),
    "tripod": (data.camera, 872),
    "tiger cat": (data.chelsea, 282),
    "palace": (lambda: load_sample_image("china.jpg"), 698),
    "daisy": (lambda: load_sample_image("flower.jpg"), 985),
}


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    return AutoModelForImageClassification.from_pretrained(resolve("lite0").path).eval()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_recognised(name: str, classifier: torch.nn.Module) -> None:
    load, wanted = PHOTOGRAPHS[name]
    image = load()
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    edge = min(image.shape[:2])
    top, left = ((size - edge) // 2 for size in image.shape[:2])
    square = image[top : top + edge, left : left + edge]
    square = transform.resize(square, (224, 224), anti_aliasing=True, preserve_range=True)
    pixels = processing_of(resolve("lite0")).apply([square.round().astype(np.uint8)])
    with torch.no_grad():
        best = classifier(pixel_values=pixels).logits[0].topk(5).indices.tolist()
    assert wanted in best


def test_what_is_cached_is_what_was_published() -> None:
    assert resolve("lite0").path.name == LITE0.name
    assert verify_asset(LITE0) == []
    assert set(PACKAGED) == {"minilm", "lite0"}


def test_scopes_count_the_convolutions_that_may_be_pruned() -> None:
    base = load_backbone(resolve("lite0"))
    sizes = {name: p.numel() for name, p in base.base_model.named_parameters()}
    for scope, tensors, weights in (("encoder", 48, 3_328_128), ("no-depthwise", 32, 3_146_112)):
        names = prunable(base, (scope,))
        assert (len(names), sum(sizes[name] for name in names)) == (tensors, weights)
