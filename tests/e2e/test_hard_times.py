"""A full disk, two writers, a clock that goes back: the same bytes in the end, or one message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ticketry import find
from ticketry.errors import RunError, StorageError

OPTIONS: dict[str, Any] = {
    "text_column": "review", "label_column": "verdict", "sparsity": 0.4, "levels": 2,
    "replicates": 2, "controls": "none", "recipe": "paper", "epochs": 2.0, "batch_size": 16,
    "learning_rate": 0.005, "max_length": 16,
}  # fmt: skip


def carry_out(model: Path, data: Path, out: Path, **more: Any) -> dict[str, Any]:
    find(str(model), data=str(data), out=out, workers=0, **OPTIONS, **more)
    return results(out)


def results(out: Path) -> dict[str, Any]:
    evidence = json.loads((out / "ticket" / "ticket_evidence.json").read_bytes())
    del evidence["command"]  # names the folder
    return {"mask": (out / "ticket" / "ticket_mask.safetensors").read_bytes(), **evidence}


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    options = [
        part
        for name, value in OPTIONS.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [
        sys.executable, "-m", "ticketry.cli", "find", "--model", str(model), "--data", str(data),
        *options, "--workers", "1", "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return carry_out(tiny_model, reviews, tmp_path_factory.mktemp("calm") / "run")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("a small tmpfs cannot be mounted here (it takes root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_disk_that_is_full_again_and_again(
    tiny_model: Path, reviews: Path, disk: Path, undisturbed: dict[str, Any]
) -> None:
    said = []
    for size in ("16k", "48k", "96k", "128k", "160k", "200k", "240k"):
        resize(disk, size)
        try:
            carry_out(tiny_model, reviews, disk / "run")
        except (StorageError, RunError) as error:
            said.append(str(error))
        hidden = [path for path in disk.rglob(".*") if path.name != ".lock"]
        assert hidden == [], "something half-written was left behind"
    assert all("the disk is full; free some space" in message for message in said), said
    assert len(said) >= 3, "the disk was not full often enough for this test to mean something"
    resize(disk, "64m")
    assert carry_out(tiny_model, reviews, disk / "run") == undisturbed


def test_a_second_writer_is_refused_and_harms_nothing(
    tiny_model: Path, reviews: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    first = subprocess.Popen(
        command(tiny_model, reviews, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (out / "plan.json").exists() and first.poll() is None:
        time.sleep(0.02)
    with pytest.raises(RunError, match=r"another ticketry process is at work in .*; nothing was"):
        carry_out(tiny_model, reviews, out)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 0, said
    assert results(out) == undisturbed


def test_two_runs_that_share_a_store_train_a_step_once(
    tiny_model: Path, reviews: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    store = tmp_path / "store"
    both = [
        subprocess.Popen(
            command(tiny_model, reviews, tmp_path / name, "--store", str(store)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    for run in both:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    assert results(tmp_path / "a") == results(tmp_path / "b") == undisturbed
    steps = json.loads((tmp_path / "a" / "plan.json").read_text())["steps"]
    assert len(list((store / "objects").glob("*/*"))) == len(steps)
    assert not (store / "damaged").exists()


def test_a_clock_that_goes_back(
    tiny_model: Path,
    reviews: Path,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = tmp_path / "bert", tmp_path / "reviews.csv"
    shutil.copytree(tiny_model, model)
    shutil.copy(reviews, data)
    for path in (data, *model.iterdir()):  # written in the year 2100
        os.utime(path, (4_102_444_800, 4_102_444_800))
    calls = [0]
    real = time.time

    def back() -> float:
        calls[0] += 1
        return real() - 3600.0 * calls[0]

    monkeypatch.setattr(time, "time", back)
    found = carry_out(model, data, tmp_path / "run")
    shown = {"base", "data"}  # they name the folder
    drop = {name: value for name, value in found.items() if name not in shown}
    assert drop == {name: value for name, value in undisturbed.items() if name not in shown}
    before = (tmp_path / "run" / "times.json").read_bytes()
    assert carry_out(model, data, tmp_path / "run") == found
    assert (tmp_path / "run" / "times.json").read_bytes() == before  # it was finished already
