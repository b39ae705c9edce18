"""From a sparse model's folder to a packed one: masks, kept values, and all else as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ticketry.errors import ModelError, PackedError
from ticketry.files import pretty_json, replace_folder
from ticketry.maskfile import load_mask
from ticketry.models.families import FAMILIES, matching
from ticketry.models.sources import (
    CONFIG_FILE,
    PACKED_FILE,
    TOKENIZER_FILES,
    BaseRef,
    read_config,
    resolve,
)
from ticketry.packed import values as kept_values
from ticketry.packed.card import CARD_FILE, render
from ticketry.packed.form import METHOD, VERSION, Entry, metadata, pack_tensor
from ticketry.ticketfolder import MASK_FILE

LEAST_ZEROS = 0.01
"""A matrix with fewer zeros is not pruned: single weights are zero by chance, or as padding."""
_BESIDE = (
    *TOKENIZER_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Packing:
    """What packing a model came to; sizes in bytes.

    Attributes:
        values: kind of the kept values; ``"as they are"`` keeps each tensor's own.
        tensors: pruned tensors.
        kept: weights that their masks keep.
        prunable: all of their weights.
        entropy_bytes: the fewest bytes for the masks, of independent bits.
        value_bytes: of the kept values, scales of int8 among them.
        pruned_bytes: what the file spends on the pruned tensors, its whole header among it.
        other_bytes: of all other tensors, which stand in it as they were.
        file_bytes: of the packed file.
        dense_bytes: of the weights before.
    """

    values: str
    tensors: int
    kept: int
    prunable: int
    entropy_bytes: int
    value_bytes: int
    pruned_bytes: int
    other_bytes: int
    file_bytes: int
    dense_bytes: int

    @property
    def sparsity(self) -> float:
        """Of the masks, in [0, 1]."""
        return 1 - self.kept / self.prunable

    @property
    def ratio(self) -> float:
        """The bytes of the pruned tensors over those of entropy and values."""
        return self.pruned_bytes / (self.entropy_bytes + self.value_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "sparsity": self.sparsity, "ratio": self.ratio}


def pack_folder(model: str | Path, out: str | Path, values: str | None = None) -> Packing:
    """Write a sparse model as masks and kept values.

    Args:
        model: a folder as ``ticketry train`` leaves it; with a ``ticket_mask.safetensors`` that
            mask decides what is pruned, else the zeros of its matrices do, embeddings aside.
        out: the folder to write; an older packed model in it is replaced, anything else refused.
        values: one of :data:`ticketry.packed.values.KINDS`; None leaves each tensor its dtype.

    Raises:
        InputError: nothing is pruned, the mask does not fit, or the values cannot be stored so;
            nothing was written.
    """
    if values is not None:
        kept_values.check_kind(values)
    model, out = str(model), Path(out)
    base = resolve(model)
    _check_target(out)
    config = read_config(base)
    if config.get("quantization_config") is not None or not _weights_of(base):
        raise PackedError(
            f"{model!r} is packed or quantised already; give the folder that `ticketry train` "
            "wrote."
        )
    masks = _read_masks(base)
    tensors: dict[str, Tensor] = {}
    entries, dense_bytes, other_bytes = [], 0, 0
    for name, tensor in _tensors_of(base):
        dense_bytes += tensor.nbytes
        mask = _mask_for(name, tensor, masks, str(config["model_type"]))
        if mask is None:
            tensors[name] = tensor
            other_bytes += tensor.nbytes
            continue
        kind = values or kept_values.kind_of(tensor)
        tensors |= pack_tensor(name, tensor, mask, kind)
        entries.append(Entry(name, tuple(mask.shape), int(mask.count_nonzero()), kind))
    _check_found(model, masks, entries)
    data = save({name: tensors[name] for name in sorted(tensors)}, metadata=metadata())
    found = Packing(
        values=values or "as they are",
        tensors=len(entries),
        kept=sum(entry.kept for entry in entries),
        prunable=sum(entry.numel for entry in entries),
        entropy_bytes=round(sum(entry.entropy_bytes for entry in entries)),
        value_bytes=sum(
            tensor.nbytes
            for name, tensor in tensors.items()
            if name.endswith((".kept_values", ".row_scales"))
        ),
        pruned_bytes=len(data) - other_bytes,
        other_bytes=other_bytes,
        file_bytes=len(data),
        dense_bytes=dense_bytes,
    )
    replace_folder(out, _files(base, config, found, data))
    return found


def _check_target(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise PackedError(f"{out} is a file; nothing was written. Choose a new folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / PACKED_FILE).is_file():
        raise PackedError(
            f"{out} is not empty and holds no packed model; nothing was written. Choose a new "
            "folder."
        )


def _weights_of(base: BaseRef) -> list[Path]:
    """Return the dense weights' files of a folder."""
    if (base.path / _SINGLE).is_file():
        return [base.path / _SINGLE]
    if not (base.path / _INDEX).is_file():
        return []
    try:
        index = json.loads((base.path / _INDEX).read_bytes())
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{_INDEX} of {base.name!r} cannot be read: {error}.") from error
    strange = [name for name in names if not (Path(name).name == name and name.endswith("tensors"))]
    if strange:
        raise ModelError(f"{_INDEX} of {base.name!r} names {strange[0]!r}; it was not opened.")
    return [base.path / name for name in names]


def _tensors_of(base: BaseRef) -> Iterator[tuple[str, Tensor]]:
    for path in _weights_of(base):
        try:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}.") from error


def _read_masks(base: BaseRef) -> Mapping[str, Tensor] | None:
    path = base.path / MASK_FILE
    return dict(load_mask(path.read_bytes(), what=str(path))) if path.is_file() else None


def _mask_for(
    name: str, tensor: Tensor, masks: Mapping[str, Tensor] | None, model_type: str
) -> Tensor | None:
    """Return which weights of a tensor are kept; None where it is not pruned."""
    if masks is None:
        family = FAMILIES.get(model_type)
        embeddings = () if family is None else family.embeddings
        if (
            not tensor.is_floating_point()
            or tensor.dim() < 2
            or matching([name], [*embeddings, *(f"*.{glob}" for glob in embeddings)])
        ):
            return None
        mask = tensor.ne(0)
        zeros = 1 - int(mask.count_nonzero()) / max(1, mask.numel())
        return mask if zeros >= LEAST_ZEROS else None
    found = [known for known in masks if name == known or name.endswith("." + known)]
    if not found:
        return None
    mask = masks[max(found, key=len)]
    if mask.shape != tensor.shape:
        raise PackedError(
            f"the mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(tensor.shape)}."
        )
    stray = int(torch.count_nonzero(tensor[~mask]))
    if stray:
        raise PackedError(
            f"{name} has {stray:,} weights that {MASK_FILE} prunes but the model does not; pack "
            "the model that was trained with this mask."
        )
    return mask


def _check_found(model: str, masks: Mapping[str, Tensor] | None, entries: list[Entry]) -> None:
    names = [entry.name for entry in entries]
    for known in masks or ():
        count = sum(name == known or name.endswith("." + known) for name in names)
        if count != 1:
            raise PackedError(
                f"{MASK_FILE} of {model!r} speaks of {known}, which {count} of its tensors are "
                "called; expected one."
            )
    if not entries:
        raise PackedError(
            f"{model!r} has no pruned matrix: none is zero in {LEAST_ZEROS:.0%} of its weights or "
            "more. Give a sparse model, such as `ticketry train` writes."
        )


def _files(
    base: BaseRef, config: Mapping[str, Any], found: Packing, data: bytes
) -> dict[str, bytes]:
    method = {
        "quant_method": METHOD,
        "format_version": VERSION,
        "values": found.values,
        "kept": found.kept,
        "prunable": found.prunable,
    }
    files = {
        name: (base.path / name).read_bytes() for name in _BESIDE if (base.path / name).is_file()
    }
    return {
        **files,
        PACKED_FILE: data,
        CONFIG_FILE: pretty_json({**config, "quantization_config": method}),
        CARD_FILE: render(config, found.to_json()).encode(),
    }
