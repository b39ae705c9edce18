"""Families, scopes, loading and canonical names, on real models built from tiny configs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from ticketry.core.mask import Mask
from ticketry.errors import MaskError, ModelError, ScopeError, UnknownNameError
from ticketry.models.heads import load_task_model
from ticketry.models.loading import (
    apply_mask_,
    base_sha256,
    canonical_parameters,
    canonical_tensors,
    embedding_parameters,
    length_limit,
    load_backbone,
    load_tokenizer,
    prunable,
    resolve,
    source_files,
    tensor_hashes,
)

BERT = BertConfig(
    vocab_size=29,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=12,
)
ROBERTA = RobertaConfig(
    vocab_size=29,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=14,
)
DISTILBERT = DistilBertConfig(
    vocab_size=29, dim=8, n_layers=3, n_heads=2, hidden_dim=16, max_position_embeddings=12
)
GPT2 = GPT2Config(vocab_size=29, n_embd=8, n_layer=2, n_head=2, n_positions=12)
CONFIGS = {c.model_type: c for c in (BERT, ROBERTA, DISTILBERT, GPT2)}


def total(model: nn.Module, names: tuple[str, ...]) -> int:
    parameters = canonical_parameters(model)
    return sum(parameters[name].numel() for name in names)


def seeded(build: Callable[[], PreTrainedModel], seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def save(model: nn.Module, folder: Path) -> Path:
    assert isinstance(model, PreTrainedModel)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    return save(seeded(lambda: BertModel(BERT)), tmp_path / "bert")


# --- scopes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "scope", "tensors", "weights"),
    [
        (BertConfig(), "encoder", 72, 84_934_656),  # 12 * (4 * 768^2 + 2 * 768 * 3072)
        (BertConfig(), "bert-paper", 73, 85_524_480),  # + 768^2
        (
            BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
            "encoder",
            36,
            10_616_832,  # MiniLM
        ),
    ],
)
def test_counts_of_full_size_models(
    config: BertConfig, scope: str, tensors: int, weights: int
) -> None:
    with torch.device("meta"):
        model = BertModel(config)
    names = prunable(model, scope)
    assert (len(names), total(model, names)) == (tensors, weights)
    shapes = {name: tuple(p.shape) for name, p in canonical_parameters(model).items()}
    assert prunable(shapes, scope, model_type="bert") == names


def test_relative_position_tables_are_not_prunable() -> None:
    # 2-D and inside the attention, but an embedding.
    config = RobertaConfig(**{**ROBERTA.to_dict(), "position_embedding_type": "relative_key"})
    names = prunable(RobertaModel(config), "encoder")
    assert len(names) == 12


def test_patterns_choose_and_exclude() -> None:
    model = AutoModel.from_config(BERT)
    assert prunable(model, ["encoder.layer.0.*"]) == tuple(
        f"encoder.layer.0.{part}.weight"
        for part in (
            "attention.output.dense",
            "attention.self.key",
            "attention.self.query",
            "attention.self.value",
            "intermediate.dense",
            "output.dense",
        )
    )
    assert len(prunable(model, ["encoder", "!*.attention.*"])) == 4
    assert prunable(model, "pooler.*") == ("pooler.dense.weight",)


def test_patterns_serve_an_unlisted_family() -> None:
    config = AutoConfig.for_model(
        "ernie",
        vocab_size=29,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = AutoModel.from_config(config)
    assert len(prunable(model, "encoder.layer.*.weight")) == 6
    with pytest.raises(UnknownNameError, match="unknown model family 'ernie'") as caught:
        prunable(model, "encoder")
    assert "albert, bert, convnext, deberta-v2" in str(caught.value)
    assert "patterns" in str(caught.value)
    assert len(embedding_parameters(model)) == 1


def test_an_unknown_scope_names_the_nearest() -> None:
    model = AutoModel.from_config(BERT)
    with pytest.raises(UnknownNameError, match="unknown scope of bert models 'encodr'") as caught:
        prunable(model, "encodr")
    assert "Did you mean 'encoder'?" in str(caught.value)
    with pytest.raises(UnknownNameError, match="Known: encoder"):
        prunable(AutoModel.from_config(GPT2), "bert-paper")


def test_a_scope_that_selects_nothing() -> None:
    model = AutoModel.from_config(BERT)
    with pytest.raises(ScopeError, match=r"decoder\.\*"):
        prunable(model, "decoder.*")
    with pytest.raises(ScopeError, match="no pattern to include"):
        prunable(model, ["!encoder.*"])


def test_tied_weights_count_once() -> None:
    config = GPT2Config(**{**GPT2.to_dict(), "tie_word_embeddings": True})
    model = GPT2LMHeadModel(config)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert [name for name in canonical_parameters(model) if "wte" in name] == ["wte.weight"]
    model.transformer.extra = model.transformer.h[0].attn.c_attn
    assert len(prunable(model, "*c_attn*")) == 2


# --- canonical names ----------------------------------------------------------------------------


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.extra = nn.Linear(2, 2)


def test_names_are_the_bases_in_every_task_model() -> None:
    for config in CONFIGS.values():
        base = AutoModel.from_config(config)
        task = AutoModelForSequenceClassification.from_config(config)
        wanted = set(canonical_parameters(base))
        assert wanted == set(base.state_dict())
        found = set(canonical_parameters(task))
        assert {name for name in wanted - found if "pooler" not in name} == set()
        assert found - wanted == set()
        assert set(canonical_parameters(Wrapper(task))) == found
        assert prunable(base, "encoder") == prunable(task, "encoder")
    tensors = canonical_parameters(task)
    assert tensors["wte.weight"] is task.transformer.wte.weight


def test_a_module_without_a_transformers_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear holds no transformers model"):
        canonical_parameters(nn.Linear(2, 2))


def test_hashes_are_over_shape_and_fp32_bytes() -> None:
    model = seeded(lambda: BertModel(BERT))
    hashes = tensor_hashes(model)
    assert list(hashes) == list(model.state_dict())
    weight = model.pooler.dense.weight.detach()
    wanted = hashlib.sha256(b"(8, 8)" + weight.numpy().astype("<f4").tobytes()).hexdigest()
    assert hashes["pooler.dense.weight"] == wanted
    # The same values in a wider type are the same tensor; another shape of them is not.
    half = weight.to(torch.bfloat16)
    assert tensor_hashes({"w": half}) == tensor_hashes({"w": half.float()})
    assert tensor_hashes({"w": weight}) != tensor_hashes({"w": weight.reshape(4, 16)})
    assert tensor_hashes({"w": weight.t()}) == tensor_hashes({"w": weight.t().contiguous()})
    changed = dict(canonical_tensors(model))
    changed["pooler.dense.bias"] = changed["pooler.dense.bias"] + 1e-6
    assert base_sha256(tensor_hashes(changed)) != base_sha256(hashes)
    assert base_sha256(dict(reversed(hashes.items()))) == base_sha256(hashes)


def test_apply_mask_zeroes_only_what_it_prunes() -> None:
    model = seeded(lambda: BertForSequenceClassification(BERT))
    names = prunable(model, "encoder")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(canonical_parameters(model)[name].shape) for name in names}
    kept = {name: torch.arange(math.prod(s)).reshape(s) % 3 != 0 for name, s in shapes.items()}
    apply_mask_(model, Mask(kept))
    for name, tensor in model.state_dict().items():
        keep = kept.get(name.removeprefix("bert."), torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor, torch.where(keep, before[name], 0.0))
    assert list(model.state_dict()) == list(before)


def test_a_mask_that_does_not_fit_changes_nothing() -> None:
    model = seeded(lambda: BertModel(BERT))
    before = model.pooler.dense.weight.detach().clone()
    lost = Mask(
        {
            "pooler.dense.weight": torch.zeros(8, 8, dtype=torch.bool),
            "nowhere.weight": torch.zeros(8, 8, dtype=torch.bool),
        }
    )
    with pytest.raises(MaskError, match=r"lacks 1 of 2 masked tensors: nowhere\.weight"):
        apply_mask_(model, lost)
    wrong = Mask({"pooler.dense.weight": torch.zeros(8, 4, dtype=torch.bool)})
    with pytest.raises(MaskError, match=r"\(8, 8\) in the model and \(8, 4\) in the mask"):
        apply_mask_(model, wrong)
    assert torch.equal(model.pooler.dense.weight, before)


# --- loading ------------------------------------------------------------------------------------


def test_a_folder_loads_in_fp32_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = seeded(lambda: BertModel(BERT)).to(torch.bfloat16)
    base = resolve(str(save(model, tmp_path / "half")))
    capfd.readouterr()
    loaded = load_backbone(base)
    classifier = load_task_model(base, "classification", ["no", "yes"], 0)
    assert capfd.readouterr() == ("", "")
    for built in (loaded, classifier):
        assert {p.dtype for p in built.parameters()} == {torch.float32}
        assert not built.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float())
    assert tensor_hashes(classifier) == tensor_hashes(loaded)
    assert classifier.config.id2label == {0: "no", 1: "yes"}


def test_a_head_is_decided_by_its_seed_alone(bert_folder: Path) -> None:
    base = resolve(str(bert_folder))
    torch.manual_seed(1)
    first = load_task_model(base, "classification", list("abc"), 7)
    torch.manual_seed(2)
    torch.rand(5)
    state = torch.get_rng_state()
    second = load_task_model(base, "classification", list("abc"), 7)
    assert torch.equal(torch.get_rng_state(), state)
    other = load_task_model(base, "classification", list("abc"), 8)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        if name != "classifier.weight":  # a fresh bias is zero
            assert torch.equal(tensor, other.state_dict()[name])
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_given_weights_are_copied(bert_folder: Path) -> None:
    base = resolve(str(bert_folder))
    weights = canonical_tensors(load_backbone(base))
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    model = load_task_model(base, "classification", ["a", "b"], 0, weights=weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(weights[name], kept[name]) for name in kept)


def test_a_head_in_the_checkpoint_is_not_used(tmp_path: Path) -> None:
    tuned = seeded(
        lambda: AutoModelForSequenceClassification.from_config(
            BertConfig(**{**BERT.to_dict(), "num_labels": 2})
        )
    )
    with torch.no_grad():
        tuned.classifier.weight.fill_(5)
    base = resolve(str(save(tuned, tmp_path / "tuned")))
    for labels in (2, 3):
        model = load_task_model(base, "classification", list("abc")[:labels], 0)
        assert model.classifier.weight.shape == (labels, 8)
        assert float(model.classifier.weight.detach().abs().max()) < 1
        assert torch.equal(model.bert.pooler.dense.weight, tuned.bert.pooler.dense.weight)


def test_a_missing_pooler_is_part_of_the_head(tmp_path: Path) -> None:
    bare = seeded(lambda: BertForMaskedLM(BERT))
    base = resolve(str(save(bare, tmp_path / "mlm")))
    backbone = load_backbone(base)
    assert not [name for name in canonical_tensors(backbone) if "pooler" in name]
    assert len(prunable(backbone, "encoder")) == 12
    with pytest.raises(
        ScopeError, match=r"bert-paper asks for pooler\.dense\.weight, which selects"
    ):
        prunable(backbone, "bert-paper")
    poolers = [
        load_task_model(base, "classification", ["a", "b"], seed).bert.pooler.dense.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(poolers[0], poolers[1])
    assert not torch.equal(poolers[0], poolers[2])


def test_length_limits(tiny_model: Path, tmp_path: Path) -> None:
    base = resolve(str(tiny_model))
    tokenizer = load_tokenizer(base)
    assert length_limit(base, tokenizer) == 32
    tokenizer.model_max_length = 10**30
    roberta = resolve(str(save(seeded(lambda: RobertaModel(ROBERTA)), tmp_path / "roberta")))
    assert length_limit(roberta, tokenizer) == 12  # 14 rows, two of them never used
    gpt2 = resolve(str(save(AutoModel.from_config(GPT2), tmp_path / "gpt2")))
    assert length_limit(gpt2, tokenizer) == 12


def test_source_files_are_those_that_are_read(tiny_model: Path) -> None:
    names = {path.name for path in source_files(resolve(str(tiny_model)))}
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= names


# --- what cannot be loaded ----------------------------------------------------------------------


def test_a_pickle_is_refused_with_how_to_convert(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").rename(bert_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle") as caught:
        resolve(str(bert_folder))
    assert "save_pretrained" in str(caught.value)


def test_a_folder_without_weights_or_config(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"expected model\.safetensors"):
        resolve(str(bert_folder))
    (bert_folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json of .* cannot be read"):
        resolve(str(bert_folder))
    (bert_folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        resolve(str(bert_folder))
    (bert_folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve(str(bert_folder))


def test_a_misspelt_folder_names_the_nearest(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder") as caught:
        resolve(str(bert_folder.parent / "brt"))
    assert f"Did you mean '{bert_folder}'?" in str(caught.value)
    with pytest.raises(ModelError, match="is a file"):
        resolve(str(bert_folder / "config.json"))
    with pytest.raises(ModelError, match="not a hub id"):
        resolve(str(bert_folder), "main")


def test_torn_and_lacking_checkpoints(bert_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = bert_folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_backbone(resolve(str(bert_folder)))
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of .*encoder\.layer\.1\.output\.dense\.weight"):
        load_backbone(resolve(str(bert_folder)))


def test_an_unknown_architecture_and_remote_code(bert_folder: Path) -> None:
    config = json.loads((bert_folder / "config.json").read_text())
    config["model_type"] = "brand-new"
    (bert_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="brand-new"):
        load_backbone(resolve(str(bert_folder)))
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (bert_folder / "config.json").write_text(json.dumps(config))
    (bert_folder / "code.py").write_text("raise SystemExit('code of a model was run')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_backbone(resolve(str(bert_folder)))


def test_a_missing_tokenizer_is_named(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(resolve(str(bert_folder)))


# --- the hub, from its cache in the hub's own layout ----------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub

    cache = tmp_path / "hub"
    repository = cache / "models--someone--tiny-bert"
    shutil.copytree(bert_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_hub_id_is_pinned_to_its_commit(hub: Path, bert_folder: Path) -> None:
    said: list[str] = []
    for revision in (None, "main", COMMIT):
        base = resolve("someone/tiny-bert", revision, say=said.append)
        assert (base.name, base.revision) == ("someone/tiny-bert", COMMIT)
        assert tensor_hashes(load_backbone(base)) == tensor_hashes(
            load_backbone(resolve(str(bert_folder)))
        )
    assert len(said) == 2  # a commit that is in the cache needs no hub


def test_hub_errors_are_one_model_error(hub: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelError, match="hub cannot be reached") as caught:
            resolve("someone/other")
    assert "there is no folder of that name" in str(caught.value)
    with pytest.raises(ModelError, match=r"Did you mean 'minilm'\?"):
        resolve("minilmm")
    with pytest.raises(ModelError, match="not a valid hub id"):
        resolve("some one/mod el")
