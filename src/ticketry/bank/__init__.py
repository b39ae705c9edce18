"""Several tasks' tickets, served from one copy of their base's weights."""

from ticketry.bank.bank import TicketBank
from ticketry.bank.tickets import freeze_

__all__ = ["TicketBank", "freeze_"]
