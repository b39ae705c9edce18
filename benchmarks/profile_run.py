"""Where the time of a ticketry run goes, in CPU seconds, part by part.

    python benchmarks/profile_run.py [--train N] [--operators] [--write]

One process with one thread does what a worker does for a ticket's replicate on MiniLM and movies:
start, load, tokenise, build, train under a mask, evaluate, select, store. Parts of a training step
are timed inside the real loop. --operators adds torch.profiler's table of a few steps. CPU seconds
of this process are told, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import write_block

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
SPARSITY = 0.4
OPERATORS_SHOWN = 16


class Clock:
    """CPU seconds by part; an inner part's are not counted to the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._last = time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens meanwhile to ``name``."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Count every call of ``owner.attribute`` to ``name``."""
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*args, **options)

        setattr(owner, attribute, timed)


def starting_seconds() -> float:
    """Return the CPU seconds that a worker needs before its first step."""
    code = (
        "import time, ticketry.kinds, ticketry.training, ticketry.tasks.classification;"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def watch(clock: Clock, workload: Any) -> None:
    """Put the clock around the parts of the training loop."""
    import torch

    from ticketry import enforce, training

    clock.wrap(workload, "loss", "forward and loss")
    clock.wrap(workload, "build", "building models")
    clock.wrap(training.Accelerator, "backward", "backward")
    clock.wrap(training.Accelerator, "clip_grad_norm_", "clipping")
    clock.wrap(torch.optim.AdamW, "step", "optimizer")
    clock.wrap(enforce, "zero_pruned_", "keeping pruned weights zero")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=640, help="training examples")
    parser.add_argument("--evaluate", type=int, default=500, help="examples a split")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    arguments = parser.parse_args()
    clock = Clock()
    clock.seconds["starting a worker (importing libraries)"] = starting_seconds()

    import torch

    from ticketry.config import canonical_json
    from ticketry.core.select import select_global
    from ticketry.maskfile import dump_mask
    from ticketry.models.loading import canonical_parameters, prunable, resolve
    from ticketry.recipes import RECIPES
    from ticketry.store import Store
    from ticketry.tasks.objectives import workload_for
    from ticketry.tasks.registry import load_task
    from ticketry.training import train

    torch.set_num_threads(1)
    recipe = dataclasses.replace(RECIPES["embedded"], epochs=1.0)
    with clock.part("reading the data"):
        data = load_task("movies", split_seed=0, say=print).limited(arguments.train, 0)
        rows = range(0, len(data.test.labels), len(data.test.labels) // arguments.evaluate)
        data = dataclasses.replace(data, test=data.test.take(list(rows)[: arguments.evaluate]))
    with clock.part("loading the base, tokenising"):
        workload = workload_for(resolve("minilm"), data, recipe)
    model = workload.build(0)
    parameters = canonical_parameters(model)
    weights = {name: parameters[name].detach() for name in prunable(model, "encoder")}
    with clock.part("selection"):
        mask = select_global(weights, 1.0 - SPARSITY)
    watch(clock, workload)
    with clock.part("the rest of the loop (batches, schedule, counting)"):
        outcome = train(workload, recipe, seed=1, mask=mask)
    with clock.part("evaluation"):
        workload.evaluate(outcome.model, "test")
    with clock.part("storing"), tempfile.TemporaryDirectory() as folder:
        record = canonical_json(outcome.record()).encode()
        Store(Path(folder)).write("0" * 64, {"record": record, "mask": dump_mask(mask)}, {})

    lines = [
        f"`--train {arguments.train} --evaluate {arguments.evaluate}`: one masked fine-tuning of "
        f"MiniLM, {outcome.steps} steps of {recipe.batch_size} examples and "
        f"{outcome.train_tokens / outcome.train_examples:.1f} tokens an example, and one "
        f"evaluation of {len(data.test.labels)} examples; {recipe.dtype}, one thread, torch "
        f"{torch.__version__}.",
        "",
        "| part | CPU seconds | share |",
        "|---|---|---|",
    ]
    whole = sum(clock.seconds.values())
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {seconds:.2f} | {seconds / whole:.1%} |")
    if arguments.operators:
        lines += operators(workload, recipe, mask)
    print("\n".join(lines))
    if arguments.write:
        write_block(DOCUMENT, "profile_run", lines)
    return 0


def operators(workload: Any, recipe: Any, mask: Any) -> list[str]:
    """Return torch's operators by the CPU time that they took themselves in twelve steps."""
    from torch.profiler import ProfilerActivity, profile

    from ticketry.training import train

    short = dataclasses.replace(
        recipe, epochs=12 * recipe.batch_size / len(workload.data.train.labels)
    )
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(workload, short, seed=1, mask=mask)
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    lines = [
        "",
        "| operator (12 steps) | calls | share of the time in operators |",
        "|---|---|---|",
    ]
    for row in rows[:OPERATORS_SHOWN]:
        lines.append(f"| `{row.key}` | {row.count} | {row.self_cpu_time_total / whole:.1%} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
