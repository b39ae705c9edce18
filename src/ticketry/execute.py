"""Run the steps of a plan: independent trainings side by side, each worker a process of its own.

Workers are ``python -m ticketry.worker`` children that read jobs as JSON lines and answer with
events, so a user's script needs no ``if __name__ == "__main__"`` guard and nothing is pickled.
They stop by themselves when this process is gone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ticketry.bench import Benches
from ticketry.errors import TicketryError
from ticketry.kinds import run_step
from ticketry.recordform import check_output
from ticketry.steps import Context, Step
from ticketry.store import Damage, Store

STOP_WAIT_S = 60.0
"""A worker stops at its next optimizer update; an evaluation under way is finished first."""


class Events(Protocol):
    """What a caller hears while a plan runs; every method may be called often."""

    def begin(self, steps: Sequence[Step], found: int) -> None:
        """Say which steps are left to do and how many were found finished."""

    def damaged(self, step: Step, damage: Damage) -> None:
        """Say that a stored output is not what was written and will be made again."""

    def progress(self, step: Step, done: int, total: int) -> None:
        """Say how many optimizer updates of a training are done."""

    def finished(self, step: Step, record: Mapping[str, Any], seconds: float) -> None:
        """Say that a step's output is stored."""

    def end(self) -> None:
        """Close whatever is shown."""


class Silent:
    """Events that nobody hears."""

    def begin(self, steps: Sequence[Step], found: int) -> None: ...  # noqa: D102
    def damaged(self, step: Step, damage: Damage) -> None: ...  # noqa: D102
    def progress(self, step: Step, done: int, total: int) -> None: ...  # noqa: D102
    def finished(self, step: Step, record: Mapping[str, Any], seconds: float) -> None: ...  # noqa: D102
    def end(self) -> None: ...  # noqa: D102


def missing_steps(steps: Sequence[Step], store: Store, events: Events) -> list[Step]:
    """Return the steps without an intact output, setting damaged outputs aside."""
    missing = []
    for step in steps:
        if store.has(step.key):
            damage = check_output(step, store)
            if damage is None:
                continue
            store.set_aside(damage)
            events.damaged(step, damage)
        missing.append(step)
    return missing


def execute(
    steps: Sequence[Step],
    context: Context | Mapping[str, Context],
    store: Store,
    *,
    workers: int,
    events: Events | None = None,
    until: float = math.inf,
) -> bool:
    """Make every step's output exist.

    Args:
        steps: in an order in which each step follows those that it needs.
        context: what all steps share, or the contexts of several tasks by their keys
            (:attr:`Context.key`).
        store: where outputs lie.
        workers: processes side by side; 0 runs in this process.
        events: told what happens.
        until: on :func:`time.monotonic`'s clock; no step is begun after it, those under way are
            finished.
    Returns:
        Whether all are there; ``False`` when time ran out first.

    Raises:
        TicketryError: a step failed; finished steps stay, the same call continues.
        KeyboardInterrupt: passed on after the workers have stopped.
    """
    events = events or Silent()
    contexts = {context.key: context} if isinstance(context, Context) else context
    todo = missing_steps(steps, store, events)
    if not todo:
        return True
    events.begin(todo, len(steps) - len(todo))
    try:
        if workers == 0:
            return _run_here(todo, contexts, store, events, until)
        return _Crew(todo, contexts, store, min(workers, len(todo)), events, until).run()
    finally:
        events.end()


def _run_here(
    todo: Sequence[Step],
    contexts: Mapping[str, Context],
    store: Store,
    events: Events,
    until: float,
) -> bool:
    import torch

    threads = torch.get_num_threads()
    benches = Benches(contexts, store)
    try:
        for step in todo:
            if time.monotonic() > until:
                return False
            bench = benches.of(step)
            torch.set_num_threads(bench.context.threads)
            run_step(step, bench, functools.partial(events.progress, step))
            _finish(step, store, events)
    finally:
        torch.set_num_threads(threads)
    return True


def _finish(step: Step, store: Store, events: Events) -> None:
    seconds = float(store.times(step.key).get("seconds", 0.0))
    events.finished(step, store.record(step.key), seconds)


class _Worker:
    """One child process and the thread that reads its events."""

    def __init__(self, job: Mapping[str, Any], threads: int, inbox: queue.Queue[Any]) -> None:
        count = str(threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "TOKENIZERS_PARALLELISM": "false",
        }
        # A process group of its own: Ctrl-C reaches only the parent, which stops workers in order.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ticketry.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            process_group=0,
        )
        self.step: Step | None = None
        self.send(job)
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one JSON line; a dead worker is noticed by its listener."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def _listen(self, inbox: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            inbox.put((self, json.loads(line)))
        inbox.put((self, {"event": "gone", "code": self.process.wait()}))

    def stop(self) -> None:
        """Ask the worker to stop at its next optimizer update (closing its input asks)."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def wait(self) -> None:
        """Wait until it has stopped; kill it when it does not."""
        try:
            self.process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class _Crew:
    """Workers, and which step each is at."""

    def __init__(
        self,
        todo: list[Step],
        contexts: Mapping[str, Context],
        store: Store,
        count: int,
        events: Events,
        until: float,
    ) -> None:
        self.until = until
        self.waiting = list(todo)
        self.left = {step.key for step in todo}
        self.store = store
        self.events = events
        self.inbox: queue.Queue[Any] = queue.Queue()
        used = {step.context_key: contexts[step.context_key] for step in todo}
        job = {
            "contexts": {key: context.to_json() for key, context in used.items()},
            "store": str(Path(store.root).absolute()),
        }
        threads = max(context.threads for context in used.values())
        self.workers = [_Worker(job, threads, self.inbox) for _ in range(count)]

    def run(self) -> bool:
        """Hand out steps until none is left, or until time is; say whether all are done."""
        try:
            for worker in self.workers:
                self._hand_out(worker)
            while any(worker.step is not None for worker in self.workers):
                worker, message = self.inbox.get()
                self._hear(worker, message)
        finally:
            for worker in self.workers:
                worker.stop()
            for worker in self.workers:
                worker.wait()
        return not self.left

    def _hand_out(self, worker: _Worker) -> None:
        """Give an idle worker the first step whose needs are met, if there is time for it."""
        if time.monotonic() > self.until:
            worker.step = None
            return
        for step in self.waiting:
            if not self.left.intersection(step.needs):
                self.waiting.remove(step)
                worker.step = step
                worker.send({"step": step.to_json()})
                return
        worker.step = None

    def _hear(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        step = worker.step
        kind = message["event"]
        if kind == "error":
            raise _rebuild_error(message)
        if kind == "gone":
            at = f" while it worked on {step.name!r}" if step else ""
            raise TicketryError(
                f"a worker process ended{at} with exit code {message['code']} "
                "(out of memory?). Run the same command again to continue, "
                "with fewer --workers if memory is short."
            )
        assert step is not None
        if kind == "progress":
            self.events.progress(step, message["done"], message["total"])
        elif kind == "done":
            self.left.discard(step.key)
            _finish(step, self.store, self.events)
            worker.step = None
            # A finished step may free several that waited for it.
            for idle in self.workers:
                if idle.step is None:
                    self._hand_out(idle)


def _rebuild_error(message: Mapping[str, Any]) -> TicketryError:
    """Turn a worker's error event into the exception that the same step raises here."""
    import ticketry.errors as errors

    kind = getattr(errors, message["class"], TicketryError)
    if not (isinstance(kind, type) and issubclass(kind, TicketryError)):
        kind = TicketryError
    return kind(message["message"])
