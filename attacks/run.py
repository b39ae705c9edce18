"""Carry out attacks: python attacks/run.py [--write] [NAME …]; --write puts the log in README."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import data
import models
import runs
import studies
import tickets
from harness import ATTACKS, carry_out, log_lines, shared_artifacts, warm_up

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- log: begin -->\n", "<!-- log: end -->"
PARTS = {
    "Tickets": tickets,
    "Models": models,
    "Data and options": data,
    "Runs and stores": runs,
    "Studies": studies,
}


def log() -> str:
    """Return the log that the attacks themselves state; what they do is shown by running them."""
    parts = []
    for title, module in PARTS.items():
        mine = {n: a for n, a in ATTACKS.items() if a.build.__module__ == module.__name__}
        parts += [f"### {title}", "", *log_lines(mine), ""]
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Carry out the named attacks, or all of them."""
    write = "--write" in arguments
    names = [name for name in arguments if name != "--write"] or list(ATTACKS)
    warm_up()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        (shared := Path(folder) / "shared").mkdir()
        shared_artifacts(shared)
        for name in names:
            (place := Path(folder) / name).mkdir()
            outcome = carry_out(ATTACKS[name], place, shared)
            wrong += not outcome.as_expected
            print(f"{name:<28} {outcome.found:<14} {outcome.seconds:5.1f} s", flush=True)
            if not outcome.as_expected:
                print(outcome.said[-3000:].encode("ascii", "backslashreplace").decode())
    if write and not wrong:
        text = README.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        README.write_text(before + BEGIN + log() + END + after)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
