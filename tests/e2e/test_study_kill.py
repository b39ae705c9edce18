"""A study that is killed at some instant and started again ends as the undisturbed one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

PLAN = """
study: toy
model: {model}
recipe: {{recipe: paper, epochs: 1, batch_size: 8, max_length: 16}}
tasks:
  a: {{data: {data}, text_column: review, label_column: verdict}}
masks: 2
fine_tunings: 2
sources: a
targets: same
sparsities: [0.2, 0.4]
arms:
  imp: {{method: imp, grid: [0.2, 0.4]}}
controls:
  random-layerwise: {{of: imp}}
"""


def command(plan: Path, out: Path) -> list[str]:
    cli = [sys.executable, "-m", "ticketry.cli", "study", str(plan)]
    return [*cli, "--out", str(out), "--workers", "2"]


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    del found["hours"]
    return found


def test_a_killed_study_goes_on_to_the_same_end(
    tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.format(model=tiny_model, data=reviews))
    whole = subprocess.run(
        command(plan, tmp_path / "whole"), capture_output=True, text=True, check=False
    )
    assert whole.returncode == 0, whole.stderr

    seed = random.randrange(2**32)
    draw = random.Random(seed)
    out = tmp_path / "killed"
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            command(plan, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        wanted = draw.randint(1, 5)
        for line in process.stderr:
            wanted -= line.startswith("done:")
            if wanted <= 0:
                break
        kills += process.poll() is None
        process.kill()
        process.wait()
        process.stderr.close()
    assert kills, f"seed {seed}"
    end = subprocess.run(command(plan, out), capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    assert summary(out) == summary(tmp_path / "whole"), f"seed {seed}"
    keys = [json.loads(line)["key"] for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)), "a step was recorded twice"
    assert not (out / "damaged.jsonl").exists()
