"""What features are worth without any training: the class of the nearest image that was trained on.

Source: the CV paper's retrieval performance (arXiv 2012.06908, Figure 2): cosine, the first hit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ticketry.config import derive_seed
from ticketry.errors import TrainingError
from ticketry.models.contrastive import features
from ticketry.models.loading import base_model
from ticketry.tasks.ahead import in_order
from ticketry.tasks.pixels import Pixels
from ticketry.tasks.workload import precision

GALLERY = 4096
"""Images of the training split that are looked among, at most."""
_AT_ONCE = 128


def gallery_size(examples: int) -> int:
    """Return how many images of a training split are looked among."""
    return min(GALLERY, examples)


def gallery_rows(examples: int) -> list[int]:
    """Return which images of a training split are looked among: the same in every arm."""
    generator = torch.Generator().manual_seed(derive_seed(0, "gallery"))
    order: list[int] = torch.randperm(examples, generator=generator).tolist()
    return sorted(order[: gallery_size(examples)])


@torch.no_grad()
def read_features(model: nn.Module, images: Tensor | Pixels, dtype: str, split: str) -> Tensor:
    """Return features of unit length, [images, features], on the CPU, with the model in eval mode.

    Raises:
        TrainingError: they are not finite.
    """
    net = base_model(model)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with precision(device, dtype):
            found = [
                features(net, part.to(device)).float()
                for part in in_order(images.split(_AT_ONCE), device)
            ]
    finally:
        model.train(training)
    whole = torch.cat(found).cpu()
    if not torch.isfinite(whole).all():
        raise TrainingError(
            f"the model's features on the {split} split are not finite; the training diverged. "
            "Try a lower --learning-rate or --dtype float32."
        )
    return normalize(whole, dim=1)


def retrieve(gallery: Tensor, labels: Sequence[int], queries: Tensor) -> list[int]:
    """Return the label of each query's nearest neighbour by cosine; the first one of equals.

    Args:
        gallery: features of unit length, [images, features].
        labels: of the gallery.
        queries: features of unit length.
    """
    found: list[int] = []
    for part in queries.split(_AT_ONCE):
        alike = part @ gallery.T
        nearest = (alike == alike.amax(1, keepdim=True)).int().argmax(1)
        found += [int(labels[row]) for row in nearest.tolist()]
    return found
