"""Every family: what is prunable, by hand; heads and neurons; folders of task models as bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel, PreTrainedModel

from architectures import ARCHITECTURES, IMAGES
from ticketry.core.pattern import check_units
from ticketry.core.scope import resolve_scope
from ticketry.errors import ScopeError
from ticketry.models.families import FAMILIES, scope_rule
from ticketry.models.loading import (
    canonical_parameters,
    canonical_tensors,
    embedding_parameters,
    load_backbone,
    prunable,
    resolve,
)
from ticketry.models.structures import units

EVERY = sorted(ARCHITECTURES)


def build(name: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModel.from_config(ARCHITECTURES[name].build_config()).eval()


def total(model: PreTrainedModel, names: tuple[str, ...]) -> int:
    parameters = canonical_parameters(model)
    return sum(parameters[name].numel() for name in names)


def test_every_family_has_a_tiny_model() -> None:
    assert set(ARCHITECTURES) == set(FAMILIES) - {"timm_wrapper"}  # tests/vision has those


@pytest.mark.parametrize("name", EVERY)
def test_the_encoder_scope_counts_as_by_hand(name: str) -> None:
    tiny, model = ARCHITECTURES[name], build(name)
    names = prunable(model, "encoder")
    assert (len(names), total(model, names)) == (tiny.tensors, tiny.weights)
    for tensor in names:
        assert not any(part in tensor.lower() for part in ("embed", "norm", "bias", "wte", "wpe"))


@pytest.mark.parametrize("name", EVERY)
def test_heads_and_neurons_fill_their_tensors(name: str) -> None:
    tiny, model = ARCHITECTURES[name], build(name)
    names = prunable(model, "encoder")
    shapes = {n: tuple(canonical_parameters(model)[n].shape) for n in names}
    covered = 0
    for kind, count in (("head", tiny.heads), ("neuron", tiny.neurons)):
        if not count:
            with pytest.raises(ScopeError, match="or they have none"):
                units(model, kind, names)
            continue
        found = units(model, kind, names)
        assert len(found) == count
        check_units(found, shapes)  # inside their tensors, sharing no weight
        covered += sum(
            (part.stop - part.start) * shapes[part.tensor][1 - part.axis]
            for unit in found
            for part in unit.parts
        )
    if tiny.heads and tiny.neurons:
        assert covered == tiny.weights


@pytest.mark.parametrize("name", [n for n in EVERY if ARCHITECTURES[n].neurons])
def test_what_a_unit_writes_is_all_that_it_does(name: str) -> None:
    """Without its last slice, a unit's other weights change nothing: they are its own."""
    inputs = {"decoder_input_ids": torch.tensor([[0, 5]])} if name == "t5" else {}
    if name in IMAGES:
        inputs["pixel_values"] = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    else:
        inputs["input_ids"] = torch.tensor([[2, 7, 9, 3]])
    for kind in ("head", "neuron") if ARCHITECTURES[name].heads else ("neuron",):
        model = build(name)
        parameters = canonical_parameters(model)
        unit = units(model, kind, prunable(model, "encoder"))[-1]
        outputs = [model(**inputs).last_hidden_state]
        for parts in (unit.parts[-1:], unit.parts):
            with torch.no_grad():
                for part in parts:
                    width = part.stop - part.start
                    parameters[part.tensor].narrow(part.axis, part.start, width).zero_()
            outputs.append(model(**inputs).last_hidden_state)
        assert not torch.allclose(outputs[0], outputs[1]), kind
        assert torch.allclose(outputs[1], outputs[2], atol=1e-6), kind


BASE = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
T5_GATED = {"num_heads": 6, "num_layers": 8, "d_ff": 1024, "feed_forward_proj": "gated-gelu"}
PUBLISHED: dict[str, tuple[str, dict[str, Any], str, int, int]] = {
    # 4·768² + 2·768·3072 = 7,077,888 in 6 tensors, once for all layers
    "albert-base-v2": (
        "AlbertConfig",
        {**BASE, "embedding_size": 128, "num_attention_heads": 12},
        "encoder",
        6,
        7_077_888,
    ),
    # 12 times that
    "electra-base": ("ElectraConfig", {**BASE, "embedding_size": 768}, "encoder", 72, 84_934_656),
    "deberta-v3-base": (
        "DebertaV2Config",
        {**BASE, "num_attention_heads": 12, "relative_attention": True, "position_buckets": 256},
        "encoder",
        72,
        84_934_656,
    ),
    # 22·(4·768² + 3·768·1152) = 22·5,013,504
    "modernbert-base": ("ModernBertConfig", {}, "encoder", 88, 110_297_088),
    # 6·(4·512² + 2·512·2048); the decoder adds 6·(8·512² + 2·512·2048)
    "t5-small": ("T5Config", {}, "encoder", 36, 18_874_368),
    "t5-small, both": ("T5Config", {}, "encoder-decoder", 96, 44_040_192),
    # A gate beside the MLP's input: 8·(4·512·384 + 3·512·1024) in 7 tensors a block
    "t5-v1.1-small": ("T5Config", T5_GATED, "encoder", 56, 18_874_368),
    # and the decoder's 8·(8·512·384 + 3·512·1024) = 25,165,824 in 11
    "t5-v1.1-small, both": ("T5Config", T5_GATED, "encoder-decoder", 144, 44_040_192),
    # 12·(4·768² + 2·768·3072)
    "vit-base-patch16-224": ("ViTConfig", {}, "encoder", 72, 84_934_656),
    # Widths 96, 192, 384, 768, blocks 3, 3, 9, 3: a block is 49·d + 8·d² (78,432; 304,320;
    # 1,198,464; 4,756,224), the halvings 4·d·2d: 73,728 + 294,912 + 1,179,648.
    # 3·78,432 + 3·304,320 + 9·1,198,464 + 3·4,756,224 + 1,548,288 = 27,751,392
    "convnext-tiny": ("ConvNextConfig", {}, "encoder", 57, 27_751_392),
    # 24·(2·896² + 2·128·896 + 3·896·4864) = 24·14,909,440
    "qwen2-0.5b": (
        "Qwen2Config",
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
        },
        "encoder",
        168,
        357_826_560,
    ),
    # 16·(2·2048² + 2·512·2048 + 3·2048·8192) = 16·60,817,408
    "llama-3.2-1b": (
        "LlamaConfig",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 8192,
        },
        "encoder",
        112,
        973_078_528,
    ),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_counts_of_published_sizes(name: str) -> None:
    config, options, scope, tensors, weights = PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModel.from_config(getattr(transformers, config)(**options))
    names = prunable(model, scope)
    assert (len(names), total(model, names)) == (tensors, weights)


@pytest.mark.parametrize("name", EVERY)
def test_a_task_models_folder_is_a_base(name: str, tmp_path: Path) -> None:
    config = ARCHITECTURES[name].build_config()
    model = getattr(transformers, ARCHITECTURES[name].pretraining)(config)
    model.save_pretrained(tmp_path)
    loaded = load_backbone(resolve(str(tmp_path)))
    trained, found = canonical_tensors(model), canonical_tensors(loaded)
    assert set(prunable(loaded, "encoder")) <= set(found)
    assert all(torch.equal(tensor, trained[tensor_name]) for tensor_name, tensor in found.items())


STEM = {
    "vit": "embeddings.patch_embeddings.projection.weight",
    "convnext": "embeddings.patch_embeddings.weight",
    "resnet": "embedder.embedder.convolution.weight",
}


@pytest.mark.parametrize("name", EVERY)
def test_embeddings_are_found(name: str) -> None:
    model = build(name)
    found = {id(parameter) for parameter in embedding_parameters(model)}
    if name in IMAGES:
        assert id(model.get_parameter(STEM[name])) in found
    else:
        assert id(model.get_input_embeddings().weight) in found
    prunable_ids = {id(canonical_parameters(model)[n]) for n in prunable(model, "encoder")}
    assert not found & prunable_ids


def test_custom_scopes_include_and_exclude() -> None:
    llama = build("llama")
    attention = prunable(llama, ("encoder", "!*.mlp.*"))
    assert len(attention) == 8
    assert all("self_attn" in name for name in attention)
    first = prunable(build("modernbert"), ("layers.0.*.weight", "!*Wo*", "!*norm*"))
    assert first == ("layers.0.attn.Wqkv.weight", "layers.0.mlp.Wi.weight")
    both = prunable(build("t5"), ("encoder-decoder", "!encoder.*"))
    assert len(both) == 20
    assert all(name.startswith("decoder.") for name in both)


def test_a_gate_of_t5_belongs_to_its_neurons() -> None:
    config = ARCHITECTURES["t5"].build_config()
    config.feed_forward_proj, config.is_gated_act, config.dense_act_fn = (
        "gated-gelu", True, "gelu_new",
    )  # fmt: skip
    model = AutoModel.from_config(config)
    found = units(model, "neuron", prunable(model, "encoder"))
    assert len(found) == 64  # 2 blocks of 32
    assert [(part.tensor.rpartition("DenseReluDense.")[2], part.axis) for part in found[0].parts] \
        == [("wi_0.weight", 0), ("wi_1.weight", 0), ("wo.weight", 1)]  # fmt: skip


def test_t5_tables_and_shared_weights_count_once() -> None:
    model = build("t5")
    assert "shared.weight" in canonical_parameters(model)
    assert not any("embed_tokens" in name for name in canonical_parameters(model))
    rule = scope_rule("encoder-decoder", "t5")
    shapes = {name: tuple(p.shape) for name, p in canonical_parameters(model).items()}
    assert not any("relative" in name for name in resolve_scope(shapes, rule))
