"""What is said about a model family, as data: scopes, embeddings, heads and neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ticketry.core.scope import ScopeRule


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
