"""Scope rules on names and shapes; families' own scopes are tested with the models."""

from __future__ import annotations

import math

import pytest

from ticketry.core.scope import ScopeRule, resolve_scope
from ticketry.errors import ScopeError

BLOCKS = ScopeRule(
    "blocks",
    include=("layer.*.weight",),
    exclude=("*.norm.*",),
)
SHAPES = {
    "embeddings.weight": (30, 4),
    "layer.0.query.weight": (4, 4),
    "layer.0.query.bias": (4,),
    "layer.0.norm.weight": (4, 4),
    "layer.1.query.weight": (4, 4),
    "layer.1.scale.weight": (4,),
    "pooler.weight": (4, 4),
}


def test_included_not_excluded_and_of_two_dimensions() -> None:
    assert resolve_scope(SHAPES, BLOCKS) == ("layer.0.query.weight", "layer.1.query.weight")


def test_names_are_sorted_whatever_the_order_of_the_model() -> None:
    backwards = dict(reversed(SHAPES.items()))
    assert resolve_scope(backwards, BLOCKS) == resolve_scope(SHAPES, BLOCKS)


def test_other_numbers_of_dimensions_can_be_asked_for() -> None:
    rule = ScopeRule("convolutions", include=("*",), ndims=(3, 4))
    shapes = {"linear": (2, 2), "experts": (2, 2, 2), "conv": (2, 2, 3, 3), "bias": (2,)}
    assert resolve_scope(shapes, rule) == ("conv", "experts")


def test_bert_base_has_72_encoder_matrices() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, 768),
        "pooler.dense.weight": (768, 768),
    }
    for block in range(12):
        prefix = f"encoder.layer.{block}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{prefix}.attention.{part}.weight"] = (768, 768)
            shapes[f"{prefix}.attention.{part}.bias"] = (768,)
        shapes[f"{prefix}.attention.output.LayerNorm.weight"] = (768,)
        shapes[f"{prefix}.intermediate.dense.weight"] = (3072, 768)
        shapes[f"{prefix}.output.dense.weight"] = (768, 3072)
    encoder = resolve_scope(shapes, ScopeRule("encoder", include=("encoder.layer.*.weight",)))
    assert len(encoder) == 72
    # A block: 4·768² + 2·768·3072 = 2,359,296 + 4,718,592 = 7,077,888; twelve of them:
    assert sum(math.prod(shapes[name]) for name in encoder) == 84_934_656


TIED = {"head.weight": "wte.weight"}


def test_tied_weights_count_once_under_their_owner() -> None:
    shapes = {"wte.weight": (9, 2), "head.weight": (9, 2), "h.0.weight": (2, 2)}
    everything = ScopeRule("all", include=("*",))
    assert resolve_scope(shapes, everything, shared=TIED) == ("h.0.weight", "wte.weight")
    # Named by its alias alone, and with an alias that is no entry of its own.
    by_alias = ScopeRule("head", include=("head.*",))
    assert resolve_scope(shapes, by_alias, shared=TIED) == ("wte.weight",)
    del shapes["head.weight"]
    assert resolve_scope(shapes, by_alias, shared=TIED) == ("wte.weight",)


def test_a_tied_tensor_is_excluded_by_any_of_its_names() -> None:
    shapes = {"wte.weight": (9, 2), "head.weight": (9, 2), "h.0.weight": (2, 2)}
    for pattern in ("wte.*", "head.*"):
        rule = ScopeRule("all", include=("*",), exclude=(pattern,))
        assert resolve_scope(shapes, rule, shared=TIED) == ("h.0.weight",)


def test_a_chain_of_aliases_ends_at_the_owner() -> None:
    shapes = {"a": (2, 2), "b": (2, 2), "c": (2, 2)}
    rule = ScopeRule("all", include=("c",))
    assert resolve_scope(shapes, rule, shared={"c": "b", "b": "a"}) == ("a",)


@pytest.mark.parametrize(
    ("shared", "path"),
    [({"a": "b", "b": "a"}, "a -> b|b -> a"), ({"a": "gone"}, "a -> gone|gone")],
    ids=["a circle", "no owner"],
)
def test_aliases_that_lead_nowhere(shared: dict[str, str], path: str) -> None:
    rule = ScopeRule("all", include=("*",))
    with pytest.raises(ScopeError, match=f"the shared names ({path}) lead to no tensor"):
        resolve_scope({"a": (2, 2), "b": (2, 2)}, rule, shared=shared)


def test_nothing_selected_shows_patterns_and_names() -> None:
    rule = ScopeRule("mine", include=("decoder.*", "lm.*"), exclude=("*.bias",))
    with pytest.raises(ScopeError) as caught:
        resolve_scope(SHAPES, rule)
    assert str(caught.value) == (
        "scope 'mine' selects none of the model's 7 tensors: it looks for decoder.*, lm.*, without "
        "*.bias, of 2 dimensions. The model's names are like embeddings.weight, "
        "layer.0.norm.weight, layer.0.query.bias, layer.0.query.weight."
    )


def test_nothing_selected_shows_what_only_lacks_the_dimensions() -> None:
    rule = ScopeRule("biases", include=("*.bias", "*.scale.*"), ndims=(2, 3))
    with pytest.raises(ScopeError) as caught:
        resolve_scope(SHAPES, rule)
    assert str(caught.value) == (
        "scope 'biases' selects none of the model's 7 tensors: it looks for *.bias, *.scale.*, of "
        "2 or 3 dimensions. Found under these names, but excluded or of other dimensions: "
        "layer.0.query.bias (4,), layer.1.scale.weight (4,)."
    )


def test_a_model_without_tensors() -> None:
    with pytest.raises(ScopeError, match=r"The model's names are like \(it has none\)\."):
        resolve_scope({}, BLOCKS)
