"""Controls: what each one changes about the ticket, and how it is named. Light: names only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ticketry.errors import unknown_name_message


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: as in ``--controls``; one with an amount is written ``name:0.2``.
        mask: a rule of :mod:`ticketry.arms` for the mask.
        weights: a rule of :mod:`ticketry.arms` for the weights it starts from.
        description: one sentence; ``{amount}`` stands for the amount.
        amount: the usual one, None where there is none.
        most: the largest amount.
    """

    name: str
    mask: str
    weights: str
    description: str
    amount: float | None = None
    most: float = math.inf


CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        Control(
            "random-layerwise",
            "random-layerwise",
            "start",
            "random choice within each layer at the ticket's own layer sparsities, "
            "a new mask for each replicate",
        ),
        Control(
            "random",
            "random",
            "start",
            "random choice over all prunable weights at the ticket's sparsity, "
            "a new mask for each replicate",
        ),
        Control(
            "oneshot-theta0",
            "given",
            "pretrained",
            "largest pre-trained weights at the ticket's sparsity, with no training",
        ),
        Control(
            "reinit",
            "given",
            "reinit",
            "θ0′: the ticket's mask on a base whose every weight, embeddings too, is drawn anew by "
            "the model's own initialiser, for each replicate",
        ),
        Control(
            "reinit-scope",
            "given",
            "reinit-scope",
            "θ0′ of the masked tensors alone: these are drawn anew by the model's own initialiser, "
            "for each replicate; all others stay pre-trained",
        ),
        Control(
            "shuffled",
            "given",
            "shuffled",
            "θ0″: the ticket's mask on weights shuffled within each masked tensor, "
            "for each replicate; all others stay as they are",
        ),
        Control(
            "complement",
            "complement",
            "start",
            "as many weights in each layer as the ticket keeps, drawn from those it prunes "
            "(where these are too few, the rest from those it keeps), for each replicate",
        ),
        Control(
            "flips",
            "flips",
            "start",
            "the ticket with {amount:.0%} of each layer's kept weights swapped for pruned ones, "
            "drawn for each replicate",
            amount=0.1,
            most=1.0,
        ),
        Control(
            "noise",
            "given",
            "noise",
            "the ticket's mask on weights with normal noise of {amount:g} times each masked "
            "tensor's standard deviation, drawn for each replicate",
            amount=0.1,
        ),
    )
}


def parse_control(text: str) -> tuple[Control, float | None]:
    """Split ``flips:0.2`` into the control and its amount.

    Raises:
        ValueError: with the fault in words.
    """
    name, colon, amount_text = text.partition(":")
    if name not in CONTROLS:
        raise ValueError(unknown_name_message("control", name, CONTROLS))
    control = CONTROLS[name]
    if not colon:
        return control, control.amount
    if control.amount is None:
        raise ValueError(f"control {text!r}: {name} takes no amount; write {name}.")
    try:
        amount = float(amount_text)
    except ValueError:
        amount = math.nan
    if not 0 < amount <= control.most or math.isinf(amount):
        limit = f" up to {control.most:g}" if math.isfinite(control.most) else ""
        raise ValueError(
            f"control {text!r} has the amount {amount_text!r}; expected a number above 0{limit}, "
            f"such as {name}:{control.amount:g}."
        )
    return control, amount


def describe_control(text: str) -> str:
    """Say what a control is, in one sentence; an unknown one by its name."""
    try:
        control, amount = parse_control(text)
    except ValueError:
        return text
    return control.description.format(amount=amount)
