"""Hostile model folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import HARMLESS, REFUSED, Place, attack, edit_json, evil_pickle


@attack(REFUSED, "a pickle, which can run code when it is read")
def pickled_weights_only(place: Place) -> list[str]:
    """A model whose only weights are a pickle that runs a command."""
    model = place.model
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(evil_pickle(place.canary))
    return ["inspect", str(model)]


@attack(HARMLESS, "prunable weights kept")
def pickle_beside_safetensors(place: Place) -> list[str]:
    """Such a pickle beside good safetensors: never opened."""
    model = place.model
    (model / "pytorch_model.bin").write_bytes(evil_pickle(place.canary))
    return ["inspect", str(model)]


@attack(REFUSED, "cannot be loaded from")
def pickle_named_safetensors(place: Place) -> list[str]:
    """Base weights that are a pickle named model.safetensors."""
    model = place.model
    (model / "model.safetensors").write_bytes(evil_pickle(place.canary))
    return ["inspect", str(model)]


@attack(REFUSED, "cannot be loaded from")
def header_without_end(place: Place) -> list[str]:
    """Base weights whose header says it has 2^63 bytes."""
    model = place.model
    (model / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    return ["inspect", str(model)]


def evil_module(model: Path, canary: Path) -> None:
    """Put modules into a folder that make a file when they are imported."""
    code = f"open({str(canary)!r}, 'w').close()\n"
    for name in ("evil.py", "modeling_bert.py", "tokenization_evil.py", "__init__.py"):
        (model / name).write_text(code + "class Evil: pass\n")


@attack(HARMLESS, "prunable weights kept")
def remote_code(place: Place) -> list[str]:
    """A known architecture whose config.json maps its classes to code in the folder: our own
    library's classes are used."""
    model = place.model
    evil_module(model, place.canary)
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    edit_json(model / "config.json", lambda c: c.update(auto_map=dict.fromkeys(names, "evil.Evil")))
    return ["inspect", str(model)]


@attack(REFUSED, "cannot be loaded from")
def remote_architecture(place: Place) -> list[str]:
    """An architecture that only code in the folder knows."""
    model = place.model
    evil_module(model, place.canary)
    auto_map = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    edit_json(model / "config.json", lambda c: c.update(model_type="evil", auto_map=auto_map))
    return ["inspect", str(model)]


@attack(HARMLESS, "Plan: find a ticket")
def remote_tokenizer(place: Place) -> list[str]:
    """A tokenizer that is mapped to code in the folder: not run."""
    model = place.model
    evil_module(model, place.canary)
    auto_map = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
    edit_json(model / "tokenizer_config.json", lambda c: c.update(auto_map=auto_map))
    return place.find("--plan", model=model)


@attack(REFUSED, "expected sizes that its weights can have")
def huge_vocabulary(place: Place) -> list[str]:
    """A config.json of 2^40 tokens."""
    model = place.model
    edit_json(model / "config.json", lambda c: c.update(vocab_size=2**40))
    return ["inspect", str(model)]


@attack(REFUSED, "expected sizes that its weights can have")
def huge_positions(place: Place) -> list[str]:
    """A config.json of 2^40 positions, for which a table would be made at once."""
    model = place.model
    edit_json(model / "config.json", lambda c: c.update(max_position_embeddings=2**40))
    return ["inspect", str(model)]


@attack(REFUSED, "expected sizes that its weights can have")
def endless_layers(place: Place) -> list[str]:
    """A config.json of a billion layers."""
    model = place.model
    edit_json(model / "config.json", lambda c: c.update(num_hidden_layers=10**9))
    return ["inspect", str(model)]


@attack(REFUSED, "cannot be read")
def deep_config(place: Place) -> list[str]:
    """A config.json of a million brackets."""
    model = place.model
    (model / "config.json").write_text('{"a":' + "[" * 1_000_000)
    return ["inspect", str(model)]


@attack(HARMLESS, "prunable weights kept")
def adapter_elsewhere(place: Place) -> list[str]:
    """An adapter_config.json that sends the loader to another model: not followed."""
    model = place.model
    (model / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "evil/model", "peft_type": "LORA"}'
    )
    return ["inspect", str(model)]


@attack(REFUSED, "cannot be loaded from")
def index_outside(place: Place) -> list[str]:
    """A weights index whose shard climbs out of the folder."""
    model = place.model
    (model / "model.safetensors").rename(model.parent / "elsewhere.safetensors")
    (model / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "../victim.txt"}}'
    )
    return ["inspect", str(model)]


@attack(REFUSED, "cannot be loaded from")
def broken_tokenizer(place: Place) -> list[str]:
    """A tokenizer.json of another form."""
    model = place.model
    (model / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    return place.find("--plan", model=model)


def _packed(place: Place) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """Pack a copy of the base, half pruned; return its folder, its tensors and its metadata."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from ticketry.models.sources import PACKED_FILE
    from ticketry.packed.packer import pack_folder

    model, out = place.model, place.folder / "packed"
    weights = load_file(model / "model.safetensors")
    for name, tensor in weights.items():
        if "layer" in name and tensor.ndim == 2:
            tensor.view(-1)[::2] = 0
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    pack_folder(str(model), out)
    with safe_open(out / PACKED_FILE, framework="pt") as file:
        return out, load_file(out / PACKED_FILE), file.metadata()


def _load(folder: Path) -> Callable[[], Any]:
    from ticketry import load_packed

    return lambda: load_packed(folder)


@attack(REFUSED, "it claims the shape")
def packed_mask_of_2_40(place: Place) -> Callable[[], Any]:
    """A packed model one of whose masks claims 2^40 weights."""
    import struct

    import torch
    from safetensors.torch import save_file

    from ticketry.models.sources import PACKED_FILE
    from ticketry.packed.form import MASK

    out, tensors, metadata = _packed(place)
    name = next(name for name in sorted(tensors) if name.endswith(MASK))
    claim = struct.pack("<BQQ", 2, 1 << 20, 1 << 20) + bytes(tensors[name][17:].tolist())
    tensors[name] = torch.frombuffer(bytearray(claim), dtype=torch.uint8)
    save_file(tensors, out / PACKED_FILE, metadata)
    return _load(out)


@attack(REFUSED, "is damaged")
def packed_pickle(place: Place) -> Callable[[], Any]:
    """A packed model whose file is a pickle that runs a command."""
    from ticketry.models.sources import PACKED_FILE

    out, _, _ = _packed(place)
    (out / PACKED_FILE).write_bytes(evil_pickle(place.canary))
    return _load(out)


@attack(REFUSED, "they would be random")
def packed_without_a_layer(place: Place) -> Callable[[], Any]:
    """A packed model that lacks a tensor, which transformers alone would fill at random."""
    from safetensors.torch import save_file

    from ticketry.models.sources import PACKED_FILE

    out, tensors, metadata = _packed(place)
    layer = "encoder.layer.1.output.dense.weight"
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(layer)}
    assert len(kept) < len(tensors)
    save_file(kept, out / PACKED_FILE, metadata)
    return _load(out)
