"""Mutate valid artifacts and read them: python tests/fuzz/fuzz.py [COUNT [SEED]].

Each case may end in the equal object, in another valid one (its hashes were made right again, so
it is what its author wrote), or in one of ticketry's own input errors. Anything else is a fault:
another exception, more than 2 s, more than 1 GiB of new memory, or a call that a reader never
needs (starting a process, opening a socket, unpickling, compiling).

The seed decides every case; case N of a seed is repeated with FUZZ_ONLY=N.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

LIMIT_S = 2.0
MORE_BYTES = 1 << 30
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
             "socket.connect", "pickle.find_class", "ctypes.dlopen")  # fmt: skip
watching = False


class Forbidden(BaseException):
    """A reader did what no reader needs."""


class TooLong(BaseException):
    """A case went on for too long."""


def _audit(event: str, _: Any) -> None:
    if watching and event in FORBIDDEN:
        raise Forbidden(event)


def _alarm(*_: Any) -> None:
    raise TooLong


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    global watching
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**31)
    print(f"seed {seed}, {count:,} cases", flush=True)
    import torch
    from targets import REFUSED, Targets

    from ticketry.errors import InputError

    torch.set_num_threads(1)
    shared = Path("/dev/shm")
    where = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        targets = Targets(Path(folder))
        targets._use(random.Random(0))  # what is imported late is imported now
        names = list(targets.cases)
        _limit_memory()
        sys.addaudithook(_audit)
        signal.signal(signal.SIGALRM, _alarm)
        weights = [weight for weight, _ in targets.cases.values()]
        outcomes: Counter[str] = Counter()
        faults: list[str] = []
        started = time.monotonic()
        only = os.environ.get("FUZZ_ONLY")
        for number in range(count) if only is None else [int(only)]:
            draw = random.Random(f"{seed}/{number}")
            name = draw.choices(names, weights)[0]
            watching = True
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            try:
                outcome = targets.cases[name][1](draw)
            except InputError:
                outcome = REFUSED
            except BaseException as error:
                outcome = f"FAULT {type(error).__name__}"
                signal.setitimer(signal.ITIMER_REAL, 0)
                if len(faults) < 20:
                    faults.append(f"case {number} ({name}): {traceback.format_exc(limit=-4)}")
                if isinstance(error, KeyboardInterrupt):
                    raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                watching = False
            outcomes[f"{name}: {outcome}"] += 1
    totals: Counter[str] = Counter()
    for name, number in outcomes.items():
        totals[name.split(": ", 1)[1]] += number
    for fault in faults:
        print(fault)
    print(f"{time.monotonic() - started:.1f} s")
    print(json.dumps({"seed": seed, "count": count, "totals": totals,
                      "cases": dict(sorted(outcomes.items()))}, indent=1))  # fmt: skip
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
