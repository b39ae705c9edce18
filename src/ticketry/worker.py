"""A worker process: reads a job and then steps as JSON lines, answers with events as JSON lines.

Run by :mod:`ticketry.execute` as ``python -m ticketry.worker``; not meant to be called by hand.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from ticketry.errors import TicketryError

PROGRESS_EVERY_S = 0.5
GIVE_UP_AFTER_S = 55.0


def main() -> int:
    """Serve until the input closes; the exit code is 0 unless a step failed."""
    # Libraries may print; only events may reach the parent.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stopping = threading.Event()
    inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(inbox, stopping), daemon=True).start()
    job = inbox.get()
    if job is None:
        return 0
    try:
        _serve(job, inbox, events, stopping)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except TicketryError as error:
        _say(events, {"event": "error", "class": type(error).__name__, "message": str(error)})
        return error.exit_code
    except BaseException as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        _say(events, {"event": "error", "class": "TicketryError", "message": message})
        return 1
    return 0


def _read(inbox: queue.Queue[dict[str, Any] | None], stopping: threading.Event) -> None:
    """Pass messages on; when the parent closes the pipe or dies, stop what is under way."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    stopping.set()
    inbox.put(None)
    time.sleep(GIVE_UP_AFTER_S)
    os._exit(1)


def _say(events: TextIO, message: dict[str, Any]) -> None:
    events.write(json.dumps(message) + "\n")
    events.flush()


def _serve(
    job: dict[str, Any],
    inbox: queue.Queue[dict[str, Any] | None],
    events: TextIO,
    stopping: threading.Event,
) -> None:
    import torch

    from ticketry.bench import Benches
    from ticketry.kinds import run_step
    from ticketry.steps import Context, Step
    from ticketry.store import Store

    contexts = {key: Context.from_json(data) for key, data in job["contexts"].items()}
    benches = Benches(contexts, Store(Path(job["store"])))
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if stopping.is_set():
            raise KeyboardInterrupt
        if time.monotonic() - last >= PROGRESS_EVERY_S or done == total:
            last = time.monotonic()
            _say(events, {"event": "progress", "done": done, "total": total})

    while (message := inbox.get()) is not None:
        step = Step.from_json(message["step"])
        bench = benches.of(step)
        torch.set_num_threads(bench.context.threads)
        run_step(step, bench, progress)
        _say(events, {"event": "done", "key": step.key})


if __name__ == "__main__":
    sys.exit(main())
