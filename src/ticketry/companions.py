"""What accompanies a training: it sees every step, may change the model, and survives a resume.

A companion is called in this order: :meth:`~Companion.begin` once the model and optimizer exist,
then in each optimizer step :meth:`~Companion.after_backward` with the gradients there (before they
are clipped) and :meth:`~Companion.after_step` with the weights updated. Whatever it remembers is
part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ticketry.core.mask import Mask
from ticketry.core.schedule import cubic_sparsity
from ticketry.enforce import MaskEnforcer
from ticketry.models.loading import canonical_parameters
from ticketry.models.weights import take_weights


class Companion(Protocol):
    """What :func:`ticketry.training.train` asks of a companion."""

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """See the model at its start, before a checkpoint is taken up."""

    def after_backward(self, done: int) -> None:
        """See the gradients of step ``done`` (steps made before it)."""

    def after_step(self, done: int, steps: int) -> None:
        """See the weights after ``done`` of ``steps`` steps."""

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a stop, by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up :meth:`state`; the model has its weights of that moment already."""


class Silent:
    """A companion that does nothing; others override what they need."""

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing."""

    def after_backward(self, done: int) -> None:
        """Do nothing."""

    def after_step(self, done: int, steps: int) -> None:
        """Do nothing."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""


class Capture(Silent):
    """Keeps a copy of all weights after a given number of steps: the point to rewind to.

    Attributes:
        weights: as :func:`ticketry.models.weights.take_weights`; empty until that step.
    """

    def __init__(self, at_step: int) -> None:
        self.at_step = at_step
        self.weights: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Note the model."""
        self._model = model
        if self.at_step == 0:
            self.weights = take_weights(model)

    def after_step(self, done: int, steps: int) -> None:
        """Copy the weights when the step has come."""
        if done == self.at_step:
            self.weights = take_weights(self._model)

    def state(self) -> dict[str, Tensor]:
        """Return the copy, if it was taken."""
        return self.weights

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the copy."""
        self.weights = dict(state)


class Movement(Silent):
    """Sums −w·g of each weight over a training: the statistic ``movement``.

    A weight that moves away from zero gets a positive sum. Float32, in the order of the steps.

    Source: Sanh et al. 2020, arXiv 2005.07683, §3 (eq. 3). Differs: the sum is taken during an
    ordinary training, with the mask of the round fixed; there masked weights go on receiving
    gradients through a straight-through estimator and may come back.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.sums: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Begin at zero."""
        parameters = canonical_parameters(model)
        self._parameters = {name: parameters[name] for name in self.names}
        self.sums = {
            name: torch.zeros_like(p, dtype=torch.float32) for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def after_backward(self, done: int) -> None:
        """Add this step's share."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.sums[name].addcmul_(parameter.detach(), parameter.grad, value=-1.0)

    def state(self) -> dict[str, Tensor]:
        """Return the sums."""
        return self.sums

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the sums."""
        for name, tensor in state.items():
            self.sums[name].copy_(tensor)


Choose = Callable[[Mapping[str, Tensor], float, Mask], Mask]
"""(weights, density, the mask that stands) -> a mask within it."""


class GradualPruning(Silent):
    """Prunes while the model trains, along a cubic schedule.

    Every mask lies within the one before it. When it shrinks, the new zeros' weights, gradients
    and optimizer moments are set to zero, so that no momentum moves them.

    Args:
        names: the prunable tensors.
        sparsity: at the end.
        start: share of the steps after which pruning begins.
        end: share of the steps after which the last sparsity stands.
        updates: how many times the mask shrinks.
        choose: selects what to keep.

    Attributes:
        mask: the mask that stands now.

    Source: Zhu & Gupta 2017, arXiv 1710.01878, §3. Differs: global instead of per layer unless the
        allocation says otherwise, masks are nested, and the moments of new zeros are cleared.
    """

    mask: Mask

    def __init__(
        self,
        names: tuple[str, ...],
        sparsity: float,
        *,
        start: float,
        end: float,
        updates: int,
        choose: Choose,
    ) -> None:
        self.names = names
        self.sparsity = sparsity
        self.start, self.end, self.updates = start, end, updates
        self.choose = choose

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Begin with every weight kept."""
        parameters = canonical_parameters(model)
        self._parameters = {name: parameters[name] for name in self.names}
        self._optimizer = optimizer
        self.mask = Mask.full({name: tuple(p.shape) for name, p in self._parameters.items()})
        self._enforcer = MaskEnforcer(model, self.mask).attach()

    def after_step(self, done: int, steps: int) -> None:
        """Shrink the mask where an update is due."""
        if (sparsity := self.due(done, steps)) is not None:
            weights = {name: p.detach().cpu() for name, p in self._parameters.items()}
            self._narrow(self.choose(weights, 1.0 - sparsity, self.mask))

    def due(self, done: int, steps: int) -> float | None:
        """Return the sparsity to prune to after ``done`` of ``steps`` steps, None for no update."""
        first = round(self.start * steps)
        last = max(first + 1, round(self.end * steps))
        length = last - first
        updates = {first + round(length * k / self.updates) for k in range(1, self.updates + 1)}
        if done not in updates:
            return None
        return cubic_sparsity((done - first) / length, self.sparsity)

    def _narrow(self, mask: Mask) -> None:
        self._enforcer.narrow(mask, self._optimizer)
        self.mask = mask

    def state(self) -> dict[str, Tensor]:
        """Return the mask."""
        return {name: self.mask[name] for name in self.mask}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the mask."""
        self._narrow(Mask({name: tensor.bool() for name, tensor in state.items()}))

    def finish(self) -> Mask:
        """Check the zeros, stop masking, and return the last mask.

        Raises:
            TrainingError: a pruned weight is not zero.
        """
        self._enforcer.check()
        self._enforcer.detach()
        return self.mask
