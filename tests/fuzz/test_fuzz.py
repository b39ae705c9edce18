"""Mutated artifacts never crash, hang, take much memory or run code: see fuzz.py.

FUZZ_COUNT and FUZZ_SEED choose how many and which; without a seed each run tries other ones.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

COUNT = int(os.environ.get("FUZZ_COUNT", "100000"))


def test_mutated_artifacts_are_refused_or_valid(capsys) -> None:
    seed = os.environ.get("FUZZ_SEED") or str(random.SystemRandom().randrange(2**31))
    script = Path(__file__).parent / "fuzz.py"
    run = subprocess.run(
        [sys.executable, str(script), str(COUNT), seed], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"repeat with: python tests/fuzz/fuzz.py {COUNT} {seed}\n" + (
        run.stdout[-6000:] + run.stderr[-3000:]
    )
    found = json.loads(run.stdout[run.stdout.index("\n{") :])
    with capsys.disabled():
        print(f"\nfuzz: seed {seed}, {found['count']:,} mutations: {found['totals']}")
    assert set(found["totals"]) == {"refused", "equal", "other valid object"}
    assert sum(found["totals"].values()) == COUNT
    # Every door was reached, and what got past the hashes was read as well.
    doors = {name.split(": ")[0] for name in found["cases"]}
    assert len(doors) == 16 or COUNT < 1_000
    assert found["totals"]["other valid object"] > COUNT / 100
