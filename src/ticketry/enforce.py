"""Keep pruned weights at zero while a model trains, with the mask outside the module."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ticketry.core.mask import Mask
from ticketry.errors import TrainingError
from ticketry.models.loading import masked_parameters


class MaskEnforcer:
    """Zeroes the pruned weights, then their gradients as they accumulate.

    With weight, gradient and fresh optimizer state all zero, an update of AdamW or SGD leaves a
    pruned weight at exactly zero, whatever momentum and decay do. The gradient is masked when it is
    accumulated, so the clipping norm counts survivors only, and by filling, not multiplying: an
    infinite gradient times zero is NaN. Names in ``state_dict`` do not change.

    Use it as a context manager, or :meth:`attach` and :meth:`detach`. The optimizer must be made
    anew for each mask: old moments would move new zeros.

    Args:
        model: a base model or a task model on it, on its final device.
        mask: on the base's canonical names.

    Raises:
        MaskError: the mask does not fit the model.
    """

    def __init__(self, model: nn.Module, mask: Mask) -> None:
        self._parameters = masked_parameters(model, mask)
        self._pruned = {
            name: ~mask[name].to(parameter.device) for name, parameter in self._parameters.items()
        }
        self._handles: list[RemovableHandle] = []

    @torch.no_grad()
    def attach(self) -> MaskEnforcer:
        """Zero the pruned weights and begin to mask gradients; a second call changes nothing."""
        if self._handles:
            return self
        for name, parameter in self._parameters.items():
            pruned = self._pruned[name]
            parameter.masked_fill_(pruned, 0)
            if parameter.grad is not None:
                parameter.grad.masked_fill_(pruned, 0)
            if parameter.requires_grad:
                self._handles.append(
                    parameter.register_post_accumulate_grad_hook(_gradient_mask(pruned))
                )
        return self

    def detach(self) -> None:
        """Remove every hook; the weights stay as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> MaskEnforcer:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    @torch.no_grad()
    def check(self) -> None:
        """Assert that every pruned weight is exactly zero.

        Raises:
            TrainingError: names the tensor; something besides the training loop changed it.
        """
        for name, parameter in self._parameters.items():
            revived = int((parameter.ne(0) & self._pruned[name]).sum())
            if revived:
                raise TrainingError(
                    f"{revived} pruned weights of {name} are not zero after training; expected "
                    "none. Something changed the weights beside the optimizer's step."
                )


def _gradient_mask(pruned: Tensor):  # type: ignore[no-untyped-def]
    def mask_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(pruned, 0)

    return mask_gradient
