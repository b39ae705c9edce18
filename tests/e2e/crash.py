"""Kill a real run at random instants, continue it, and compare its end with an undisturbed one.

    python tests/e2e/crash.py [KILLS [SEED]]

This process imports torch and ticketry once and forks a child for each attempt, which carries out
`ticketry.find(…, workers=0)` on a tiny BERT. A child dies by SIGKILL in one of two ways: after a
random time, or at its n-th write to the file system (a file opened for writing, renamed, removed
or a folder made), n random, so that instants inside a write are met. When an attempt ends by
itself the run is compared, and the next one begins in a new folder.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree")
LIMIT_S = 120.0


def options(shared: Path, out: Path) -> dict[str, Any]:
    """A run of eight trainings and two masks, a few tenths of a second each."""
    return {
        "model": str(shared / "bert"), "data": str(shared / "reviews.csv"), "out": out,
        "text_column": "review", "label_column": "verdict", "sparsity": 0.4, "levels": 2,
        "replicates": 2, "controls": "oneshot-theta0", "recipe": "paper", "epochs": 2.0,
        "batch_size": 16, "learning_rate": 0.005, "max_length": 16, "workers": 0,
    }  # fmt: skip


def results(out: Path) -> dict[str, bytes]:
    """The ticket's files; the command in evidence and card names the folder."""
    return {
        path.name: path.read_bytes().replace(out.name.encode(), b"OUT")
        for path in sorted((out / "ticket").iterdir())
        if path.name in ("ticket_mask.safetensors", "ticket_evidence.json")
    }


def die_at_write(number: int, *, of_results: bool) -> None:
    """Kill this process at its ``number``-th write to the file system from now.

    Args:
        number: from 1 up.
        of_results: count what steps and the run leave; not checkpoints, which are most writes of so
            small a run, nor folders made.
    """
    left = number

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 else 0
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in WRITES:
            return
        if of_results and (event == "os.mkdir" or "/scratch/" in str(arguments[0])):
            return
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def attempt(
    shared: Path,
    out: Path,
    *,
    at_write: int | None = None,
    of_results: bool = False,
    after_s: float | None = None,
) -> str:
    """Fork a child that carries out the run; return how it ended."""
    from ticketry import find

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if at_write is not None:
                die_at_write(at_write, of_results=of_results)
            find(**options(shared, out))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + (after_s if after_s is not None else LIMIT_S)
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "finished", -signal.SIGKILL: "killed in a write"}.get(code, f"failed {code}")
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        return "finished"
    return "killed by the clock" if after_s is not None else "hung"


def shorten() -> None:
    """Make more of a run's time count.

    Checkpoints are written every few steps instead of every ten minutes; and the page, whose
    drawings take three quarters of so small a run and come after all that is compared, is written
    without them.
    """
    import ticketry.outcome
    import ticketry.training
    from ticketry.files import write_bytes

    ticketry.training.train.__kwdefaults__["checkpoint_every_s"] = 0.02
    ticketry.outcome.write_report = lambda path, **_: write_bytes(path, b"no drawings")


def main() -> int:
    """Kill until there were enough kills."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**31)
    print(f"seed {seed}, {wanted} kills", flush=True)
    draw = random.Random(seed)
    import torch

    from ticketry import find
    from tiny import reviews_csv, tiny_bert

    torch.set_num_threads(1)
    shorten()
    counts: Counter[str] = Counter()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        shared = Path(folder)
        tiny_bert(shared / "bert")
        reviews_csv(shared / "reviews.csv", 80)
        started = time.monotonic()
        # In this process, so that children find every import and cache warm.
        find(**options(shared, shared / "undisturbed"))
        again = time.monotonic()
        find(**options(shared, shared / "again"))
        length_s = time.monotonic() - again
        expected = results(shared / "undisturbed")
        number = kills = 0
        while kills < wanted:
            out = shared / f"run-{number:08d}"
            how = draw.random()
            if how < 0.4:
                end = attempt(shared, out, after_s=draw.uniform(0.05, 0.9) * length_s)
            else:
                end = attempt(shared, out, at_write=draw.randint(1, 60), of_results=how < 0.8)
            counts[end] += 1
            if end.startswith("killed"):
                kills += 1
                continue
            if end != "finished":
                print(f"attempt {sum(counts.values())} {end}")
                return 1
            if results(out) != expected:
                print(f"run {number} ended with other bytes than the undisturbed one")
                return 1
            counts["compared, equal"] += 1
            shutil.rmtree(out)
            number += 1
        # The last run is continued to its end, so that no kill stays uncompared.
        if out.exists():
            end = attempt(shared, out)
            if end != "finished" or results(out) != expected:
                print(f"the last run {end}, or ended with other bytes")
                return 1
            counts["compared, equal"] += 1
        print(f"{time.monotonic() - started:.1f} s")
    print(json.dumps({"seed": seed, "kills": kills, "counts": counts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
