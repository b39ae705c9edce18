"""Which tickets a bank takes, and how a model is trained for one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ticketry.errors import BankError, BaseMismatchError
from ticketry.models.loading import some_names
from ticketry.models.sharing import freeze_shared_
from ticketry.ticket import Ticket


def freeze_(model: nn.Module, ticket: Ticket) -> list[str]:
    """Mask a task model, and let only what a bank keeps for each task learn, in place.

    Frozen weights get no gradient, so the pruned ones stay zero in any training loop.

    Args:
        model: a task model of transformers, its base at the pre-trained weights.
        ticket: of that base.
    Returns:
        The names of the parameters that learn: head, biases, norms and pooler.

    Raises:
        BaseMismatchError: the model is not built on the ticket's base; it is unchanged.
        BankError: the ticket starts from weights of its own.
    """
    ticket.validate(model)
    _check_start(ticket)
    return freeze_shared_(model, ticket.mask)


def check_ticket(
    ticket: Ticket, base: Mapping[str, Tensor], hashes: Mapping[str, str], name: str
) -> None:
    """Refuse a ticket that cannot be served from a base.

    Args:
        ticket: the ticket.
        base: the base's tensors by canonical name.
        hashes: of these (:func:`ticketry.models.loading.tensor_hashes`).
        name: of the base, for messages.

    Raises:
        BaseMismatchError: it is of another base; lists every kind of difference.
        BankError: it starts from weights of its own.
    """
    lacking = sorted(set(ticket.mask) - base.keys())
    unfit = [n for n in ticket.mask if n in base and base[n].shape != ticket.mask.shape(n)]
    theirs = ticket.base.tensors
    common = theirs.keys() & hashes
    other = sorted(n for n in common if theirs[n] != hashes[n])
    if lacking or unfit or other or not common:
        faults = [
            f"{what} {len(names)} ({some_names(names)})"
            for what, names in (
                ("the bank's base lacks", lacking),
                ("other shapes in", unfit),
                ("other values in", other),
            )
            if names
        ]
        raise BaseMismatchError(
            f"this ticket is of {ticket.base.name}, and the bank holds {name}: "
            f"{'; '.join(faults) or 'no tensor in common'} of {len(theirs)} tensors. "
            "Make a bank of that base for it."
        )
    _check_start(ticket)


def _check_start(ticket: Ticket) -> None:
    if ticket.rewind is not None:
        step = f"step {ticket.rewind.step}" if ticket.rewind.step else "trained weights"
        raise BankError(
            f"this ticket starts from weights of its own (rewound to {step}), and a bank holds the "
            f"pre-trained ones of {ticket.base.name}; only tickets that start there can share them."
        )


def task_name(ticket: Ticket) -> str:
    """Return the name of the task that a ticket was found on.

    Raises:
        BankError: it does not say.
    """
    data = ticket.spec.get("data")
    name = data.get("task") if isinstance(data, Mapping) else None
    if not isinstance(name, str) or not name:
        raise BankError("this ticket does not name a task; give it a name: add(…, name='…').")
    return name
