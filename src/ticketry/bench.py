"""What a worker keeps between steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.recipes import Recipe
from ticketry.searchspec import UNIT_PATTERNS
from ticketry.steps import MASK_FILE, WEIGHTS_FILE, Context, Step
from ticketry.store import Store

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ticketry.core.mask import Mask
    from ticketry.core.pattern import Unit
    from ticketry.models.sources import BaseRef


def units_for(backbone: nn.Module, pattern: str, names: Sequence[str]) -> tuple[Unit, ...] | None:
    """Return the heads or neurons that a pattern keeps or prunes; None for other patterns."""
    if pattern not in UNIT_PATTERNS:
        return None
    from ticketry.models.structures import units

    return units(backbone, pattern, names)


def axes_for(backbone: nn.Module, pattern: str, names: Sequence[str]) -> dict[str, int] | None:
    """Return the axis of each tensor's inputs, for the patterns that look at it (N:M, blocks)."""
    if pattern == "unstructured" or pattern in UNIT_PATTERNS:
        return None
    from ticketry.models.structures import input_axes

    return dict(input_axes(backbone, names))


class Bench:
    """What a worker keeps between steps: the prepared workload and the pre-trained weights."""

    def __init__(self, context: Context, store: Store) -> None:
        self.context = context
        self.store = store
        self.recipe = Recipe.from_json(context.recipe)

    @functools.cached_property
    def workload(self) -> Any:
        """The task bound to the base model."""
        from ticketry.tasks.base import TaskData
        from ticketry.tasks.objectives import workload_for

        data = TaskData.read(
            self.store.data_file(self.context.data_sha256), self.context.data_sha256
        )
        return workload_for(self.base, data, self.recipe)

    @functools.cached_property
    def base(self) -> BaseRef:
        """Where the base model lies."""
        from ticketry.models.loading import resolve

        return resolve(self.context.base_name, self.context.base_revision)

    @functools.cached_property
    def backbone(self) -> nn.Module:
        """The base model at θ0."""
        from ticketry.models.loading import load_backbone

        return load_backbone(self.base)

    @functools.cached_property
    def pretrained(self) -> dict[str, Tensor]:
        """The prunable tensors at θ0, by canonical name."""
        from ticketry.models.loading import canonical_parameters

        parameters = canonical_parameters(self.backbone)
        return {name: parameters[name].detach() for name in self.context.scope}

    def units(self, pattern: str) -> tuple[Unit, ...] | None:
        """Return the heads or neurons that a pattern keeps or prunes; None for other patterns."""
        return units_for(self.backbone, pattern, self.context.scope)

    def input_axes(self, pattern: str) -> dict[str, int] | None:
        """Return the axis of each prunable tensor's inputs, where a pattern looks at it."""
        return axes_for(self.backbone, pattern, self.context.scope)

    def mask_of(self, key: str) -> Mask:
        """Return the mask that a step left."""
        from ticketry.maskfile import load_mask

        return load_mask(self.store.read_mask(key, MASK_FILE), what=f"the mask of step {key[:12]}")

    def weights_of(self, key: str) -> dict[str, Tensor]:
        """Return the weights that a step left to start from."""
        from ticketry.weightsfile import load_weights

        what = f"the weights of step {key[:12]}"
        return load_weights(self.store.read(key, WEIGHTS_FILE), what=what)


KEPT_BENCHES = 3
"""Tasks whose prepared data and weights a worker keeps; a study goes through many."""


class Benches:
    """The benches of several contexts, made when they are first needed."""

    def __init__(self, contexts: Mapping[str, Context], store: Store) -> None:
        self.contexts = contexts
        self.store = store
        self._kept: dict[str, Bench] = {}

    def of(self, step: Step) -> Bench:
        """Return the bench of a step's context; the one that was used longest ago may be let go."""
        key = step.context_key
        bench = self._kept.pop(key, None) or Bench(self.contexts[key], self.store)
        self._kept[key] = bench
        while len(self._kept) > KEPT_BENCHES:
            del self._kept[next(iter(self._kept))]
        return bench
