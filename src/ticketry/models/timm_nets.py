"""timm's architectures, and those with a CIFAR stem beside them.

The stem of the CV paper's small images is a 3 × 3 convolution of stride 1 without max-pooling
behind it. No released checkpoint has one, so its weights are new (arXiv 2012.06908, section 4).
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from ticketry.errors import ModelError

_LAYERS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
_BASIC = ("resnet18", "resnet34")
_SMALL = (16, 32, 64, 128)
CIFAR = tuple(f"{name}_cifar" for name in _LAYERS)
SMALL = "resnet18_cifar_w16"
"""A ResNet-18 with a CIFAR stem and a quarter of the channels: small enough to pre-train here."""

default_cfgs: dict[str, Any] = {}
"""Where timm looks for what it should know of this module's architectures."""


def need_timm() -> None:
    """Refuse to go on without timm, and register the architectures with it.

    Raises:
        ModelError: says how to get it.
    """
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision's own, where it does not fit torch
        raise ModelError(
            f"image models of timm cannot be used here ({type(error).__name__}: "
            f"{str(error)[:120]}); install timm and the torchvision that fits your torch: "
            "pip install 'ticketry[vision]'"
        ) from error
    _register()


def create(architecture: str, classes: int, *, device: str = "meta") -> Any:
    """Return an architecture of timm without pre-trained weights.

    Args:
        architecture: its name.
        classes: outputs of the classifier; 0: none.
        device: ``meta`` for names and shapes alone.

    Raises:
        ModelError: there is none of that name; shows the nearest.
    """
    need_timm()
    import timm

    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ModelError(f"timm has no architecture {architecture!r}.{hint}")
    with torch.device(device):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=classes)
    model.architecture = architecture
    return model


def _register() -> None:
    from timm.models import generate_default_cfgs, is_model, register_model

    if is_model(SMALL):
        return
    known = {"first_conv": "conv1", "classifier": "fc", "input_size": (3, 32, 32)}
    default_cfgs.update(generate_default_cfgs({f"{n}.untrained": known for n in (*CIFAR, SMALL)}))
    for name in (*CIFAR, SMALL):
        register_model(_maker(name))


def _maker(name: str) -> Any:
    """Return a function that builds an architecture with a CIFAR stem, as timm registers it."""

    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        from timm.models.resnet import BasicBlock, Bottleneck, _create_resnet

        known = name.removesuffix("_w16").removesuffix("_cifar")
        block = BasicBlock if known in _BASIC else Bottleneck
        chosen: dict[str, Any] = {"block": block, "layers": _LAYERS[known]}
        if name == SMALL:
            chosen["channels"] = _SMALL
        model: Any = _create_resnet(name, pretrained, **{**chosen, **options})
        width = model.conv1.out_channels
        model.conv1 = nn.Conv2d(
            model.conv1.in_channels, width, kernel_size=3, stride=1, padding=1, bias=False
        )
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
        model.fresh_stem = ("conv1.weight",)
        return model

    make.__name__ = name
    make.__module__ = __name__
    return make
