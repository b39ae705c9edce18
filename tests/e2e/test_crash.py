"""A run killed at 200 random instants ends as an undisturbed one: see crash.py.

CRASH_KILLS and CRASH_SEED choose how many and which.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

KILLS = int(os.environ.get("CRASH_KILLS", "200"))


def test_a_run_killed_at_random_instants_ends_as_if_undisturbed(capsys) -> None:
    seed = os.environ.get("CRASH_SEED") or str(random.SystemRandom().randrange(2**31))
    script = Path(__file__).with_name("crash.py")
    run = subprocess.run(
        [sys.executable, str(script), str(KILLS), seed], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"repeat with: python {script.name} {KILLS} {seed}\n" + (
        run.stdout[-3000:] + run.stderr[-6000:]
    )
    found = json.loads(run.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\ncrash: seed {seed}, {found['kills']} kills: {found['counts']}")
    assert found["kills"] >= KILLS
    assert found["counts"]["killed in a write"] > 0
    assert found["counts"]["killed by the clock"] > 0
    assert found["counts"]["compared, equal"] > 0
