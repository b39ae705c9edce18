"""Statistics of criteria that need gradients: passes over a few calibration batches.

The model stands at the weights that are scored, masked weights at zero, in eval mode (no dropout)
and float32; nothing of it changes. The loss is the workload's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ticketry.core.mask import Mask
from ticketry.errors import ScoreError
from ticketry.models.loading import canonical_parameters
from ticketry.searchspec import SYNFLOW_ROUNDS
from ticketry.tasks.workload import NOT_INPUTS, Batch, Workload

Statistics = Mapping[str, Mapping[str, Tensor]]
"""Statistic -> canonical name -> float32 tensor shaped like the weight, on the CPU."""

_LARGEST = 1e30


def gradients(
    workload: Workload, model: nn.Module, batches: Sequence[Batch], names: Sequence[str]
) -> Statistics:
    """Return ``gradient`` and ``squared_gradient``: means over batches of g and g².

    Args:
        workload: whose loss is differentiated.
        model: at the weights in question.
        batches: for calibration; each counts the same.
        names: canonical names of the tensors.

    Raises:
        ScoreError: a gradient that is not finite; names the tensor.
    """
    with _still(model, names) as parameters:
        first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for batch in batches:
            for name, gradient in _gradients(workload, model, batch, parameters).items():
                first[name] += gradient / len(batches)
                second[name] += gradient.square() / len(batches)
        return _checked({"gradient": first, "squared_gradient": second})


def hessian_gradients(
    workload: Workload, model: nn.Module, batches: Sequence[Batch], names: Sequence[str]
) -> Statistics:
    """Return ``hessian_gradient``: H·g, both of the mean loss over the batches.

    g is taken first, then H·g as the gradient of the product of g (held fixed) with the gradient.

    Args:
        workload: whose loss is differentiated.
        model: at the weights in question.
        batches: for calibration; each counts the same.
        names: canonical names of the tensors; the Hessian is over these alone.

    Raises:
        ScoreError: a value that is not finite; names the tensor.
    """
    with _still(model, names) as parameters:
        direction = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for batch in batches:
            for name, gradient in _gradients(workload, model, batch, parameters).items():
                direction[name] += gradient / len(batches)
        product = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for batch in batches:
            # Fused attention has no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                loss = workload.loss(model, _moved(batch, model))
                live = torch.autograd.grad(
                    loss, list(parameters.values()), create_graph=True, allow_unused=True
                )
                along = [
                    (gradient * direction[name]).sum()
                    for name, gradient in zip(parameters, live, strict=True)
                    if gradient is not None
                ]
                parts = torch.autograd.grad(
                    torch.stack(along).sum(), list(parameters.values()), allow_unused=True
                )
            for name, part in zip(parameters, parts, strict=True):
                if part is not None:
                    product[name] += part.detach() / len(batches)
        return _checked({"hessian_gradient": product})


def synflow(model: nn.Module, batch: Batch, names: Sequence[str]) -> Statistics:
    """Return ``synflow``: dR/d|w|, R the sum of the outputs of the network of |weights|.

    Every parameter is replaced by its absolute value, in float64, and put back.

    Args:
        model: a task model with ``logits`` (or those of starts and of ends); its masked weights are
            zero.
        batch: inputs; labels are not looked at.
        names: canonical names of the tensors.

    Source: Tanaka et al. 2020, arXiv 2006.05467, eq. 6. Differs: the inputs are tokens (or pixels)
        of a few examples instead of ones, because normalisation turns an input of equal features
        into zeros, and attention over equal tokens has no gradient; normalisation, softmax and
        activations stay as they are, so the flow is not conserved as in a linear network.
    """
    with _still(model, names), _absolute(model):
        parameters = _named(model, names)
        inputs = {name: tensor for name, tensor in batch.items() if name not in NOT_INPUTS}
        inputs = {
            name: tensor.double() if tensor.is_floating_point() else tensor
            for name, tensor in _moved(inputs, model).items()
        }
        outputs = _sum_of_outputs(model(**inputs))
        found = torch.autograd.grad(outputs, list(parameters.values()), allow_unused=True)
        flows = {
            name: torch.zeros_like(p) if gradient is None else gradient.detach()
            for (name, p), gradient in zip(parameters.items(), found, strict=True)
        }
    # Flows through many layers leave float32's range; one factor for all changes no ranking.
    highest = max(float(flow.abs().max()) for flow in flows.values())
    factor = _LARGEST / highest if highest > _LARGEST else 1.0
    return _checked({"synflow": {name: (f * factor).float() for name, f in flows.items()}})


def _sum_of_outputs(found: Any) -> Tensor:
    logits: Tensor | None = getattr(found, "logits", None)
    if logits is not None:
        return logits.sum()
    total: Tensor = found.start_logits.sum() + found.end_logits.sum()
    return total


def synflow_mask(
    model: nn.Module,
    batch: Batch,
    names: Sequence[str],
    density: float,
    choose: Callable[[Mapping[str, Tensor], float, Mask | None, Statistics], Mask],
    *,
    within: Mask | None,
    progress: Callable[[int, int], None],
    rounds: int = SYNFLOW_ROUNDS,
) -> Mask:
    """Prune by SynFlow in rounds, each scoring what the one before left.

    Args:
        model: at the weights in question; changed while this runs, and put back.
        batch: inputs.
        names: canonical names of the tensors.
        density: at the end, kept / prunable.
        choose: selects from (weights, density, within, statistics).
        within: keep only weights of this mask.
        progress: called with (rounds done, rounds).
        rounds: density after round k is d₀·(d/d₀)^(k/rounds), d₀ that of ``within`` or 1.

    Source: Tanaka et al. 2020, arXiv 2006.05467, Algorithm 1 (exponential schedule, 100 rounds).
    """
    parameters = _named(model, names)
    saved = {name: p.detach().clone() for name, p in parameters.items()}
    mask = within
    first = 1.0 if within is None else within.density
    try:
        for number in range(1, rounds + 1):
            share = density if number == rounds else first * (density / first) ** (number / rounds)
            mask = choose(
                {name: p.detach().cpu() for name, p in saved.items()},
                share,
                mask,
                synflow(model, batch, names),
            )
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.masked_fill_(~mask[name].to(parameter.device), 0)
            progress(number, rounds)
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
    assert mask is not None
    return mask


def _gradients(
    workload: Workload, model: nn.Module, batch: Batch, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    loss = workload.loss(model, _moved(batch, model))
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: gradient.detach()
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is not None
    }


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    parameters = canonical_parameters(model)
    return {name: parameters[name] for name in names}


def _moved(batch: Batch, model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


@contextlib.contextmanager
def _still(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Hold the model in eval mode with gradients for the tensors in question; then as it was."""
    parameters = _named(model, names)
    training = model.training
    wanted = {name: p.requires_grad for name, p in parameters.items()}
    model.eval()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        model.train(training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(wanted[name])


@contextlib.contextmanager
def _absolute(model: nn.Module) -> Iterator[None]:
    """Hold every parameter at its absolute value in float64, then as it was, bit for bit."""
    saved = {name: t.detach().clone() for name, t in model.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    model.double()
    try:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
        yield
    finally:
        model.float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(saved[name])
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def _checked(statistics: Mapping[str, Mapping[str, Tensor]]) -> Statistics:
    for statistic, tensors in statistics.items():
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ScoreError(
                    f"the statistic {statistic} of tensor {name!r} is not finite; expected "
                    "numbers. The loss diverges on the calibration batches: lower the learning "
                    "rate of the training before it, or score other weights."
                )
    return {
        statistic: {name: tensor.cpu() for name, tensor in tensors.items()}
        for statistic, tensors in statistics.items()
    }
