"""Image models that know nothing yet: an architecture with weights drawn from a seed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModel

from ticketry.errors import ModelError
from ticketry.files import pretty_json
from ticketry.models.loading import quiet
from ticketry.models.sizes import check_sizes
from ticketry.models.sources import CONFIG_FILE, TIMM
from ticketry.models.timm_nets import create

MOST_PARAMETERS = 1_000_000_000
CHANNELS = 3
_PIXELS = {"mean": [0.5] * CHANNELS, "std": [0.5] * CHANNELS}


def fresh_model(model: str, side: int, seed: int) -> dict[str, bytes]:
    """Return the files of a model that was never trained.

    Args:
        model: an architecture of timm (or one of ours, such as ``resnet18_cifar_w16``), or a
            ``config.json`` or the folder that holds one; weights beside it are not read.
        side: pixels of the images that it will ask for.
        seed: decides the weights; the global RNG is neither read nor moved.
    Returns:
        File name -> content, as :func:`ticketry.models.loading.resolve` takes a folder.

    Raises:
        ModelError: no such architecture, or no usable configuration.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        path /= CONFIG_FILE
    if path.suffix == ".json" or path.is_file() or len(path.parts) > 1:
        return _of_config(model, _read(model, path), path.parent, side, seed)
    return _of_timm(model, {}, side, seed)


def _read(model: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"--model {model!r} names no {CONFIG_FILE} that is there; give an architecture of "
            "timm, such as resnet18 or resnet18_cifar_w16, a config.json or a folder with one."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"--model {model!r}: {path.name} cannot be read ({error}); expected a model's "
            "configuration in JSON."
        ) from error
    if not isinstance(config, dict) or not {"architecture", "model_type"} & set(config):
        raise ModelError(
            f"--model {model!r}: {path.name} names neither an architecture (timm) nor a "
            "model_type (transformers)."
        )
    return config


def _of_config(
    model: str, config: dict[str, Any], folder: Path, side: int, seed: int
) -> dict[str, bytes]:
    if "architecture" in config and config.get("model_type", TIMM) == TIMM:
        return _of_timm(str(config["architecture"]), config.get("model_args") or {}, side, seed)
    check_sizes(model, config, folder)
    try:
        kind = str(config.pop("model_type"))
        with quiet():
            chosen: Any = AutoConfig.for_model(kind, **{**config, "image_size": side})
            with torch.device("meta"):
                _check_parameters(model, AutoModel.from_config(chosen))
            with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as place:
                torch.default_generator.manual_seed(seed)
                AutoModel.from_config(chosen, dtype=torch.float32).save_pretrained(place)
                return {p.name: p.read_bytes() for p in sorted(Path(place).iterdir())}
    except ModelError:
        raise
    except Exception as error:  # transformers raises a dozen kinds for values that do not fit
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"--model {model!r}: transformers cannot build it ({line[:300]})."
        ) from error


def _of_timm(architecture: str, options: dict[str, Any], side: int, seed: int) -> dict[str, bytes]:
    if options:
        raise ModelError(
            f"the configuration of {architecture!r} has model_args ({', '.join(sorted(options))}); "
            "expected an architecture as timm names it."
        )
    _check_parameters(architecture, create(architecture, 0))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = create(architecture, 0, device="cpu")
    known = dict(getattr(net, "pretrained_cfg", {}) or {})
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": net.num_features,
        "pretrained_cfg": {
            "input_size": [CHANNELS, side, side],
            **_PIXELS,
            "num_classes": 0,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    return {CONFIG_FILE: pretty_json(config), "model.safetensors": safetensors.torch.save(state)}


def _check_parameters(model: str, net: torch.nn.Module) -> None:
    count = sum(parameter.numel() for parameter in net.parameters())
    if count > MOST_PARAMETERS:
        raise ModelError(
            f"{model!r} has {count:,} parameters; expected at most {MOST_PARAMETERS:,} to train "
            "from scratch."
        )
