"""The command line under ``accelerate launch``: rank 0 leads, the others follow.

A rank that fails leaves its reason where the launch's store keeps it and closes its connections;
rank 0 then hears from gloo that a connection is gone, and ends with that reason as its one message.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ticketry import parallel
from ticketry.errors import TicketryError
from ticketry.parallel import Team

_FAULT = "ticketry/fault"
_TOLD = "ticketry/told"
_WAIT_S = 30.0
INTERRUPTED = 130


def run_launched(lead: Callable[[], int]) -> int:
    """Run a command in one of several launched processes; return the exit code.

    Args:
        lead: the command, for rank 0 alone; raises nothing.
    """
    team = parallel.join()
    from torch.distributed import distributed_c10d

    notes = distributed_c10d._get_default_store()
    if not team.leads:
        return _follow(team, notes)
    signal.signal(signal.SIGTERM, _stopper(notes))
    code = lead()
    with contextlib.suppress(Exception):
        if code == 0:
            team.say({"do": "end"})
        # After a failure the others may stand anywhere in a step: they hear of it by the closed
        # connection.
        notes.set(_TOLD, "1")
    with contextlib.suppress(Exception):
        parallel.leave()
    return code


def reason_of(error: RuntimeError) -> TicketryError | None:
    """Return why another rank failed, if ``error`` is gloo's about a connection that is gone."""
    if parallel.team().alone:
        return None
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, for the same reason
    from torch.distributed import distributed_c10d

    told = ""
    with contextlib.suppress(Exception):
        told = _told_fault(distributed_c10d._get_default_store())
    if not told and not _is_gloo(error):
        return None
    what = told or "a process of the launch has ended (out of memory?)"
    return TicketryError(
        f"{what.rstrip('.')}. Start the same command again to continue; what was finished is kept."
    )


def _told_fault(notes: Any) -> str:
    """Return the reason that a failed rank left, or nothing after two seconds."""
    until = time.monotonic() + 2.0
    while not notes.check([_FAULT]):
        if time.monotonic() > until:
            return ""
        time.sleep(0.1)
    return str(notes.get(_FAULT).decode())


def _stopper(notes: Any) -> Callable[[int, object], None]:
    """Return what a launcher's SIGTERM does to rank 0: it says which process ended, and why."""

    def stopped(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told = ""
        with contextlib.suppress(Exception):  # the launcher keeps the notes, and may be gone
            told = _told_fault(notes)
        what = told or "the launcher stopped the run; a process of it has ended (out of memory?)"
        raise TicketryError(
            f"{what.rstrip('.')}. Start the same command again to continue; "
            "what was finished is kept."
        )

    return stopped


def _follow(team: Team, notes: Any) -> int:
    """Go through the steps that rank 0 announces; print nothing."""
    benches: dict[str, Any] = {}
    try:
        while (message := team.hear())["do"] == "step":
            _go_through(message, benches)
    except KeyboardInterrupt:
        return INTERRUPTED
    except RuntimeError as error:
        if _is_gloo(error):  # another rank ended first; rank 0 says why, and its code counts
            return 0
        return _fail(team, notes, error)
    except Exception as error:
        return _fail(team, notes, error)
    parallel.leave()
    return 0


def _is_gloo(error: RuntimeError) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("gloo", "connection closed", "connection reset", "peer"))


def _fail(team: Team, notes: Any, error: Exception) -> int:
    kind = "" if isinstance(error, TicketryError) else f"{type(error).__name__}: "
    with contextlib.suppress(Exception):
        notes.set(_FAULT, f"rank {team.rank} failed: {kind}{error}")
    with contextlib.suppress(Exception):
        parallel.leave()
    with contextlib.suppress(Exception):
        # A launcher stops all ranks when one has ended: rank 0 speaks first.
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until and not notes.check([_TOLD]):
            time.sleep(0.1)
    return 1


def _go_through(message: Any, benches: dict[str, Any]) -> None:
    """Do what rank 0 does for one step, up to what would be written."""
    import torch

    from ticketry.bench import Bench
    from ticketry.kinds import KINDS
    from ticketry.steps import Context, Step
    from ticketry.store import Store

    context = Context.from_json(message["context"])
    torch.set_num_threads(context.threads)
    key = f"{message['store']} {message['context']}"
    if key not in benches:
        benches.clear()
        benches[key] = Bench(context, Store(Path(message["store"])))
    step = Step.from_json(message["step"])
    KINDS[step.kind](step, benches[key], lambda done, total: None)


def exit_launched(lead: Callable[[], int]) -> None:
    """Run a launched command and end the process."""
    code = run_launched(lead)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of gloo may wait for a rank that is gone
