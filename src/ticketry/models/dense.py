"""Detectors and segmenters over a pre-trained backbone, by torchvision.

Neck and head are fresh; the backbone, which a mask speaks of, is the base with all its names.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ticketry.errors import ModelError
from ticketry.models.loading import BaseRef, load_backbone, loading, quiet
from ticketry.models.sources import TIMM, read_config
from ticketry.models.timm_nets import need_timm
from ticketry.recipes import Recipe

STRIDES = (8, 16, 32)
"""Of the feature levels that a detector reads."""
OUTPUT_STRIDE = 8
"""Of the features that a segmenter reads: later stages are dilated instead of halved."""
NECK = 128
"""Channels of the feature pyramid."""
_PROBE = 64


class Trunk(nn.Module):
    """A base that returns features of several levels.

    Args:
        base: a timm model in transformers' wrapper.
        strides: of the levels, rising.

    Raises:
        ModelError: it gives no features of one of the strides.
    """

    def __init__(self, base: PreTrainedModel, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.base = base
        found = levels(base)
        lacking = [stride for stride in strides if stride not in found]
        if lacking:
            raise ModelError(
                f"the model gives features of strides {', '.join(map(str, sorted(found))) or '-'}, "
                f"none of {', '.join(map(str, lacking))}; expected a convolutional backbone with a "
                "stem for large images, such as a ResNet or EfficientNet."
            )
        self.indices = [found[stride][0] for stride in strides]
        self.channels = [found[stride][1] for stride in strides]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return features [batch, channels, height, width], one tensor a stride."""
        model: Any = self.base.base_model
        found: list[Tensor] = model.forward_intermediates(
            pixels, indices=self.indices, norm=False, intermediates_only=True
        )
        return found


def levels(base: PreTrainedModel) -> dict[int, tuple[int, int]]:
    """Return stride -> (index, channels) of a base's features, the last of each stride.

    Measured, not read: a changed stem or dilated stages change what a model says of itself.

    Raises:
        ModelError: it gives no features level by level.
    """
    model: Any = base.base_model
    if not hasattr(model, "forward_intermediates"):
        raise ModelError(
            f"{type(model).__name__} gives no features level by level; expected a model of timm."
        )
    probe = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad():
        found = probe.forward_intermediates(
            torch.zeros(1, 3, _PROBE, _PROBE, device="meta"), norm=False, intermediates_only=True
        )
    return {_PROBE // f.shape[-1]: (index, int(f.shape[1])) for index, f in enumerate(found)}


def load_trunk(base: BaseRef, strides: tuple[int, ...], *, dilated: bool = False) -> Trunk:
    """Return a base as a trunk, at θ0.

    Args:
        base: the base model.
        strides: of the levels that are read.
        dilated: keep features at a stride of :data:`OUTPUT_STRIDE`; names and weights stay.

    Raises:
        ModelError: it is no model of timm, cannot be dilated, or lacks a level.
    """
    if read_config(base)["model_type"] != TIMM:
        raise ModelError(
            f"{base.name!r} is a {read_config(base)['model_type']} model; detection and "
            "segmentation need a convolutional model of timm, such as lite0 or timm/resnet50."
        )
    if not dilated:
        return Trunk(load_backbone(base), strides)
    with loading(base):
        config = _dilated(AutoConfig.from_pretrained(str(base.path), local_files_only=True))
        model = AutoModel.from_pretrained(
            str(base.path), config=config, dtype=torch.float32, use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
    return Trunk(model, strides)


def _dilated(config: Any) -> Any:
    config.model_args = {**(config.model_args or {}), "output_stride": OUTPUT_STRIDE}
    return config


class Pyramid(nn.Module):
    """A trunk with a feature pyramid, as torchvision's detectors want their backbone."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.trunk = trunk
        self.neck = FeaturePyramidNetwork(trunk.channels, NECK)
        self.out_channels = NECK

    def forward(self, pixels: Tensor) -> Mapping[str, Tensor]:
        """Return features by level."""
        levels = OrderedDict((str(n), f) for n, f in enumerate(self.trunk(pixels)))
        found: Mapping[str, Tensor] = self.neck(levels)
        return found


_FINEST = 1 / 6
"""Side of the finest level's anchors as a share of the image's; each coarser level doubles it.

Published detectors have five levels, whose anchors end at most of the image; over three levels they
must be spread likewise. 16, 32 and 64 pixels in images of 96.
"""


def _anchors(ratios: tuple[float, ...], finest: float) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes = tuple((round(finest * 2**level),) for level in range(len(STRIDES)))
    return AnchorGenerator(sizes, (ratios,) * len(STRIDES))


def _fcos(pyramid: Pyramid, classes: int, options: Mapping[str, Any]) -> nn.Module:
    from torchvision.models.detection import FCOS

    return FCOS(pyramid, classes, anchor_generator=_anchors((1.0,), 0.5 * STRIDES[0]), **options)


def _retinanet(pyramid: Pyramid, classes: int, options: Mapping[str, Any]) -> nn.Module:
    from torchvision.models.detection import RetinaNet

    anchors = _anchors((0.5, 1.0, 2.0), _FINEST * options["min_size"])
    return RetinaNet(pyramid, classes, anchor_generator=anchors, **options)


def _faster_rcnn(pyramid: Pyramid, classes: int, options: Mapping[str, Any]) -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.ops import MultiScaleRoIAlign

    renamed = {f"box_{n}" if n in ("score_thresh", "detections_per_img") else n: v
               for n, v in options.items()}  # fmt: skip
    return FasterRCNN(
        pyramid,
        classes,
        rpn_anchor_generator=_anchors((0.5, 1.0, 2.0), _FINEST * options["min_size"]),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        **renamed,
    )


DETECTORS: Mapping[str, Callable[[Pyramid, int, Mapping[str, Any]], nn.Module]] = {
    "fcos": _fcos,
    "retinanet": _retinanet,
    "faster-rcnn": _faster_rcnn,
}
"""Name -> torchvision's detector over a pyramid; class 0 is the background's."""


def build_detector(
    trunk: Trunk, detector: str, classes: int, side: int, most: int, head_seed: int
) -> nn.Module:
    """Return a detector with a fresh neck and head.

    Args:
        trunk: copied.
        detector: a key of :data:`DETECTORS`.
        classes: without the background.
        side: of the images, in pixels; they are not resized again.
        most: boxes that are kept of an image.
        head_seed: decides neck and head alone.
    """
    options = {
        "min_size": side,
        "max_size": side,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "score_thresh": 0.05,
        "detections_per_img": most,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(head_seed)
        return DETECTORS[detector](Pyramid(copy.deepcopy(trunk)), classes + 1, options)


class Segmenter(nn.Module):
    """DeepLabv3 over a trunk: logits of each pixel.

    Source: Chen et al. 2017 (arXiv 1706.05587), as torchvision builds it.
    """

    def __init__(self, trunk: Trunk, classes: int) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        self.trunk = trunk
        self.head = DeepLabHead(trunk.channels[-1], classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [batch, classes, height, width], of the images' own size."""
        logits = self.head(self.trunk(pixels)[-1])
        return nn.functional.interpolate(
            logits, pixels.shape[-2:], mode="bilinear", align_corners=False
        )


def build_segmenter(trunk: Trunk, classes: int, head_seed: int) -> Segmenter:
    """Return a segmenter with a fresh head; the trunk is copied."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(head_seed)
        return Segmenter(copy.deepcopy(trunk), classes)


def load_dense(folder: str | Path) -> nn.Module:
    """Return a detector or segmenter that ``ticketry train`` wrote, in eval mode.

    Args:
        folder: holds ``model.json``, ``config.json`` of the base, and ``model.safetensors``.

    Raises:
        ModelError: it holds none, or tensors of another model.
    """
    folder = Path(folder)
    need_timm()
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        dilated = about["objective"] == "segmentation"
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with quiet():
            base = AutoModel.from_config(_dilated(config) if dilated else config)
        classes = len(about["labels"])
        model: nn.Module
        if dilated:
            model = build_segmenter(Trunk(base, (OUTPUT_STRIDE,)), classes, 0)
        else:
            trunk = Trunk(base, STRIDES)
            most = about.get("detections_per_image", Recipe.detections_per_image)
            side = about["image_size_px"]
            model = build_detector(trunk, about["detector"], classes, side, most, 0)
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"{str(folder)!r} is no detector or segmenter of ticketry ({line[:200]}); expected "
            "what `ticketry train` wrote: model.json, config.json and model.safetensors."
        ) from error
    return model.eval()
