"""The layouts that released image checkpoints come in, as data: how to tell one, what to rename.

Names are mapped to those of timm, which torchvision's ResNets share. What belongs to no backbone (a
projection head, a queue, a momentum copy) is left over and listed. Torch-free.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ticketry.errors import ModelError

Rename = Callable[[str], str | None]
"""A tensor's name in the file -> in timm's model; None: it is not the backbone's."""


@dataclass(frozen=True)
class Reader:
    """One layout.

    Attributes:
        name: of the layout.
        marks: globs; the layout is this one when each of them matches some key.
        rename: a key -> timm's name, or None for what is left over.
        inside: keys of nested dictionaries that hold the tensors, tried one after the other.
        pixels: what the model was trained on, a key of :data:`PIXELS`.
        projection: a key -> its name in lightly's projection head, or None for all else. The head
            is kept where it fits that of simCLR or MoCo, so that these objectives go on from it.
    """

    name: str
    marks: tuple[str, ...]
    rename: Rename
    inside: tuple[str, ...] = ()
    pixels: str = "imagenet"
    projection: Rename = lambda key: None


PIXELS = {
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "half": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "raw": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
}
"""How pixels in [0, 1] become a model's input: less a mean, by a deviation of each channel."""

_STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_NOT_BACKBONE = re.compile(
    r"(fc|head|projector|projection_head|prototypes|predictor|classifier)(\d*)(\.|$)"
)


def _under(*prefixes: str, head: bool = False) -> Rename:
    """Return a renaming that takes what stands under the first prefix that fits, less heads.

    Args:
        prefixes: the longest first.
        head: a classifier beside the backbone is the model's own and is kept.
    """

    def rename(key: str) -> str | None:
        for prefix in prefixes:
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                return None if not head and _NOT_BACKBONE.match(name) else _plain(name)
        return None

    return rename


def _plain(name: str) -> str:
    """Name a ResNet that was cut into a sequence by its stages again."""
    first, _, rest = name.partition(".")
    return f"{_STAGES[first]}.{rest}" if first in _STAGES else name


_SIMCLR2 = (
    (r"net\.0\.0\.(.*)", r"conv1.\1"),
    (r"net\.0\.1\.0\.(.*)", r"bn1.\1"),
    (r"net\.(\d)\.blocks\.(\d+)\.projection\.shortcut\.(.*)", r"layer\1.\2.downsample.0.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.projection\.bn\.0\.(.*)", r"layer\1.\2.downsample.1.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.0\.(.*)", r"layer\1.\2.conv1.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.1\.0\.(.*)", r"layer\1.\2.bn1.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.2\.(.*)", r"layer\1.\2.conv2.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.3\.0\.(.*)", r"layer\1.\2.bn2.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.4\.(.*)", r"layer\1.\2.conv3.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.5\.0\.(.*)", r"layer\1.\2.bn3.\3"),
    (r"fc\.(.*)", r"fc.\1"),
)


def _simclr2(key: str) -> str | None:
    for pattern, name in _SIMCLR2:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    return None


_LITE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-B0 and Lite0."""
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def _efficientnet(key: str) -> str | None:
    """Rename as EfficientNet-PyTorch's flat blocks lie in timm's stages."""
    part, _, rest = key.partition(".")
    if part in _AROUND:
        return f"{_AROUND[part]}.{rest}"
    if part != "_blocks":
        return None
    number, layer, rest = rest.split(".", 2)
    index = int(number)
    stage = 0
    while stage < len(_LITE_DEPTHS) and index >= _LITE_DEPTHS[stage]:
        index -= _LITE_DEPTHS[stage]
        stage += 1
    names = _FIRST if stage == 0 else _OTHERS
    return f"blocks.{stage}.{index}.{names[layer]}.{rest}" if layer in names else None


def _layers(under: str) -> Rename:
    """Return the naming of a head's layers, numbered under a prefix, by lightly's."""

    def rename(key: str) -> str | None:
        rest = key.removeprefix(under)
        return f"layers.{rest}" if key.startswith(under) and rest[:1].isdecimal() else None

    return rename


_DINO = ("teacher", "student")

READERS: tuple[Reader, ...] = (
    Reader("MoCo v1/v2", ("module.encoder_q.*",), _under("module.encoder_q."),
           projection=_layers("module.encoder_q.fc.")),
    Reader("MoCo v3", ("module.base_encoder.*",), _under("module.base_encoder.")),
    Reader("simCLRv2", ("net.0.0.weight", "net.*.blocks.*"), _simclr2, ("resnet",), "raw"),
    Reader("EfficientNet-PyTorch", ("_conv_stem.weight", "_blocks.*"), _efficientnet, (), "half"),
    Reader("lightly", ("backbone.*", "projection_head.*"), _under("backbone."),
           projection=_layers("projection_head.layers.")),
    Reader("Lightning Bolts", ("encoder.*", "projection.*"), _under("encoder.")),
    Reader("solo-learn", ("backbone.*", "projector.*"), _under("backbone.")),
    Reader("solo-learn (old)", ("encoder.*", "projector.*"), _under("encoder.")),
    Reader("DINO (training)", ("module.backbone.*",), _under("module.backbone."), _DINO),
    Reader("DINO (training)", ("backbone.*", "head.*"), _under("backbone."), _DINO),
    Reader("DINO (student)", ("module.backbone.*",), _under("module.backbone.")),
    Reader("backbone alone", ("backbone.*",), _under("backbone.")),
    Reader("backbone alone", ("model.backbone.*",), _under("model.backbone.")),
    Reader(
        "SwAV",
        ("module.conv1.weight", "module.prototypes*"),
        _under("module."),
    ),
    Reader("simCLR (converted)", ("conv1.weight", "fc.weight", "contrastive_head.*"),
           _under("", head=True), pixels="raw"),
    # torchvision, timm, DINO's and Barlow Twins' backbones, VICReg: the names are the model's.
    Reader("wrapped in DataParallel", ("module.*",), _under("module.", head=True)),
    Reader("torchvision or timm", ("*",), _under("", head=True)),
)  # fmt: skip
"""The layouts, the most particular first: the first whose marks are all there is taken."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep a model's tensors."""


def recognise(keys: Iterable[str], expected: Iterable[str], inside: str | None = None) -> Reader:
    """Return the layout of a checkpoint.

    Args:
        keys: of its tensors.
        inside: the key of the dictionary that holds them; None: they stand at the top.
        expected: names of the model's tensors, of which a renaming must give one at least.

    Raises:
        ModelError: none fits; shows keys that were seen, and the layouts that are known.
    """
    names = list(keys)
    wanted = set(expected)
    for reader in READERS:
        if reader.inside and inside not in reader.inside:
            continue
        if not all(_any(names, mark) for mark in reader.marks):
            continue
        if wanted & {reader.rename(name) for name in names}:
            return reader
    known = ", ".join(dict.fromkeys(reader.name for reader in READERS))
    raise ModelError(
        f"the checkpoint's layout is not known: its keys are like {_some(names)}; the model's are "
        f"like {_some(sorted(wanted))}. Layouts that are known: {known}. Is --architecture that of "
        "the checkpoint?"
    )


def _any(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _some(names: Sequence[str]) -> str:
    chosen = names[:: max(1, len(names) // 4)][:4]
    return ", ".join(chosen) or "(none)"
