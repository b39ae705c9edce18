"""Accelerated models of every architecture: the same outputs, and all that one does with them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertForSequenceClassification

from architectures import ARCHITECTURES, IMAGES
from ticketry.core.select import select_global
from ticketry.errors import MaskError, ModelError, PackedError, UnknownNameError
from ticketry.models.loading import apply_mask_, canonical_parameters, prunable
from ticketry.runtime import encoders, native
from ticketry.runtime.accelerating import accelerate, layers_of
from ticketry.runtime.encoders import TokensLast
from ticketry.runtime.modules import SparseLayer, SparseLinear
from ticketry.ticket import Base, Ticket

pytestmark = pytest.mark.skipif(native.library().handle is None, reason="no kernel library")


def sparse_model(name: str, density: float = 0.3) -> tuple[Any, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(ARCHITECTURES[name].build_config()).eval()
        for parameter in model.parameters():  # layers that start at zero would hide mistakes
            torch.nn.init.normal_(parameter, std=0.2)
    weights = canonical_parameters(model)
    mask = select_global({n: weights[n].detach() for n in prunable(model, "encoder")}, density)
    apply_mask_(model, mask)
    return model, mask


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    if name in IMAGES:
        size = ARCHITECTURES[name].options.get("image_size", 32)
        draw = torch.Generator().manual_seed(1)
        return {"pixel_values": torch.randn(3, 3, size, size, generator=draw)}
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 3, 0, 0], [2, 11, 3, 0, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return {**inputs, "decoder_input_ids": ids} if name == "t5" else inputs


def read(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(**inputs).last_hidden_state
    mask = inputs.get("attention_mask")
    return found.clone() if mask is None else found[mask.bool()]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_outputs_stay(name: str, tmp_path: Path) -> None:
    model, _ = sparse_model(name)
    inputs = inputs_of(name)
    before, state = read(model, inputs), {n: v.clone() for n, v in model.state_dict().items()}
    layers = accelerate(model, always=True)
    swapped = [layer for layer in layers if layer.runs_as == "sparse"]
    assert len(swapped) >= (1 if name == "resnet" else 4)  # of one pixel it has a shortcut
    assert sum(isinstance(module, SparseLayer) for module in model.modules()) == len(swapped)
    torch.testing.assert_close(read(model, inputs), before, rtol=1e-4, atol=1e-4)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(read(other, inputs), read(model, inputs))
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[n], state[n]) for n in state)
    model.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path)
    assert not any(isinstance(module, SparseLayer) for module in plain.modules())
    assert torch.equal(read(plain, inputs), before)


def test_a_ticket_accelerates_the_models_that_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, mask = sparse_model("bert")
    ticket = Ticket(mask, Base("x", None, "0", {}, "bert", 1))
    task = BertForSequenceClassification(model.config).eval()
    task.bert.load_state_dict(model.state_dict(), strict=False)
    inputs = inputs_of("bert")
    before = task(**inputs).logits
    monkeypatch.setattr("ticketry.runtime.accelerating.compare", lambda *_: (2.0, 1.0))
    monkeypatch.setattr("ticketry.runtime.accelerating.LEAST_SPARSITY", 0.0)
    assert ticket.accelerate(task) is task
    rows = {layer.name: layer for layer in layers_of(task)}
    assert rows["bert.encoder.layer.0.output.dense"].runs_as == "sparse"
    assert rows["classifier"].runs_as == "dense"
    torch.testing.assert_close(task(**inputs).logits, before, rtol=1e-4, atol=1e-4)


def test_dense_stays_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = sparse_model("bert")
    monkeypatch.setattr("ticketry.runtime.accelerating.compare", lambda *_: (1.0, 1.0))
    layers = accelerate(model)
    assert {layer.runs_as for layer in layers} == {"dense"}
    whys = {layer.why for layer in layers}
    assert "sparse is 1.00 times as fast at 128 tokens" in whys
    assert "nothing is pruned" in whys  # the pooler


def test_what_cannot_be_accelerated_is_refused_and_unchanged() -> None:
    model, mask = sparse_model("bert")
    ticket = Ticket(mask, Base("x", None, "0", {}, "bert", 1))
    with pytest.raises(ModelError, match=r"in training mode.*call model\.eval\(\) first"):
        ticket.accelerate(model.train())
    model.eval()
    with pytest.raises(ModelError, match="tokens must be at least 1, not 0"):
        ticket.accelerate(model, tokens=0)
    name = "encoder.layer.0.output.dense"
    module = model.get_submodule(name)
    with torch.no_grad():
        module.weight.add_(1)
    with pytest.raises(MaskError, match=f"{name} has [0-9]+ weights that the mask prunes"):
        ticket.accelerate(model)
    with pytest.raises(MaskError, match=r"the mask of .* has shape \(1, 1\), its weight"):
        accelerate(model, {name: torch.ones(1, 1, dtype=torch.bool)})
    with pytest.raises(ModelError, match="no dense linear layer 'nowhere'"):
        accelerate(model, {"nowhere": torch.ones(1, 1, dtype=torch.bool)})
    distil, _ = sparse_model("distilbert")
    with pytest.raises(ModelError, match="the model lacks 12 of the ticket's 12 tensors"):
        ticket.accelerate(distil)
    assert not any(isinstance(m, SparseLinear) for m in [*model.modules(), *distil.modules()])


def test_layers_that_others_look_into_stay_dense() -> None:
    one = torch.nn.Linear(8, 8)
    shared = torch.nn.Linear(8, 8)
    shared.weight = one.weight
    hooked = torch.nn.Linear(8, 8)
    hooked.register_forward_hook(lambda *_: None)
    block = torch.nn.TransformerEncoderLayer(8, 2, 8)
    model = torch.nn.Sequential(one, shared, hooked, torch.nn.Linear(8, 8).bfloat16(), block).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    whys = {layer.name: layer.why for layer in accelerate(model, always=True)}
    assert whys["0"] == whys["1"] == "it shares its weight with another layer"
    assert whys["2"] == "it has hooks"
    assert whys["3"] == "it is bfloat16 on cpu"
    assert whys["4.linear1"] == "torch reads its weight directly"
    assert {type(m) for m in model.modules()}.isdisjoint({SparseLinear})


def test_without_kernels_it_says_so_and_the_outputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/at/all.so")
    model, _ = sparse_model("bert", 0.1)
    before = read(model, inputs_of("bert"))
    with pytest.warns(UserWarning, match="sparse kernels are missing"):
        layers = accelerate(model)
    assert {layer.runs_as for layer in layers} == {"dense"}
    with pytest.warns(UserWarning, match="Install a C"):
        accelerate(model, always=True)
    torch.testing.assert_close(read(model, inputs_of("bert")), before, rtol=1e-4, atol=1e-4)


def test_compiled_it_is_one_graph() -> None:
    model, _ = sparse_model("bert")
    inputs = inputs_of("bert")
    accelerate(model, always=True)
    before = read(model, inputs)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(read(compiled, inputs), before, rtol=1e-4, atol=1e-4)


def turned(name: str) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    plain, _ = sparse_model(name)
    model = copy.deepcopy(plain)
    accelerate(model, always=True)
    return plain, model, inputs_of(name)


@pytest.mark.parametrize("name", ["bert", "electra", "roberta", "xlm-roberta"])
def test_encoders_like_bert_keep_tokens_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model, inputs = turned(name)
    assert isinstance(model.encoder, TokensLast)
    calls = []
    monkeypatch.setattr(native, "encode", counted(native.encode, calls))
    torch.testing.assert_close(read(model, inputs), read(plain, inputs), rtol=1e-4, atol=1e-4)
    assert len(calls) == 1  # it was this way, not the other


def test_a_plan_ends_when_a_tensor_moves() -> None:
    plain, model, inputs = turned("bert")
    before = read(model, inputs)
    for change in (
        lambda one: one.encoder.layer[0].output.dense.bias.data.add_(1),  # in place
        lambda one: setattr(one.encoder.layer[1].output.LayerNorm.weight, "data", torch.ones(16)),
        lambda one: setattr(
            one.encoder.layer[0].intermediate.dense, "bias", torch.nn.Parameter(torch.ones(32))
        ),
    ):
        change(plain)
        change(model)
        torch.testing.assert_close(read(model, inputs), read(plain, inputs), rtol=1e-4, atol=1e-4)
    model.load_state_dict({n: v * 0.5 for n, v in plain.state_dict().items()})
    plain.load_state_dict({n: v * 0.5 for n, v in plain.state_dict().items()})
    torch.testing.assert_close(read(model, inputs), read(plain, inputs), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(read(model, inputs), before)
    with torch.inference_mode(), pytest.raises(PackedError, match="does not fit"):
        model.encoder(torch.zeros(1, 3, 12))


def counted(operator: Any, calls: list[int]) -> Any:
    def call(*arguments: Any) -> Any:
        calls.append(1)
        return operator(*arguments)

    return call


def test_what_tokens_last_does_not_give_comes_the_old_way() -> None:
    plain, model, inputs = turned("bert")
    with torch.inference_mode():
        for wanted in ({"output_hidden_states": True}, {"output_attentions": True}):
            if "output_attentions" in wanted:
                for one in (plain, model):
                    one.set_attn_implementation("eager")
            found, right = model(**inputs, **wanted), plain(**inputs, **wanted)
            for name in ("hidden_states", "attentions"):
                pairs = zip(found.get(name) or (), right.get(name) or (), strict=True)
                for one, other in pairs:
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
            assert len(found.get("hidden_states") or found.get("attentions")) >= 2
    embedded = plain.embeddings(inputs["input_ids"]).detach()
    gradients = []
    for one in (plain, model):
        start = embedded.clone().requires_grad_()
        one(inputs_embeds=start).last_hidden_state.square().sum().backward()
        gradients.append(start.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    seen = []
    model.encoder.layer[0].output.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(read(model, inputs), read(plain, inputs), rtol=1e-4, atol=1e-4)
    assert seen
    with torch.autocast("cpu", torch.bfloat16):
        assert read(model, inputs).isfinite().all()


@pytest.mark.parametrize(("values", "share"), [("bf16", 2**-8), ("int8", 1 / 254)])
def test_values_in_fewer_bits_move_no_weight_further_than_said(values: str, share: float) -> None:
    plain, _ = sparse_model("bert")
    model, inputs = copy.deepcopy(plain), inputs_of("bert")
    layers = accelerate(model, values=values, always=True)
    swapped = {layer.name for layer in layers if layer.runs_as == "sparse"}
    assert len(swapped) == 12
    after = model.state_dict()
    for name, weight in plain.state_dict().items():
        moved = (after[name] - weight).abs()
        if name.removesuffix(".weight") not in swapped:
            assert not moved.any()
            continue
        most = weight.abs() if values == "bf16" else weight.abs().amax(1, keepdim=True)
        assert (moved <= most * share * (1 + 1e-6)).all()
        assert moved.any()
        assert ((after[name] == 0) | (weight != 0)).all()
    rounded = copy.deepcopy(plain)
    rounded.load_state_dict(after)  # of which the outputs are exactly these
    torch.testing.assert_close(read(model, inputs), read(rounded, inputs), rtol=1e-4, atol=1e-4)
    assert not torch.equal(read(model, inputs), read(plain, inputs))
    model.load_state_dict(after)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())
    with pytest.raises(UnknownNameError, match=r"unknown values 'int4'.*Known: bf16, fp32, int8"):
        accelerate(plain, values="int4")


def test_an_encoder_is_turned_only_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ticketry.runtime.accelerating.compare", lambda *_: (2.0, 1.0))
    for faster in (False, True):
        model, _ = sparse_model("bert")
        monkeypatch.setattr(encoders, "_faster", lambda *_, found=faster: found)
        accelerate(model)
        assert isinstance(model.encoder, TokensLast) == faster
