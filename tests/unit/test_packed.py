"""Packed models: what stands in the file, what comes back, and what is refused."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from ticketry.core.mask import Mask
from ticketry.errors import InputError, ModelError, PackedError, UnknownNameError
from ticketry.maskfile import dump_mask
from ticketry.packed import form
from ticketry.packed.packer import Packing, pack_folder
from ticketry.packed.values import KINDS, decode, encode


def sparse_bert(folder: Path, density: float = 0.4, hidden: int = 32, **options: Any) -> Path:
    """Write a classifier whose encoder has zeros, and a row of zeros in its embeddings."""
    config = BertConfig(
        vocab_size=23,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
        **options,
    )
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        for name, weight in model.named_parameters():
            if "encoder" in name and weight.dim() == 2:
                pruned = torch.rand(weight.shape, generator=draw) >= density
                weight.data.masked_fill_(pruned, 0)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def sparse_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse_bert(tmp_path_factory.mktemp("sparse"))


def read_back(folder: Path) -> dict[str, Tensor]:
    with form.open_packed(folder / "packed.safetensors") as file:
        found = {name: file.tensor(name) for name in file.others}
        return found | {name: form.unpack_tensor(*file.parts(name), name) for name in file.pruned}


# --- values --------------------------------------------------------------------------------------


def test_int8_by_hand() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [False, True, False, False]])
    values, scales = encode(weight, mask, "int8", "w")
    assert scales is not None
    step = float(scales[0])  # 1/127 rounded up in bfloat16
    assert 1 / 127 <= step <= 1 / 127 * 1.008
    assert values.tolist() == [round(1 / step), round(-0.5 / step), 0, 0]
    assert scales[1] == 0
    assert decode(values, scales, mask).tolist() == [v * step for v in values.tolist()]


@given(st.integers(0, 9), st.integers(1, 9), st.sampled_from(KINDS), st.integers(0, 2**31))
def test_values_come_back_as_near_as_their_kind_allows(
    rows: int, columns: int, kind: str, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw) * 10.0 ** (seed % 9 - 4)
    mask = torch.rand(rows, columns, generator=draw) < 0.5
    parts = form.pack_tensor("w", weight, mask, kind)
    found = form.unpack_tensor(
        form.read_mask(parts["w.mask_bits"], "w", 1000),
        parts["w.kept_values"],
        parts.get("w.row_scales"),
        "w",
    )
    assert not found[~mask].any()
    kept = weight.masked_fill(~mask, 0)
    if kind == "fp32":
        assert torch.equal(found, kept)
    elif kind == "int8":
        step = kept.abs().amax(1, keepdim=True) / 127 * 1.008
        assert ((found - kept).abs() <= step / 2 + 1e-12).all()
    else:
        torch.testing.assert_close(found, kept, rtol=2**-8, atol=1e-7)


def test_values_that_a_kind_cannot_hold() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(PackedError, match=r"w has weights too large for fp16 \(up to 7e\+04\)"):
        encode(torch.tensor([[7e4, 1.0]]), mask, "fp16", "w")
    for kind in KINDS:
        with pytest.raises(PackedError, match="w has kept weights that are not finite"):
            encode(torch.tensor([[float("nan"), 1.0]]), mask, kind, "w")
    with pytest.raises(
        UnknownNameError, match=r"unknown kind of values 'int4'\. Did you mean 'int8'"
    ):
        pack_folder("/", Path("/nowhere"), "int4")


# --- folders -------------------------------------------------------------------------------------


def test_a_packed_folder_holds_the_model(sparse_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    found = pack_folder(str(sparse_model), out)
    dense = load_file(sparse_model / "model.safetensors")
    back = read_back(out)
    assert back.keys() == dense.keys()
    assert all(torch.equal(back[name], dense[name]) for name in dense)
    # 12 matrices; the embeddings' row of zeros (padding) prunes nothing.
    assert found.tensors == 12
    assert found.prunable == 16_384
    assert found.kept == sum(int(t.count_nonzero()) for n, t in dense.items() if is_pruned(n))
    assert found.dense_bytes == sum(tensor.nbytes for tensor in dense.values())
    assert found.file_bytes == (out / "packed.safetensors").stat().st_size
    assert found.file_bytes == found.pruned_bytes + found.other_bytes
    assert found.value_bytes == 4 * found.kept
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "packed.safetensors", "tokenizer_config.json"
    }  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "ticketry",
        "format_version": 1,
        "values": "as they are",
        "kept": found.kept,
        "prunable": 16_384,
    }
    first = (out / "README.md").read_text().splitlines()[0]
    assert first == (
        "**`import ticketry` before you load this model: it is packed, and transformers alone "
        "cannot read it.**"
    )
    again = pack_folder(str(sparse_model), out)  # in the place of the older one
    assert again == found


def is_pruned(name: str) -> bool:
    return "encoder" in name and name.endswith("weight") and "LayerNorm" not in name


@pytest.mark.parametrize(("density", "kind"), [(0.5, "fp32"), (0.1, "int8"), (0.02, "int8")])
def test_the_size_is_that_of_entropy_and_values(density: float, kind: str, tmp_path: Path) -> None:
    # Large enough that the header (4 kB) does not count.
    model = sparse_bert(tmp_path / "model", density, hidden=1280 if density < 0.1 else 512)
    found = pack_folder(str(model), tmp_path / "packed", kind)
    assert 1 < found.ratio <= 1.02
    tensors = load_file(model / "model.safetensors")
    bits = 0.0
    for name, tensor in tensors.items():
        if is_pruned(name):
            share = tensor.ne(0).double().mean().numpy()
            bits -= tensor.numel() * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert found.entropy_bytes == round(bits / 8)


def test_a_mask_file_decides_before_zeros(sparse_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sparse_model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    prefix = "bert.encoder.layer.0.attention.self."
    kept = {name: tensors[prefix + name].ne(0) for name in ("query.weight", "key.weight")}
    place = tuple(kept["key.weight"].nonzero()[0].tolist())
    tensors[prefix + "key.weight"][place] = 0  # kept, though it is zero now
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    mask = Mask({prefix.removeprefix("bert.") + name: m for name, m in kept.items()})
    (folder / "ticket_mask.safetensors").write_bytes(dump_mask(mask))
    found = pack_folder(str(folder), tmp_path / "packed")
    assert (found.tensors, found.kept, found.prunable) == (2, mask.kept, mask.prunable)
    back = read_back(tmp_path / "packed")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    with form.open_packed(tmp_path / "packed" / "packed.safetensors") as file:
        assert torch.equal(file.parts(prefix + "key.weight")[0], kept["key.weight"])

    def refused(masks: dict[str, Tensor], message: str) -> None:
        (folder / "ticket_mask.safetensors").write_bytes(dump_mask(Mask(masks)))
        with pytest.raises(PackedError, match=message):
            pack_folder(str(folder), tmp_path / "other")
        assert not (tmp_path / "other").exists()

    name = "encoder.layer.0.attention.self.query.weight"
    refused(
        {name: mask[name][:1]}, r"the mask of bert.* has shape \(1, 32\), its weight \(32, 32\)"
    )
    refused({name: torch.zeros(32, 32, dtype=torch.bool)}, "weights that ticket_mask.* prunes but")
    refused({"gone.weight": mask[name]}, "speaks of gone.weight, which 0 of its tensors are called")
    refused({"query.weight": ~mask[name] | mask[name]}, "query.weight, which 2 of its tensors")


def test_what_cannot_be_packed(sparse_model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack_folder(str(sparse_model), packed)
    with pytest.raises(PackedError, match="is packed or quantised already"):
        pack_folder(str(packed), tmp_path / "twice")
    dense = sparse_bert(tmp_path / "dense", density=1.0)
    with pytest.raises(PackedError, match="has no pruned matrix: none is zero in 1% of its"):
        pack_folder(str(dense), tmp_path / "out")
    with pytest.raises(ModelError, match="there is no folder"):
        pack_folder(str(tmp_path / "gone"), tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(PackedError, match="is a file; nothing was written"):
        pack_folder(str(sparse_model), tmp_path / "file")
    with pytest.raises(PackedError, match="is not empty and holds no packed model"):
        pack_folder(str(sparse_model), sparse_model)
    assert not (tmp_path / "out").exists()


def test_a_sharded_model_is_packed(sparse_model: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(sparse_model)
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    found = pack_folder(str(tmp_path / "shards"), tmp_path / "packed")
    assert isinstance(found, Packing)
    dense = load_file(sparse_model / "model.safetensors")
    assert all(torch.equal(t, dense[n]) for n, t in read_back(tmp_path / "packed").items())
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(ModelError, match=r"names '../secret.safetensors'; it was not opened"):
        pack_folder(str(tmp_path / "shards"), tmp_path / "other")
    index.write_text("[]")
    with pytest.raises(ModelError, match=r"index.json of .* cannot be read"):
        pack_folder(str(tmp_path / "shards"), tmp_path / "other")


def test_the_command_says_what_it_came_to(run: Any, sparse_model: Path, tmp_path: Path) -> None:
    shown = run("pack", sparse_model, "--out", tmp_path / "packed", "--values", "int8")
    assert shown.code == 0
    assert "12 pruned matrices, 60" in shown.out
    assert "(entropy) and values" in shown.out
    assert f"ticketry.load_packed('{tmp_path / 'packed'}')" in shown.out
    found = json.loads(run("pack", sparse_model, "--out", tmp_path / "packed", "--json").out)
    assert found["values"] == "as they are"
    assert found["ratio"] == found["pruned_bytes"] / (found["entropy_bytes"] + found["value_bytes"])
    refused = run("pack", sparse_model, "--out", tmp_path / "other", "--values", "int9")
    assert refused.code == 2
    assert "unknown kind of values 'int9'" in refused.err


# --- files of strangers --------------------------------------------------------------------------


def mask_part(*sizes: int, blob: bytes = b"\x03", axes: int | None = None) -> Tensor:
    data = struct.pack(f"<B{len(sizes)}Q", len(sizes) if axes is None else axes, *sizes) + blob
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


GOOD = {"w.mask_bits": mask_part(2, 3), "w.kept_values": torch.ones(6)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w.mask_bits": mask_part(2, 3).to(torch.int8)}, "its mask is torch.int8 of shape"),
        ({"w.mask_bits": torch.zeros(0, dtype=torch.uint8)}, "its mask is torch.uint8 of shape"),
        ({"w.mask_bits": mask_part()}, "its mask speaks of 0 axes in 2 bytes"),
        ({"w.mask_bits": mask_part(2, 3, axes=200)}, "its mask speaks of 200 axes in 18 bytes"),
        ({"w.mask_bits": mask_part(2, 3, axes=3)}, "its mask speaks of 3 axes in 18 bytes"),
        ({"w.mask_bits": mask_part(2**60, 2**60)}, "it claims the shape"),
        ({"w.mask_bits": mask_part(2**33)}, "it claims the shape"),
        ({"w.mask_bits": mask_part(2**63, 0)}, "it claims the shape"),
        ({"w.mask_bits": mask_part(2, 3, blob=b"")}, "w: the encoded mask is empty"),
        ({"w.mask_bits": mask_part(2, 3, blob=b"\x00\xff")}, "bits are set beyond the 6 weights"),
        ({"w.kept_values": torch.ones(5)}, r"its mask keeps 6 weights and its values are torch.S"),
        ({"w.kept_values": torch.ones(6, 1)}, "its mask keeps 6 weights and its values are"),
        ({"w.kept_values": torch.ones(6).double()}, "stored as fp32, fp16, bf16, int8, not as fl"),
        ({"w.kept_values": torch.ones(6, dtype=torch.int8)}, "int8 values lack scales"),
        ({"w.row_scales": torch.ones(2).bfloat16()}, "fp32 values have scales"),
        (
            {
                "w.kept_values": torch.ones(6, dtype=torch.int8),
                "w.row_scales": torch.ones(3).bfloat16(),
            },
            "its scales are not one finite bfloat16 number for each row",
        ),
        ({"w.kept_values": None}, "the packed tensor w is damaged: it has a mask without values"),
    ],
)
def test_damaged_parts_are_named(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors = {name: t for name, t in {**GOOD, **changes}.items() if t is not None}
    save_file(tensors, tmp_path / "packed.safetensors", form.metadata())
    with (
        pytest.raises(PackedError, match=message),
        form.open_packed(tmp_path / "packed.safetensors") as file,
    ):
        file.check()


def test_files_that_are_no_packed_model(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(PackedError, match=message), form.open_packed(path) as file:
            file.check()

    refused("there is no .*packed.safetensors; a packed model's weights lie in")
    path.write_bytes(b"\x80\x04K\x01.")
    refused("is damaged: .* Fetch it again")
    save_file(GOOD, path, {"format": "pt"})
    refused("is not a packed model: its metadata lacks ticketry_format='ticketry-packed'")
    save_file(GOOD, path, {**form.metadata(), "ticketry_version": "2"})
    refused("has version '2'; this ticketry reads version 1")
    save_file(GOOD, path, form.metadata())
    with form.open_packed(path) as file:
        assert file.check() == (form.Entry("w", (2, 3), 6, "fp32"),)


def test_masks_of_a_few_bytes_cannot_claim_any_memory(tmp_path: Path) -> None:
    # Each asks for 2³⁰ weights, 128 MiB of bits, in 10 bytes: two may, a third not.
    blob = mask_part(2**30, blob=b"\x02")
    empty = torch.zeros(0)
    for count in (2, 3):
        tensors = {f"{n}.mask_bits": blob.clone() for n in range(count)}
        tensors |= {f"{n}.kept_values": empty.clone() for n in range(count)}
        save_file(tensors, tmp_path / "packed.safetensors", form.metadata())
        with form.open_packed(tmp_path / "packed.safetensors") as file:
            if count == 2:
                assert sum(entry.numel for entry in file.check()) == 2**31
            else:
                with pytest.raises(InputError, match=r"it claims the shape \(1073741824,\)"):
                    file.check()
