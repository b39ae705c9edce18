"""The lean forward and backward is transformers' own network, but for what dropout draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from ticketry.models import lean

TOKENS = 11
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
    "pad_token_id": 1,
    "num_labels": 3,
    "attn_implementation": "eager",
}


def bert(dropout: float) -> nn.Module:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return BertForSequenceClassification(BertConfig(**SIZES, **rates))


def roberta(dropout: float) -> nn.Module:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return RobertaForSequenceClassification(RobertaConfig(**SIZES, **rates))


def batch(tokens: int = TOKENS, *, padded: bool = True) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (6, tokens), generator=draw)
    real = torch.ones_like(ids)
    if padded:
        for row, length in enumerate((tokens, 3, 1, tokens - 2, 7, 5)):
            ids[row, length:], real[row, length:] = 1, 0
    return {"input_ids": ids, "attention_mask": real}


def seen(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = forward()
    cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach().float(), gradients


@pytest.mark.parametrize("build", [bert, roberta])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_logits_and_every_gradient_are_those_of_transformers(
    build: Callable[[float], nn.Module], padded: bool, frozen: bool
) -> None:
    model = build(0.0).train()
    model.base_model.embeddings.requires_grad_(not frozen)
    inputs = batch(padded=padded)
    assert lean.fits(model, inputs)
    logits, gradients = seen(model, lambda: lean.logits_of(model, inputs))
    expected, wanted = seen(model, lambda: model(**inputs).logits)
    assert torch.allclose(logits, expected, atol=1e-6)
    assert set(gradients) == set(wanted)
    assert (len(gradients) < len(list(model.parameters()))) == frozen
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6), name


@pytest.mark.parametrize("build", [bert, roberta])
def test_under_autocast_both_are_as_near_to_float32(build: Callable[[float], nn.Module]) -> None:
    model = build(0.0).train()
    inputs = batch()

    def cast(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return forward()

        return run

    _, exact = seen(model, lambda: model(**inputs).logits)
    _, ours = seen(model, cast(lambda: lean.logits_of(model, inputs)))
    _, theirs = seen(model, cast(lambda: model(**inputs).logits))
    for name, gradient in exact.items():
        if ".key.bias" in name:  # a shift of all scores of a query: its gradient is 0
            continue
        off = (theirs[name] - gradient).norm()
        assert (ours[name] - gradient).norm() < 2 * off + 1e-3 * gradient.norm(), name
        assert ours[name].dtype == torch.float32


def test_evaluation_takes_the_same_way() -> None:
    model = bert(0.5).eval()
    with torch.no_grad():
        assert lean.fits(model, batch())
        assert torch.allclose(lean.logits_of(model, batch()), model(**batch()).logits, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_a_share_and_the_mean(p: float, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        keep, factor = lean._draw(torch.Size((400, 501)), p, dtype)
    assert keep is not None
    kept = lean._drop(torch.ones(400, 501, dtype=dtype), keep)
    share = float(kept.float().mean())
    # Five standard deviations of 200,400 draws.
    assert abs(share - (1 - p)) < 5 * (p * (1 - p) / 200_400) ** 0.5
    assert factor == pytest.approx(1 / (1 - p), rel=1e-4)
    assert set(kept.float().unique().tolist()) == {0.0, 1.0}
    # Neighbours come from one 64-bit number; they are as independent as any.
    both = float((kept[:, :-1] * kept[:, 1:]).float().mean())
    assert abs(both - (1 - p) ** 2) < 0.01
    poison = lean._drop(torch.full((400, 501), torch.inf, dtype=dtype), keep)
    assert torch.equal(poison.isinf(), kept == 1)


def test_no_dropout_and_nothing_but_dropout() -> None:
    assert lean._draw(torch.Size((3, 3)), 0.0, torch.float32) == (None, 1.0)
    keep, factor = lean._draw(torch.Size((3, 3)), 1.0, torch.float32)
    assert keep is not None
    assert (int(keep.sum()), factor) == (0, 0.0)


def test_dropout_is_drawn_from_torchs_generator_and_its_gradient_is_of_the_same_draw() -> None:
    model = bert(0.3).train()

    def drawn(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return seen(model, lambda: lean.logits_of(model, batch()))

    one, same, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one[0], same[0])
    assert all(torch.equal(gradient, same[1][name]) for name, gradient in one[1].items())
    assert not torch.equal(one[0], other[0])
    # A central difference along each gradient, the draw held fixed: the slope is its norm.
    for name in ("output.dense.weight", "attention.self.value.weight", "attention.self.key.weight"):
        name = f"bert.encoder.layer.1.{name}"
        weight, gradient = model.get_parameter(name), one[1][name]
        direction = gradient / gradient.norm()
        start, losses = weight.detach().clone(), []
        for shift in (0.1, -0.1):
            with torch.no_grad():
                weight.copy_(start + shift * direction)
            logits = drawn(1)[0].double()
            losses.append(float(cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2]))))
        with torch.no_grad():
            weight.copy_(start)
        assert (losses[0] - losses[1]) / 0.2 == pytest.approx(float(gradient.norm()), rel=0.05)


def test_what_does_not_fit_goes_transformers_way() -> None:
    model = bert(0.0).train()
    assert not lean.fits(model, batch(lean.LONGEST + 1))
    assert lean.fits(model, batch(lean.LONGEST))
    # A graph outside training may be differentiated twice (GraSP).
    model.eval()
    assert not lean.fits(model, batch())
    twice = torch.autograd.grad(
        lean.logits_of(model, batch()).sum(), model.classifier.weight, create_graph=True
    )
    assert twice[0].shape == (3, 32)
    model.train()
    # torch's own pruning computes the weight in a hook that the lean way does not call.
    linear = model.get_submodule("bert.encoder.layer.0.output.dense")
    prune.random_unstructured(linear, "weight", 0.5)
    assert not lean.fits(model, batch())
    prune.remove(linear, "weight")
    assert lean.fits(model, batch())
    model.double()
    assert not lean.fits(model, batch())
