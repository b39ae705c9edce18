"""Heads and neurons: where they lie, by hand, and that they are what they are taken for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
)

from ticketry.core.pattern import Part, Unit
from ticketry.core.select import select
from ticketry.errors import ScopeError
from ticketry.models.loading import canonical_parameters, prunable
from ticketry.models.structures import input_axes, units

BERT = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
GPT2 = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=4, n_positions=10)


def bert() -> BertModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertModel(copy.deepcopy(BERT)).eval()


def test_bert_heads_and_neurons_by_hand() -> None:
    model = bert()
    names = prunable(model, "encoder")
    heads = units(model, "head", names)
    assert len(heads) == 4  # 2 layers of 2
    self_ = "encoder.layer.1.attention.self"
    assert heads[3] == Unit(
        f"head 1 of {self_}",
        (
            Part(f"{self_}.query.weight", 0, 4, 8),
            Part(f"{self_}.key.weight", 0, 4, 8),
            Part(f"{self_}.value.weight", 0, 4, 8),
            Part("encoder.layer.1.attention.output.dense.weight", 1, 4, 8),
        ),
    )
    neurons = units(model, "neuron", names)
    assert len(neurons) == 24
    assert neurons[5].parts == (
        Part("encoder.layer.0.intermediate.dense.weight", 0, 5, 6),
        Part("encoder.layer.0.output.dense.weight", 1, 5, 6),
    )


def test_gpt2_heads_have_three_slices_of_the_fused_matrix() -> None:
    model = GPT2Model(GPT2)
    names = prunable(model, "encoder")
    heads = units(model, "head", names)
    assert len(heads) == 4
    fused = "h.0.attn.c_attn.weight"  # 8 inputs × (8 queries, 8 keys, 8 values), 2 a head
    assert heads[1].parts == (
        Part(fused, 1, 2, 4),
        Part(fused, 1, 10, 12),
        Part(fused, 1, 18, 20),
        Part("h.0.attn.c_proj.weight", 0, 2, 4),
    )
    assert units(model, "neuron", names)[31].parts == (
        Part("h.0.mlp.c_fc.weight", 1, 31, 32),
        Part("h.0.mlp.c_proj.weight", 0, 31, 32),
    )


def test_distilbert_heads_are_counted_by_its_own_key() -> None:
    model = DistilBertModel(DistilBertConfig(vocab_size=20, dim=8, n_layers=3, n_heads=4))
    names = prunable(model, "encoder")
    assert len(units(model, "head", names)) == 12
    assert len(units(model, "neuron", names)) == 3 * 3072


@torch.no_grad()
def zero(model: nn.Module, unit: Unit, *, columns: bool) -> None:
    """Zero a unit: all of it, or what it writes alone."""
    parameters = canonical_parameters(model)
    for part in unit.parts[-1:] if columns else unit.parts:
        parameters[part.tensor].narrow(part.axis, part.start, part.stop - part.start).zero_()


@pytest.mark.parametrize("kind", ["head", "neuron"])
@pytest.mark.parametrize("build", [bert, lambda: GPT2Model(GPT2).eval()], ids=["bert", "gpt2"])
def test_a_unit_reaches_the_model_through_its_last_slice_alone(kind: str, build) -> None:
    # Without what it writes, a unit's other weights change nothing: they are its own.
    ids = torch.tensor([[3, 7, 1, 9]])
    torch.manual_seed(0)
    model = build()
    unit = units(model, kind, prunable(model, "encoder"))[1]
    before = model(ids).last_hidden_state
    zero(model, unit, columns=True)
    without = model(ids).last_hidden_state
    assert not torch.allclose(before, without)
    zero(model, unit, columns=False)
    assert torch.equal(model(ids).last_hidden_state, without)


def test_selected_heads_are_whole() -> None:
    model = bert()
    heads = units(model, "head", prunable(model, "encoder"))
    tensors = {part.tensor for unit in heads for part in unit.parts}
    weights = {n: p.detach() for n, p in canonical_parameters(model).items() if n in tensors}
    mask = select(weights, 0.25, pattern="head", units=heads)
    kept = []
    for unit in heads:
        states = {
            bool(value)
            for part in unit.parts
            for value in mask[part.tensor]
            .narrow(part.axis, part.start, part.stop - part.start)
            .unique()
        }
        assert len(states) == 1
        kept += states
    assert sum(kept) == 1
    assert mask.density == 0.25


def test_a_scope_may_leave_out_whole_layers_but_no_part_of_one() -> None:
    model = bert()
    names = prunable(model, ("encoder", "!encoder.layer.0.*"))
    assert len(units(model, "head", names)) == 2
    with pytest.raises(ScopeError, match=r"without encoder\.layer\.0\..*key\.weight"):
        units(model, "head", prunable(model, ("encoder", "!*.key.weight")))
    with pytest.raises(ScopeError, match="the scope holds no attention heads"):
        units(model, "head", prunable(model, "encoder.layer.*.intermediate.dense.weight"))


def test_a_family_that_does_not_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert()
    model.config.model_type = "unheard-of"
    with pytest.raises(ScopeError, match=r"lie in unheard-of models, or they have none; pattern"):
        units(model, "head", ["a"])


def test_uneven_slices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert()
    model.config.num_attention_heads = 3
    with pytest.raises(ScopeError, match="has 8 along axis 0, which 3 attention heads do not"):
        units(model, "head", prunable(model, "encoder"))


def test_input_axes_know_conv1d() -> None:
    model = GPT2Model(GPT2)
    names = prunable(model, "encoder")
    assert input_axes(model, names) == dict.fromkeys(names, 0)
    assert input_axes(bert(), prunable(bert(), "encoder")) == {}
