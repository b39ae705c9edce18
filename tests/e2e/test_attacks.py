"""Every attack of attacks/README.md ends as the log says, and the log says every attack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ATTACKS = Path(__file__).parents[2] / "attacks"


def test_every_attack_ends_as_the_log_says() -> None:
    # A process of its own: it forks a child for each attack, which test workers must not.
    run = subprocess.run(
        [sys.executable, str(ATTACKS / "run.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-3000:]
    lines = [line for line in run.stdout.splitlines() if line.endswith(" s")]
    assert len(lines) > 50


def test_the_log_is_what_the_attacks_state() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import run; print(run.log(), end='')"
    stated = subprocess.run(
        [sys.executable, "-c", code, str(ATTACKS)], capture_output=True, text=True, check=True
    ).stdout
    readme = (ATTACKS / "README.md").read_text()
    said = readme.split("<!-- log: begin -->\n")[1].split("<!-- log: end -->")[0]
    assert said == stated, "run: python attacks/run.py --write"
