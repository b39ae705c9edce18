"""What a person sees while a plan runs: one bar with time left, and a line per finished step."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ticketry.plan import say_seconds, weight
from ticketry.steps import Step
from ticketry.store import Damage
from ticketry.terminal import printable

PLAIN_EVERY_S = 30.0


class ConsoleEvents:
    """Progress on standard error; standard output stays free for the result.

    In a terminal a bar is redrawn; elsewhere (a log, CI) a plain line appears now and then.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.done = 0.0
        self.total = 0.0
        self.running: dict[str, float] = {}
        self.started = time.monotonic()
        self.last_plain = self.started
        self.bar: Progress | None = None

    def begin(self, steps: Sequence[Step], found: int) -> None:
        """Start the clock over the steps that are left."""
        self.total = sum(self._weight(step) for step in steps)
        self.started = self.last_plain = time.monotonic()
        if found:
            self.say(f"{found} finished steps found, {len(steps)} left")
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.fields[now]}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}"),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("", total=self.total, now="starting", left="")
            self.bar.start()

    def damaged(self, step: Step, damage: Damage) -> None:
        """Name the damaged file and what is made again."""
        self.say(
            f"damaged: {damage.file}: {damage.reason}; "
            f"it was set aside and only {step.name!r} is done again"
        )

    def progress(self, step: Step, done: int, total: int) -> None:
        """Move the bar."""
        self.running[step.key] = done / max(total, 1) * self._weight(step)
        worked = self.done + sum(self.running.values())
        now = f"{len(self.running)} running: {step.name} {done}/{total}"
        left = self._left(worked)
        if self.bar is not None:
            self.bar.update(self.task, completed=worked, now=now, left=left)
        elif time.monotonic() - self.last_plain > PLAIN_EVERY_S:
            self.last_plain = time.monotonic()
            self.say(f"{worked / self.total:4.0%}  {left}  {now}")

    def finished(self, step: Step, record: Mapping[str, Any], seconds: float) -> None:
        """Print a line for the finished step."""
        self.running.pop(step.key, None)
        self.done += self._weight(step)
        parts = []
        if "sparsity" in record:
            parts.append(f"{record['kept']:,} of {record['prunable']:,} kept")
        if "validation_score" in record:
            parts.append(f"validation {record['validation_score']:.4f}")
        if "test_score" in record:
            parts.append(f"test {record['test_score']:.4f}")
        self.say(f"done: {step.name:<44} {', '.join(parts)} ({say_seconds(seconds)})")

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(printable(text), markup=False, soft_wrap=True)
        sys.stderr.flush()

    def _left(self, worked: float) -> str:
        elapsed = time.monotonic() - self.started
        if worked < 0.01 * self.total or elapsed < 5:
            return ""
        return f"about {say_seconds(elapsed * (self.total - worked) / worked)} left"

    @staticmethod
    def _weight(step: Step) -> float:
        # A step without training still counts for something, or the bar would stand still.
        return max(weight(step), 1.0)
