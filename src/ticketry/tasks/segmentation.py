"""A class for each pixel: a task bound to a base, as the training loop's workload."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from ticketry.errors import DataError, TrainingError
from ticketry.metrics.maps import VOID, decode_map, encode_map
from ticketry.models.dense import OUTPUT_STRIDE, build_segmenter, load_trunk
from ticketry.models.loading import BaseRef
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.dense import DensePrediction
from ticketry.tasks.workload import Batch, Evaluation, SplitName


class Segmentation(DensePrediction):
    """Fine-tune DeepLabv3 over a base; only the base is pruned. Void pixels do not count."""

    def __init__(self, base: BaseRef, data: TaskData, recipe: Recipe) -> None:
        super().__init__(base, data, recipe)
        self._trunk = load_trunk(base, (OUTPUT_STRIDE,), dilated=True)

    def _targets(self, split: Split, name: str) -> dict[str, Tensor]:
        rows = []
        for number, (text, size) in enumerate(zip(split.labels, self.sizes[name], strict=True)):
            classes = decode_map(text)
            where = f"{name} image {number}"
            if classes.shape != size:
                raise DataError(
                    f"{where} is of {size[0]} × {size[1]} pixels, its mask of "
                    f"{classes.shape[0]} × {classes.shape[1]}; expected the same size."
                )
            seen = classes[classes != VOID]
            if seen.size and seen.max() >= len(self.data.labels):
                raise DataError(
                    f"{where}: class {seen.max()}; expected 0 to {len(self.data.labels) - 1}, or "
                    f"{VOID} where nothing is asked (classes count from 0)."
                )
            whole = torch.from_numpy(classes.copy())[None, None].float()
            rows.append(interpolate(whole, (self.side, self.side), mode="nearest")[0, 0].byte())
        return {"classes": torch.stack(rows)}

    def build(self, head_seed: int, device: str = "cpu") -> nn.Module:
        """Return a fresh segmenter at θ0 on ``device``."""
        return build_segmenter(self._trunk, len(self.data.labels), head_seed).to(device).eval()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the pixels that count."""
        logits = model(batch["pixel_values"]).float()
        return cross_entropy(logits, batch["classes"].long(), ignore_index=VOID)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: SplitName) -> Evaluation:
        """Give each pixel of a split a class, in the recipe's precision.

        Returns:
            Its predictions are label maps as text, of the images' own sizes.

        Raises:
            TrainingError: the model's outputs are not finite.
        """
        found: list[str] = []
        for _, images in self._read(model, split):
            logits = model(images).float()
            if not torch.isfinite(logits).all():
                raise TrainingError(
                    f"the model's outputs on the {split} split are not finite; the training "
                    "diverged. Try a lower --learning-rate or --dtype float32."
                )
            for row in logits:
                size = self.sizes[split][len(found)]
                if tuple(row.shape[-2:]) != size:
                    row = interpolate(row[None], size, mode="bilinear", align_corners=False)[0]
                found.append(encode_map(row.argmax(0).cpu().numpy().astype(np.uint8)))
        labels = getattr(self.data, split).labels
        return Evaluation(float(self.metric.fn(labels, found)), tuple(found))
