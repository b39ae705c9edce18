"""What a worker keeps between steps."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ticketry.config import Recipe
from ticketry.steps import MASK_FILE, Context
from ticketry.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from ticketry.core.mask import Mask


class Bench:
    """What a worker keeps between steps: the prepared workload and the pre-trained weights."""

    def __init__(self, context: Context, store: Store) -> None:
        self.context = context
        self.store = store
        self.recipe = Recipe(**dict(context.recipe))

    @functools.cached_property
    def workload(self) -> Any:
        """The task bound to the base model."""
        from ticketry.models.loading import resolve
        from ticketry.tasks.base import TaskData
        from ticketry.tasks.objectives import workload_for

        data = TaskData.read(self.store.data_file(self.context.data_sha256))
        base = resolve(self.context.base_name, self.context.base_revision)
        return workload_for(base, data, self.recipe)

    @functools.cached_property
    def pretrained(self) -> dict[str, Tensor]:
        """The prunable tensors at θ0, by canonical name."""
        from ticketry.models.loading import canonical_parameters, load_backbone, resolve

        base = resolve(self.context.base_name, self.context.base_revision)
        parameters = canonical_parameters(load_backbone(base))
        return {name: parameters[name].detach() for name in self.context.scope}

    def mask_of(self, key: str) -> Mask:
        """Return the mask that a step left."""
        from ticketry.maskfile import load_mask

        return load_mask(self.store.read(key, MASK_FILE), what=f"the mask of step {key[:12]}")
