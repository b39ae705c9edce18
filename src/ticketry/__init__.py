"""ticketry: find, verify, transfer and pack winning lottery tickets in pre-trained models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ticketry import plugin

__version__ = "0.1.0"
__all__ = [
    "Mask",
    "Ticket",
    "TicketBank",
    "TicketCallback",
    "Verdict",
    "__version__",
    "connect",
    "find",
    "load_packed",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from ticketry.api import connect, find, train, verify
    from ticketry.bank import TicketBank
    from ticketry.callback import TicketCallback
    from ticketry.core.mask import Mask
    from ticketry.packed.loading import load_packed
    from ticketry.ticket import Ticket
    from ticketry.verdict import Verdict

_HOMES = {
    "find": "ticketry.api",
    "verify": "ticketry.api",
    "train": "ticketry.api",
    "connect": "ticketry.api",
    "load_packed": "ticketry.packed.loading",
    "Ticket": "ticketry.ticket",
    "TicketBank": "ticketry.bank",
    "TicketCallback": "ticketry.callback",
    "Mask": "ticketry.core.mask",
    "Verdict": "ticketry.verdict",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ticketry' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


plugin.install()
