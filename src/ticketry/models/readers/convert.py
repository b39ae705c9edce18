"""A released checkpoint into a folder that transformers, timm and ticketry load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ticketry.errors import ModelError, unknown_name
from ticketry.files import pretty_json, replace_folder, sha256_file
from ticketry.models.contrastive import (
    PROJECTED,
    need_lightly,
    projection_head,
    save_projection,
)
from ticketry.models.readers.layouts import PIXELS, READERS, WRAPPERS, Reader, recognise
from ticketry.models.sources import PROJECTION_FILE
from ticketry.models.timm_nets import create, need_timm

RECORD = "conversion.json"


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        layout: that was recognised.
        state: tensors by timm's names, as the model has them.
        left_over: keys of the file that are not in the model.
        new: names of the model's tensors that the file lacks in this shape, drawn anew: a CIFAR
            stem.
        classes: outputs of the classifier that came along; 0: none did.
        pixels: a key of :data:`~ticketry.models.readers.layouts.PIXELS`.
        projection: the projection head by lightly's names; empty: none that fits came along.
        objective: which it belongs to, ``simclr`` or ``moco``; empty: none.
        notes: what differs from the model that was pre-trained.
    """

    layout: str
    state: Mapping[str, Tensor]
    left_over: tuple[str, ...]
    new: tuple[str, ...]
    classes: int
    pixels: str
    projection: Mapping[str, Tensor] = field(default_factory=dict)
    objective: str = ""
    notes: tuple[str, ...] = ()

    def config(self, architecture: str, image_size: int | None = None) -> dict[str, Any]:
        """Return the ``config.json`` of timm's own layout.

        Args:
            architecture: timm's name.
            image_size: pixels; None: the architecture's own.
        """
        model = create(architecture, self.classes)
        known = dict(getattr(model, "pretrained_cfg", {}) or {})
        size = [3, image_size, image_size] if image_size else known.get("input_size", (3, 224, 224))
        return {
            "architecture": architecture,
            "num_classes": self.classes,
            "num_features": model.num_features,
            "pretrained_cfg": {
                "input_size": list(size),
                **PIXELS[self.pixels],
                "num_classes": self.classes,
                "first_conv": known.get("first_conv"),
                "classifier": known.get("classifier"),
            },
        }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of tensors onto the CPU; nothing of it is run.

    Args:
        path: safetensors, or what ``torch.save`` wrote of plain tensors.

    Raises:
        ModelError: it is neither, or holds other objects than tensors.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}; give the checkpoint's file.")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path, device="cpu"))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, KeyError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read: {_line(error)}") from error
    except (
        Exception
    ) as error:  # torch raises its unpickler's own, and RuntimeError for bad archives
        raise ModelError(
            f"{path.name} holds other objects than tensors, or is no checkpoint ({_line(error)}). "
            "They could run code, so it was not opened. If you trust it, take the tensors out, "
            "which lie under 'state_dict', 'model' or (DINO) 'teacher':\n"
            "  python -c \"import torch; d = torch.load('FILE', weights_only=False, "
            "map_location='cpu'); print(d.keys()); torch.save(d['state_dict'], 'tensors.pt')\""
        ) from error
    if not isinstance(found, Mapping):
        raise ModelError(f"{path.name} holds a {type(found).__name__}; expected tensors by name.")
    return dict(found)


def convert(
    checkpoint: Mapping[str, Any], architecture: str, *, seed: int = 0, pixels: str | None = None
) -> Conversion:
    """Turn a checkpoint's tensors into an architecture's, by timm's names.

    Args:
        checkpoint: from :func:`read_checkpoint`.
        architecture: timm's name, or one of :mod:`ticketry.models.timm_nets`.
        seed: decides what is new: a CIFAR stem, which no released checkpoint has.
        pixels: what the model was trained on, a key of
            :data:`~ticketry.models.readers.layouts.PIXELS`; None: what the layout says. simCLR's
            converted ResNets have torchvision's very names, and were trained on raw pixels.

    Raises:
        ModelError: timm is not installed or does not know the architecture, the layout is not
            known, or tensors of the model are missing or of another shape.
        UnknownNameError: no such ``pixels``.
    """
    if pixels is not None and pixels not in PIXELS:
        raise unknown_name("--pixels", pixels, PIXELS)
    need_timm()
    bare = create(architecture, 0)
    expected = {**bare.state_dict()}
    inside, tensors = _tensors(checkpoint)
    reader = recognise(tensors, expected, inside)
    found: dict[str, Tensor] = {}
    left: list[str] = []
    for key, tensor in tensors.items():
        name = reader.rename(key)
        if name is None or name in found:
            left.append(key)
        else:
            found[name] = tensor
    head = {n: t for n, t in found.items() if n not in expected}
    classes = _classes(architecture, head)
    if classes:
        bare = create(architecture, classes)
        expected = dict(bare.state_dict())
    state, new = _fitted(bare, expected, found, seed, reader)
    left += [key for key in tensors if (name := reader.rename(key)) and name not in expected]
    projection, objective = _projection(tensors, reader, bare.num_features)
    kept = {key for key in tensors if reader.projection(key) in projection}
    notes: list[str] = []
    if reader.name.startswith("solo-learn") and hasattr(bare, "fresh_stem") and not new:
        notes.append(
            f"solo-learn pads its 3 × 3 stem by 2 pixels, {architecture} by 1: what it sees at an "
            "image's border differs from what was pre-trained"
        )
    return Conversion(
        reader.name,
        state,
        tuple(sorted(set(left) - kept)),
        tuple(new),
        classes,
        pixels or reader.pixels,
        projection,
        objective,
        tuple(notes),
    )


def write_folder(
    out: Path, conversion: Conversion, architecture: str, source: Path, image_size: int | None
) -> None:
    """Write a model folder in timm's layout, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    record = {
        "source": source.name,
        "source_sha256": sha256_file(source),
        "layout": conversion.layout,
        "architecture": architecture,
        "left_over": list(conversion.left_over),
        "new": list(conversion.new),
        "pixels": conversion.pixels,
        "projection": conversion.objective or None,
        "notes": list(conversion.notes),
    }
    files = {
        "model.safetensors": safetensors.torch.save(dict(conversion.state)),
        "config.json": pretty_json(conversion.config(architecture, image_size)),
        RECORD: pretty_json(record),
    }
    if conversion.projection:
        files[PROJECTION_FILE] = save_projection(conversion.projection, conversion.objective)
    replace_folder(out, files)


def _projection(
    tensors: Mapping[str, Tensor], reader: Reader, features: int
) -> tuple[dict[str, Tensor], str]:
    """Return the projection head and its objective; nothing where none fits or lightly lacks."""
    found = {name: t for key, t in tensors.items() if (name := reader.projection(key))}
    if not found:
        return {}, ""
    try:
        need_lightly()
    except ModelError:
        return {}, ""
    shapes = {name: t.shape for name, t in found.items() if not name.endswith("_tracked")}
    for objective in PROJECTED:
        with torch.device("meta"):
            own = projection_head(objective, features).state_dict()
        if shapes == {name: t.shape for name, t in own.items() if not name.endswith("_tracked")}:
            counts = {name: torch.zeros((), dtype=torch.long) for name in set(own) - set(shapes)}
            return {**counts, **{n: t.detach().clone() for n, t in found.items()}}, objective
    return {}, ""


def _tensors(checkpoint: Mapping[str, Any]) -> tuple[str | None, dict[str, Tensor]]:
    """Return where in a checkpoint the tensors lie (None: at the top), and they themselves."""
    nested = [key for reader in READERS for key in reader.inside]
    for key in (*nested, *WRAPPERS):
        inner = checkpoint.get(key)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            return key, {str(n): t for n, t in inner.items() if isinstance(t, Tensor)}
    return None, {str(n): t for n, t in checkpoint.items() if isinstance(t, Tensor)}


def _classes(architecture: str, head: Mapping[str, Tensor]) -> int:
    """Return the outputs of a classifier that came along; 0 where none fits the architecture."""
    for name, tensor in head.items():
        if name.endswith(".weight") and tensor.ndim in (2, 4) and len(tensor) > 0:
            own = create(architecture, len(tensor)).state_dict()
            if name in own and own[name].shape == tensor.shape:
                return len(tensor)
    return 0


def _fitted(
    model: nn.Module,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    seed: int,
    reader: Reader,
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the model's tensors out of those found, and the names of those drawn anew."""
    stem = getattr(model, "fresh_stem", ())
    missing, unfit, new = [], [], []
    state: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for name, wanted in expected.items():
        tensor = found.get(name)
        if tensor is not None and tensor.shape == wanted.shape:
            state[name] = tensor.detach().to(wanted.dtype).contiguous().clone()
        elif name in stem:
            drawn = drawn or _drawn(model, seed)
            state[name] = drawn[name]
            new.append(name)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.zeros_like(wanted, device="cpu")  # counts, which nothing reads
        elif tensor is None:
            missing.append(name)
        else:
            unfit.append(f"{name} {tuple(tensor.shape)} instead of {tuple(wanted.shape)}")
    if missing or unfit:
        parts = []
        if missing:
            parts.append(f"lacks {len(missing)} of the model's tensors: {_some(missing)}")
        if unfit:
            parts.append(f"has {len(unfit)} of another shape: {_some(unfit)}")
        raise ModelError(
            f"the checkpoint, read as {reader.name}, {' and '.join(parts)}. Is --architecture that "
            "of the checkpoint?"
        )
    return state, new


def _drawn(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return a model's tensors as its own initialiser draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh = create(model.architecture, 0, device="cpu")  # type: ignore[arg-type]
    return dict(fresh.state_dict())


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
