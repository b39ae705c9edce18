"""A real run with workers, killed at random instants and continued, ends as if undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

SEED = 20260
KILLS = 5


def command(model: Path, data: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "ticketry.cli", "find", "--model", str(model), "--data", str(data),
        "--text-column", "review", "--label-column", "verdict", "--sparsity", "0.4",
        "--levels", "2", "--replicates", "2", "--recipe", "paper", "--epochs", "6",
        "--batch-size", "8", "--learning-rate", "0.005", "--max-length", "16", "--workers", "2",
        "--out", str(out), "--json",
    ]  # fmt: skip


def results(out: Path) -> tuple[bytes, dict[str, object]]:
    folder = out / "ticket"
    evidence = json.loads((folder / "ticket_evidence.json").read_text())
    evidence.pop("command")  # names the folder
    return (folder / "ticket_mask.safetensors").read_bytes(), evidence


def test_kill_minus_nine_at_any_instant(tiny_model: Path, reviews: Path, tmp_path: Path) -> None:
    undisturbed = subprocess.run(
        command(tiny_model, reviews, tmp_path / "a"), capture_output=True, text=True, check=False
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    # Nothing but one JSON object on standard output.
    assert json.loads(undisturbed.stdout)["evidence"]["sparsity"] > 0.39
    steps = undisturbed.stderr.count("done:")
    assert steps > KILLS

    draw = random.Random(SEED)
    longest, folder, caught = 1.0, tmp_path / "b", 0
    while caught < KILLS:
        run = subprocess.Popen(
            command(tiny_model, reviews, folder),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert run.stderr is not None
        # At most one step is waited for, so that there are steps left to kill.
        awaited = draw.choice(["Plan:", "done:"])
        for line in run.stderr:
            if line.startswith(awaited):
                break
        time.sleep(draw.uniform(0, longest))
        if run.poll() is None:
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            caught += 1
        else:  # a fast machine was done before: what is left to kill is a run in a new folder
            assert run.returncode == 0, run.stderr.read()
            assert results(tmp_path / "a") == results(folder)
            longest, folder = longest / 2, folder.with_name(folder.name + "b")
            assert longest > 0.001, f"{caught} runs were caught alive (seed {SEED})"
        run.stderr.close()
    last = subprocess.run(
        command(tiny_model, reviews, folder), capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
    assert results(tmp_path / "a") == results(folder)

    # A finished run returns at once, with the same answer.
    again = subprocess.run(
        command(tiny_model, reviews, folder), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0
    assert "is finished; nothing was done again" in again.stderr


def test_ctrl_c_stops_politely_and_says_how_to_continue(
    tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    run = subprocess.Popen(
        command(tiny_model, reviews, tmp_path / "run"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that runs these tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert run.stderr is not None
    lines = []
    for line in run.stderr:  # until the first training is done
        lines.append(line)
        if line.startswith("done:"):
            break
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, "".join(lines) + err
    assert "interrupted; what was finished is kept, the same command continues." in err
    assert "Traceback" not in err
    assert out == ""
