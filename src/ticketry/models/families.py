"""What differs between model families, as data: prunable tensors, embeddings, pooler.

Names are canonical: those of the base ``AutoModel``'s ``state_dict``, without a task prefix.
A scope is a function of the base and a scope name, never of the task (heads are out of reach).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ticketry.core.scope import ScopeRule
from ticketry.errors import ScopeError, UnknownNameError, unknown_name_message


@dataclass(frozen=True)
class Cut:
    """How one tensor of a layer is shared by the layer's heads or neurons.

    Attributes:
        tensor: its name, ``*`` for each number of the layer.
        axis: that is cut into one slice for each unit, from 0.
        blocks: parts that are cut each by itself, such as 3 for fused queries, keys and values.
    """

    tensor: str
    axis: int
    blocks: int = 1


@dataclass(frozen=True)
class Layout:
    """Where the heads or neurons of a layer lie.

    Attributes:
        cuts: the layer's tensors; a model may lack any but the first (a gate).
        count: configuration keys for the number of units, the first that is there; none: one unit
            for each index of the first cut.
    """

    cuts: tuple[Cut, ...]
    count: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What is known about one ``model_type``.

    Attributes:
        model_type: as in ``config.json``.
        scopes: scope name -> rule on canonical names and number of dimensions.
        embeddings: globs of the tensors that ``freeze_embeddings`` freezes.
        pooler: globs of backbone tensors that a checkpoint may lack; then they belong to the head.
        reserved_positions: rows of the position table that no token can use.
        heads: where attention heads lie; empty where there are none.
        neurons: where MLP neurons lie.
    """

    model_type: str
    scopes: Mapping[str, ScopeRule]
    embeddings: tuple[str, ...]
    pooler: tuple[str, ...] = ()
    reserved_positions: int = 0
    heads: tuple[Layout, ...] = ()
    neurons: tuple[Layout, ...] = ()


# The six block matrices of BERT and RoBERTa, each by its name: a looser glob would also catch the
# 2-D `distance_embedding` of models with relative positions.
_BERT_BLOCK = (
    "encoder.layer.*.attention.self.query.weight",
    "encoder.layer.*.attention.self.key.weight",
    "encoder.layer.*.attention.self.value.weight",
    "encoder.layer.*.attention.output.dense.weight",
    "encoder.layer.*.intermediate.dense.weight",
    "encoder.layer.*.output.dense.weight",
)

_BERT_HEADS = Layout(
    (
        Cut("encoder.layer.*.attention.self.query.weight", 0),
        Cut("encoder.layer.*.attention.self.key.weight", 0),
        Cut("encoder.layer.*.attention.self.value.weight", 0),
        Cut("encoder.layer.*.attention.output.dense.weight", 1),
    ),
    ("num_attention_heads",),
)
_BERT_NEURONS = Layout(
    (
        Cut("encoder.layer.*.intermediate.dense.weight", 0),
        Cut("encoder.layer.*.output.dense.weight", 1),
    )
)

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "bert",
            scopes={
                "encoder": ScopeRule("encoder", include=_BERT_BLOCK),
                # 73 matrices of BERT-base: arXiv 2007.12223 and its released code.
                "bert-paper": ScopeRule(
                    "bert-paper", include=(*_BERT_BLOCK, "pooler.dense.weight")
                ),
            },
            embeddings=("embeddings.*",),
            pooler=("pooler.*",),
            heads=(_BERT_HEADS,),
            neurons=(_BERT_NEURONS,),
        ),
        # No `bert-paper` here: RoBERTa's classifier drops the base's pooler for a head of its own,
        # and most RoBERTa checkpoints lack one.
        Family(
            "roberta",
            scopes={"encoder": ScopeRule("encoder", include=_BERT_BLOCK)},
            embeddings=("embeddings.*",),
            pooler=("pooler.*",),
            reserved_positions=2,
            heads=(_BERT_HEADS,),
            neurons=(_BERT_NEURONS,),
        ),
        Family(
            "distilbert",
            scopes={
                "encoder": ScopeRule(
                    "encoder",
                    include=(
                        "transformer.layer.*.attention.q_lin.weight",
                        "transformer.layer.*.attention.k_lin.weight",
                        "transformer.layer.*.attention.v_lin.weight",
                        "transformer.layer.*.attention.out_lin.weight",
                        "transformer.layer.*.ffn.lin1.weight",
                        "transformer.layer.*.ffn.lin2.weight",
                    ),
                )
            },
            embeddings=("embeddings.*",),
            heads=(
                Layout(
                    (
                        Cut("transformer.layer.*.attention.q_lin.weight", 0),
                        Cut("transformer.layer.*.attention.k_lin.weight", 0),
                        Cut("transformer.layer.*.attention.v_lin.weight", 0),
                        Cut("transformer.layer.*.attention.out_lin.weight", 1),
                    ),
                    ("n_heads",),
                ),
            ),
            neurons=(
                Layout(
                    (
                        Cut("transformer.layer.*.ffn.lin1.weight", 0),
                        Cut("transformer.layer.*.ffn.lin2.weight", 1),
                    )
                ),
            ),
        ),
        # Conv1D stores [in, out], the transpose of a Linear; a mask knows no direction.
        Family(
            "gpt2",
            scopes={
                "encoder": ScopeRule(
                    "encoder",
                    include=(
                        "h.*.attn.c_attn.weight",
                        "h.*.attn.c_proj.weight",
                        "h.*.mlp.c_fc.weight",
                        "h.*.mlp.c_proj.weight",
                    ),
                )
            },
            embeddings=("wte.*", "wpe.*"),
            heads=(
                Layout(
                    (Cut("h.*.attn.c_attn.weight", 1, blocks=3), Cut("h.*.attn.c_proj.weight", 0)),
                    ("n_head",),
                ),
            ),
            neurons=(Layout((Cut("h.*.mlp.c_fc.weight", 1), Cut("h.*.mlp.c_proj.weight", 0))),),
        ),
    )
}

_PATTERN_NDIMS = (2, 3, 4)
_PATTERN_MARKS = "*?[.!"


def scope_rule(scope: str | Sequence[str], model_type: str) -> ScopeRule:
    """Turn a scope name, patterns, or both into one rule.

    Args:
        scope: a scope name of the family, or glob patterns on canonical names; ``!pattern``
            excludes. Names and patterns may be mixed: ``("encoder", "!encoder.layer.0.*")``.
        model_type: the base's ``model_type``.
    Returns:
        The rule; patterns select tensors of 2 dimensions and more (never biases and norms).

    Raises:
        UnknownNameError: neither a scope of this family nor a pattern.
        ScopeError: only exclusions were given.
    """
    parts = (scope,) if isinstance(scope, str) else tuple(scope)
    family = FAMILIES.get(model_type)
    include: list[str] = []
    exclude: list[str] = []
    ndims: tuple[int, ...] = (2,)
    for part in parts:
        if family is not None and part in family.scopes:
            rule = family.scopes[part]
            include += rule.include
            exclude += rule.exclude
        elif part.startswith("!"):
            exclude.append(part[1:])
        elif any(mark in part for mark in _PATTERN_MARKS):
            include.append(part)
            ndims = _PATTERN_NDIMS
        else:
            raise _unknown_scope(part, model_type)
    if not include:
        raise ScopeError(
            f"the scope {', '.join(parts) or '(empty)'} selects nothing: it has no scope name and "
            "no pattern to include; add one before the exclusions, such as 'encoder'."
        )
    return ScopeRule(
        name=parts[0] if len(parts) == 1 else " ".join(parts),
        include=tuple(include),
        exclude=tuple(exclude),
        ndims=ndims,
    )


def _unknown_scope(name: str, model_type: str) -> UnknownNameError:
    family = FAMILIES.get(model_type)
    if family is not None:
        message = unknown_name_message(f"scope of {model_type} models", name, family.scopes)
        return UnknownNameError(
            f"{message} Or give patterns on tensor names, such as 'encoder.layer.*.weight'."
        )
    scopes = {scope for known in FAMILIES.values() for scope in known.scopes}
    if name in scopes:
        message = unknown_name_message("model family", model_type, FAMILIES)
        why = f"Scope {name!r} is defined for these only; for another model give patterns"
    else:
        message = unknown_name_message("scope", name, scopes)
        why = f"The model's family {model_type!r} has no named scopes; give patterns"
    return UnknownNameError(
        f"{message} {why} on its tensor names, such as --scope 'blocks.*.weight'."
    )


def matching(names: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names that match any of the globs, in their order."""
    return tuple(
        name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in patterns)
    )
