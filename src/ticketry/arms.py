"""What a replicate's arm trains: which mask, and from which weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ticketry.bench import Bench
from ticketry.config import derive_seed
from ticketry.steps import Step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ticketry.core.mask import Mask
    from ticketry.course import Course

# Parameters of a replicate's step: `mask` and `weights` are rules; `amount` is a control's;
# `pattern` is the ticket's where it is structured; needs[0] left the mask, needs[1] the weights
# that the ticket carries, if `carried` is set; `first_step` of the schedule is its first then;
# `head` is the step that warmed up the head, the last of the needs.


def arm_mask(step: Step, bench: Bench) -> Mask | None:
    """Return the mask of a replicate's arm; random ones are drawn from the replicate's seed."""
    from ticketry.core.select import random_global, random_layerwise

    rule = step.params["mask"]
    if rule == "none":
        return None
    ticket = bench.mask_of(step.needs[0])
    if rule == "given":
        return ticket
    generator = _generator(step, rule)
    if rule == "complement":
        from ticketry.core.perturb import complement_random

        return complement_random(ticket, generator)
    if rule == "flips":
        from ticketry.core.perturb import flip

        return flip(ticket, step.params["amount"], generator)
    if (pattern := step.params.get("pattern")) is not None:
        return _random_structured(ticket, rule, pattern, bench, generator)
    if rule == "random-layerwise":
        return random_layerwise(ticket, generator)
    shapes = {name: ticket.shape(name) for name in ticket}
    return random_global(shapes, ticket.density, generator)


def _random_structured(
    ticket: Mask, rule: str, pattern: str, bench: Bench, generator: torch.Generator
) -> Mask:
    """Draw a mask of the ticket's own pattern: single weights would be another kind of mask."""
    import torch

    from ticketry.core.select import select

    shapes = {name: ticket.shape(name) for name in ticket}
    by_layer = rule == "random-layerwise" and ":" not in pattern  # N:M has one density by itself
    return select(
        {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()},
        None if by_layer else ticket.density,
        criterion="random",
        pattern=pattern,
        units=bench.units(pattern),
        input_axes=bench.input_axes(pattern),
        allocation="given" if by_layer else "global",
        layer_densities={row.name: row.density for row in ticket.layers()} if by_layer else None,
        generator=generator,
    )


def head_start(step: Step, bench: Bench) -> dict[str, Tensor]:
    """Return the warmed-up head γ0 that a step starts with; nothing where its task has none.

    It is the same for all seeds and arms, as θ0 is, and is rewound with it.
    """
    key = step.params.get("head")
    return {} if key is None else bench.weights_of(key)


def arm_course(step: Step, bench: Bench, mask: Mask | None) -> Course:
    """Return where a replicate's arm starts."""
    from ticketry.course import WHOLE, Course

    rule = step.params.get("weights", "pretrained")
    first_step, end_step = step.params.get("first_step", 0), step.params.get("end_step")
    start = head_start(step, bench)
    if step.params.get("carried"):
        from ticketry.models.weights import base_part

        start |= base_part(bench.weights_of(step.needs[1]))
    if rule in ("reinit", "reinit-scope"):
        from ticketry.models.weights import reinitialised

        fresh = reinitialised(bench.base, derive_seed(step.params["seed"], "reinit"))
        assert mask is not None
        start |= fresh if rule == "reinit" else {name: fresh[name] for name in mask}
    elif rule in ("shuffled", "noise"):
        assert mask is not None
        generator = _generator(step, rule)
        for name in mask:
            start[name] = _disturbed(
                start.get(name, bench.pretrained[name]), rule, step.params, generator
            )
    if not start and end_step is None:
        return WHOLE
    return Course(weights=start or None, first_step=first_step, end_step=end_step)


def _disturbed(weights: Tensor, rule: str, params: object, generator: torch.Generator) -> Tensor:
    import torch

    if rule == "shuffled":
        from ticketry.core.perturb import shuffle_within

        return shuffle_within(weights, generator)
    assert isinstance(params, dict)
    noise = torch.randn(weights.shape, generator=generator)
    disturbed: Tensor = weights + noise * (params["amount"] * weights.std())
    return disturbed


def _generator(step: Step, rule: str) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(derive_seed(step.params["seed"], rule))
