"""Packed models through transformers' own doors: each trap of its quantizer plug-in."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
)

from ticketry import load_packed
from ticketry.errors import PackedError
from ticketry.models.loading import load_backbone, quiet, resolve
from ticketry.packed.form import metadata
from ticketry.packed.packer import pack_folder
from ticketry.packed.quantizer import TicketryConfig, TicketryQuantizer, register
from ticketry.runtime import native
from ticketry.runtime.convolution import SparseConv2d
from ticketry.runtime.modules import SparseLinear

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 10, 11, 3]])


def prune_(model: Any, density: float = 0.3) -> Any:
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and (".layer." in name or ".h." in name):
            weight.data.masked_fill_(torch.rand(weight.shape, generator=draw) >= density, 0)
    return model.eval()


@pytest.fixture(scope="module")
def dense() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=23, intermediate_size=64, **SIZES)
        return prune_(BertForSequenceClassification(config))


@pytest.fixture(scope="module")
def packed(dense: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    dense.save_pretrained(folder / "model")
    pack_folder(str(folder / "model"), folder / "packed")
    return folder / "packed"


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with quiet():
        yield


def same(first: Any, second: Any) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def sparse_layers(model: Any) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, SparseLinear)]


def test_transformers_loads_a_plain_dense_model(dense: Any, packed: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(packed)
    assert same(model, dense)
    # No trace of a quantizer is left, on the model or in what it saves.
    assert not getattr(model, "is_quantized", False)
    assert not hasattr(model, "hf_quantizer")
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "quantization_config" not in text
    assert "transformers_weights" not in text
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == dense.state_dict().keys()
    assert same(BertForSequenceClassification.from_pretrained(tmp_path), dense)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_is_that_of_the_dense_model(
    dense: Any, packed: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    dense.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    model = AutoModel.from_pretrained(packed, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert same(model, plain)


def test_a_loaded_model_changes_its_dtype(dense: Any, packed: Path) -> None:
    for sparse in (False, True):
        model = load_packed(packed, sparse=sparse)
        assert model.half().classifier.weight.dtype == torch.float16
        model.float()
        assert model.classifier.weight.dtype == torch.float32
        found = model(input_ids=IDS).logits
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()


def test_the_bases_prefix_may_be_there_or_not(dense: Any, packed: Path, tmp_path: Path) -> None:
    for options in ({}, {"quantization_config": TicketryConfig(sparse=True)}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = AutoModel.from_pretrained(packed, **options)
        assert same(base, dense.bert)
        assert len(sparse_layers(base)) == (12 if options else 0)
    dense.bert.save_pretrained(tmp_path / "base")
    pack_folder(str(tmp_path / "base"), tmp_path / "packed")
    for sparse in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = BertForSequenceClassification.from_pretrained(
                tmp_path / "packed", quantization_config=TicketryConfig(sparse=sparse)
            )
        assert same(task.bert, dense.bert)
        assert len(sparse_layers(task)) == (12 if sparse else 0)


@pytest.mark.skipif(native.library().handle is None, reason="no kernel library")
def test_sparse_layers_take_the_place_of_linear_ones(
    dense: Any, packed: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"loading attributes \(e\.g\. \['sparse'\]\) will be"):
        model = AutoModelForSequenceClassification.from_pretrained(
            packed, quantization_config=TicketryConfig(sparse=True)
        )
    assert len(sparse_layers(model)) == 12
    assert same(model, dense)  # as SparseLinear says it in a state_dict
    with torch.inference_mode():
        found, expected = model(input_ids=IDS).logits, dense(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert same(BertForSequenceClassification.from_pretrained(tmp_path), dense)


def test_convolutions_of_one_pixel_stay_packed_too(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck"
        )
        dense = ResNetForImageClassification(config).eval()
        with torch.no_grad():
            for module in dense.modules():
                if isinstance(module, torch.nn.Conv2d):
                    module.weight[torch.rand(module.weight.shape) < 0.7] = 0
    dense.save_pretrained(tmp_path / "model")
    pack_folder(str(tmp_path / "model"), tmp_path / "packed")
    model = load_packed(tmp_path / "packed", sparse=True)
    assert same(model, dense)
    kinds = {name: type(m) for name, m in model.named_modules() if hasattr(m, "kernel_size")}
    sizes = {name: m.kernel_size for name, m in dense.named_modules() if hasattr(m, "kernel_size")}
    for name, kind in kinds.items():
        one = sizes[name] == (1, 1)
        assert kind is (SparseConv2d if one else type(dense.get_submodule(name))), name
    assert SparseConv2d in kinds.values()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = model(pixels).logits, dense(pixels).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_transposed_and_tied_weights(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=23, n_embd=32, n_layer=2, n_head=2, n_positions=16)
        dense = prune_(GPT2LMHeadModel(config))
    dense.save_pretrained(tmp_path / "model")
    pack_folder(str(tmp_path / "model"), tmp_path / "packed")
    for sparse in (False, True):
        model = load_packed(tmp_path / "packed", sparse=sparse)
        assert same(model, dense)
        assert model.lm_head.weight is model.transformer.wte.weight
        assert len(sparse_layers(model)) == (8 if sparse else 0)
        with torch.inference_mode():
            found, expected = model(input_ids=IDS).logits, dense(input_ids=IDS).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_trainer_trains_a_loaded_model(packed: Path, tmp_path: Path) -> None:
    rows = [{"input_ids": IDS[i % 2], "labels": i % 2} for i in range(4)]
    args = TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    model = load_packed(packed)
    before = model.classifier.weight.detach().clone()
    Trainer(model=model, args=args, train_dataset=rows).train()
    assert not torch.equal(model.classifier.weight, before)


def test_a_packed_model_is_a_base_like_any_other(dense: Any, packed: Path) -> None:
    base = load_backbone(resolve(str(packed)))
    assert isinstance(base, BertModel)
    assert same(base, dense.bert)


def test_values_of_fewer_bits(dense: Any, packed: Path, tmp_path: Path) -> None:
    for kind, close in (("fp16", 1e-3), ("bf16", 1e-2), ("int8", 2e-2)):
        pack_folder(str(packed.parent / "model"), tmp_path / kind, kind)
        model = load_packed(tmp_path / kind)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        with torch.inference_mode():
            found, expected = model(input_ids=IDS).logits, dense(input_ids=IDS).logits
        assert not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=0, atol=close)


# --- what is refused -----------------------------------------------------------------------------


def test_our_loader_refuses_weights_that_would_be_random(packed: Path) -> None:
    with pytest.raises(
        PackedError,
        match=r"does not fill 2 weights of BertForTokenClassification: classifier.bias, classifier"
        r".weight; they would be random",
    ):
        load_packed(packed, auto_class=AutoModelForTokenClassification, num_labels=5)


def test_our_loader_refuses_what_is_not_packed(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(PackedError, match=r"does not say that it is packed; expected a"):
        load_packed(packed.parent / "model")
    folder = Path(shutil.copytree(packed, tmp_path / "broken"))
    config = (packed / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"ticketry"', '"other"'))
    with pytest.raises(PackedError, match=r"config.json of .* does not say that it is packed"):
        load_packed(folder)
    (folder / "packed.safetensors").rename(folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    with pytest.raises(PackedError, match=r"holds no packed\.safetensors; fetch the packed model"):
        load_packed(folder)
    (folder / "model.safetensors").rename(folder / "packed.safetensors")
    (folder / "config.json").write_text(config.replace("BertForSequence", "Nobody"))
    with pytest.raises(PackedError, match='the class "NobodyClassification", which transformers'):
        load_packed(folder)
    (folder / "config.json").write_text(
        config.replace('"format_version": 1', '"format_version": 9')
    )
    with pytest.raises(
        PackedError, match="the model is packed in version '9'; this ticketry reads"
    ):
        load_packed(folder)


def test_damage_is_seen_before_any_weight_is_loaded(packed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "broken"))
    path = folder / "packed.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".kept_values"))
    save_file({**tensors, name: tensors[name][1:]}, path, metadata())
    for load in (load_packed, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(PackedError, match=r"its mask keeps [0-9]+ weights and its values are"):
            load(folder)
    gone = name.removesuffix(".kept_values")
    save_file({n: t for n, t in tensors.items() if not n.startswith(gone)}, path, metadata())
    with pytest.raises(PackedError, match=f"does not fill 1 weights of Bert.*{gone}"):
        load_packed(folder)
    other = {**tensors, gone + ".mask_bits": tensors[gone + ".mask_bits"].clone()}
    sizes = other[gone + ".mask_bits"][1:17].clone().view(torch.int64)
    sizes = torch.tensor([sizes[0] // 2, sizes[1] * 2])  # as many weights, another shape
    other[gone + ".mask_bits"][1:17] = sizes.view(torch.uint8)
    save_file(other, path, metadata())
    for sparse in (False, True):
        with pytest.raises(PackedError, match=f"{gone}"):
            load_packed(folder, sparse=sparse)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PackedError, match=r"is damaged: .* Fetch it again"):
        load_packed(folder)


def test_sparse_layers_are_float32_on_a_cpu(packed: Path) -> None:
    with pytest.raises(PackedError, match="sparse layers are float32, not bfloat16; leave out"):
        load_packed(packed, sparse=True, dtype=torch.bfloat16)
    quantizer = TicketryQuantizer(TicketryConfig(sparse=True))
    with pytest.raises(PackedError, match="sparse layers run on a CPU; leave out device_map"):
        quantizer.validate_environment(device_map={"": "cuda:0"})
    quantizer.validate_environment(device_map={"": "cpu"})
    with pytest.raises(PackedError, match="sparse must be True or False, not 'yes'"):
        TicketryConfig(sparse="yes")  # type: ignore[arg-type]


def test_an_ordinary_model_is_not_loaded_as_a_packed_one(packed: Path) -> None:
    with pytest.raises(PackedError, match="this model is not packed; `ticketry pack` packs one"):
        BertModel.from_pretrained(packed.parent / "model", quantization_config=TicketryConfig())


def test_an_older_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("transformers.quantizers.base.HfQuantizer.get_load_operations")
    with pytest.raises(PackedError, match=r"need transformers 5\.23 or later; this one has no Hf"):
        TicketryQuantizer(TicketryConfig()).validate_environment()


def test_registering_twice_changes_nothing() -> None:
    register()
    register()
