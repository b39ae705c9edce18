"""Task models on one and the same base module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ticketry.models.loading import base_model


def share_base(models: Sequence[nn.Module]) -> nn.Module:
    """Let task models share the base of one of them, in place, and return it.

    It is the base with the most tensors: where the checkpoint lacks a pooler, only a classifier's
    has one, and the other models do not read it.

    Args:
        models: built on the same base, at the same weights.
    """
    shared = max(map(base_model, models), key=lambda base: len(base.state_dict()))
    for model in models:
        task_model: Any = model
        if base_model(model) is not shared:
            setattr(model, task_model.base_model_prefix, shared)
            task_model.tie_weights()  # a head may be the embeddings themselves
    return shared
