"""Hostile run folders and stores."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from harness import (
    HARMLESS,
    OPEN,
    REFUSED,
    Place,
    attack,
    edit_json,
    evil_pickle,
    seal_step,
    steps_of,
)


def unfinished(place: Place) -> Path:
    """A run whose closing record is gone, so that it is continued."""
    run = place.run
    (run / "finished.json").unlink()
    shutil.rmtree(run / "ticket")
    return run


def again(place: Place, run: Path) -> list[str]:
    """Return the command that continues a run."""
    return place.find("--out", str(run))


def _same_mask(place: Place, said: str) -> str | None:
    name = "ticket/ticket_mask.safetensors"
    same = (place.folder / "run" / name).read_bytes() == (place.shared / "run" / name).read_bytes()
    return None if same else "the mask changed"


def _same_scores(place: Place, said: str) -> str | None:
    name = "ticket/ticket_evidence.json"
    found, expected = (
        json.loads((folder / "run" / name).read_text()) for folder in (place.folder, place.shared)
    )
    return None if found["ticket"] == expected["ticket"] else "the scores changed"


@attack(HARMLESS, "it was set aside and only 'ticket, seed 1' is done again", _same_scores)
def edited_record(place: Place) -> list[str]:
    """A stored step whose score was raised: found by its hash, done again alone."""
    run = unfinished(place)
    edit_json(steps_of(run, "ticket, seed 1") / "record.json", lambda r: r.update(test_score=1.0))
    return again(place, run)


@attack(REFUSED, "but its predictions give accuracy")
def forged_score(place: Place) -> list[str]:
    """The same with the hashes made right: the verdict computes every score from its
    predictions."""
    run = unfinished(place)
    step = steps_of(run, "ticket, seed 1")
    edit_json(step / "record.json", lambda r: r.update(test_score=r["test_score"] / 2))
    seal_step(step)
    return again(place, run)


@attack(OPEN, "Report: ")
def forged_predictions(place: Place) -> list[str]:
    """The same with predictions to fit: a store is trusted as far as the disk that it lies on."""
    run = unfinished(place)
    for seed in (1, 2):
        step = steps_of(run, f"ticket, seed {seed}")

        def swap(record: Any) -> None:
            record["predictions"] = [1 - p for p in record["predictions"]]
            record["test_score"] = 1 - record["test_score"]

        edit_json(step / "record.json", swap)
        seal_step(step)
    return again(place, run)


@attack(HARMLESS, "'steps' is '9'; expected a whole number", _same_scores)
def record_of_another_form(place: Place) -> list[str]:
    """A record of wrong types with right hashes: set aside, done again."""
    run = unfinished(place)
    step = steps_of(run, "dense, seed 1")
    edit_json(step / "record.json", lambda r: r.update(steps="9"))
    seal_step(step)
    return again(place, run)


@attack(HARMLESS, "it names the file '../../../../../victim.txt'", _same_mask)
def climbing_manifest(place: Place) -> list[str]:
    """A manifest whose file climbs out of the store."""
    run = unfinished(place)
    step = steps_of(run, "dense, seed 1")
    name = "../../../../../victim.txt"
    edit_json(step / "manifest.json", lambda m: m["files"].update({name: {"sha256": "0"}}))
    manifest = json.loads((step / "manifest.json").read_text())
    from ticketry.config import fingerprint

    del manifest["sha256"]
    (step / "manifest.json").write_text(json.dumps({**manifest, "sha256": fingerprint(manifest)}))
    return again(place, run)


@attack(HARMLESS, "it is not a file of the size that was written", _same_mask)
def pipe_in_the_store(place: Place) -> list[str]:
    """A stored record that is a named pipe, whose opening waits for ever."""
    run = unfinished(place)
    record = steps_of(run, "dense, seed 1") / "record.json"
    record.unlink()
    os.mkfifo(record)
    return again(place, run)


@attack(HARMLESS, "this training starts again from its beginning", _same_scores)
def pickled_checkpoint(place: Place) -> list[str]:
    """A checkpoint that is a pickle, of a training that is to be done again."""
    run = unfinished(place)
    step = steps_of(run, "ticket, seed 1")
    shutil.rmtree(step)
    scratch = run / "store" / "scratch" / step.name
    scratch.mkdir(parents=True)
    (scratch / "checkpoint.safetensors").write_bytes(evil_pickle(place.canary))
    return again(place, run)


@attack(REFUSED, "they are other data than those that this run was prepared for")
def swapped_data(place: Place) -> list[str]:
    """Prepared data in the store that were replaced by others with their own right hash."""
    from ticketry.tasks.base import TaskData

    run = unfinished(place)
    shutil.rmtree(steps_of(run, "ticket, seed 1"))
    (path,) = (run / "store" / "data").glob("*.json")
    content = json.loads(path.read_text())
    content["train"]["labels"] = [1 - label for label in content["train"]["labels"]]
    keys = ("texts", "pairs", "labels")
    from ticketry.tasks.base import Split

    splits = {
        part: Split(*(tuple(content[part][key]) if content[part][key] is not None else None
                      for key in keys))
        for part in ("train", "validation", "test")
    }  # fmt: skip
    forged = TaskData(
        content["name"], content["source"], tuple(content["labels"]), content["metric"],
        content["margin"], splits["train"], splits["validation"], splits["test"],
    )  # fmt: skip
    path.write_text(json.dumps(forged.to_json()))
    return again(place, run)


def _connect(place: Place) -> list[str]:
    """Return a command on the run's ticket, after carrying it out once."""
    from ticketry import connect

    options = {"text_column": "review", "label_column": "verdict", "epochs": 1.0, "max_length": 16}
    data, out = place.shared / "reviews.csv", place.folder / "connected"
    connect(place.run / "ticket", data=str(data), **options, workers=0, out=out)
    flags = [part for name, value in options.items()
             for part in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    ticket = str(place.folder / "run" / "ticket")
    return ["connect", ticket, "--data", str(data), *flags, "--workers", "0", "--out", str(out)]


@attack(REFUSED, "is a pickle or zip archive, not safetensors; it was not opened")
def pickled_end_of_a_line(place: Place) -> list[str]:
    """The weights at an end of a line in `connect`'s store are a pickle, with its right hash."""
    command = _connect(place)
    run = place.folder / "connected"
    (run / "finished.json").unlink()
    shutil.rmtree(steps_of(run, "ticket, between seeds 1 and 2"))
    step = steps_of(run, "ticket, noise of seed 1")
    (step / "weights.safetensors").write_bytes(evil_pickle(place.canary))
    seal_step(step)
    return command


@attack(REFUSED, "'arms.ticket.barrier' is 'none'; expected a finite number")
def connectivity_of_another_form(place: Place) -> list[str]:
    """A finished record of `connect` with wrong types, and its right hash."""
    from ticketry.files import sha256_file

    command = _connect(place)
    record = place.folder / "connected" / "connectivity.json"
    edit_json(record, lambda r: r["arms"]["ticket"].update(barrier="none"))
    edit_json(
        record.with_name("finished.json"),
        lambda f: f["files"].update({record.name: sha256_file(record)}),
    )
    return command


@attack(REFUSED, "--out cannot be used")
def lock_that_is_a_link(place: Place) -> list[str]:
    """A lock file that is a link to a file of the victim's: not opened, not emptied."""
    run = unfinished(place)
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").symlink_to(place.victim)
    return again(place, run)


@attack(HARMLESS, "Report: ", _same_mask)
def lock_of_a_dead_process(place: Place) -> list[str]:
    """A lock file that a killed process left: nobody holds it."""
    run = unfinished(place)
    (run / ".lock").write_text("99999999")
    return again(place, run)


@attack(REFUSED, "is not empty and is no ticketry run")
def out_is_a_link(place: Place) -> list[str]:
    """An --out that is a link to a folder of something else."""
    home = place.folder / "home"
    home.mkdir()
    (home / "diary.txt").write_text("private")
    (place.folder / "out").symlink_to(home)
    return place.find("--out", str(place.folder / "out"))


def _untouched(place: Place, said: str) -> str | None:
    home = place.folder / "home"
    return None if [p.name for p in home.iterdir()] == ["diary.txt"] else "a folder was changed"


@attack(REFUSED, "is not empty and holds no ticket; nothing was written", _untouched)
def ticket_that_is_a_link(place: Place) -> list[str]:
    """A run folder whose ticket is a link to a folder of something else."""
    run = unfinished(place)
    home = place.folder / "home"
    home.mkdir()
    (home / "diary.txt").write_text("private")
    (run / "ticket").symlink_to(home)
    return again(place, run)


@attack(HARMLESS, "Report: ", _same_mask)
def report_that_is_a_link(place: Place) -> list[str]:
    """A run folder whose report is a link to a file of the victim's: the link is replaced, not
    followed."""
    run = unfinished(place)
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(place.victim)
    return again(place, run)


@attack(OPEN, "Report: ")
def store_that_is_a_link(place: Place) -> list[str]:
    """A run folder whose store is a link elsewhere: followed, as a --store on another disk is; new
    outputs land there."""
    run = unfinished(place)
    (run / "store").rename(place.folder / "elsewhere")
    (run / "store").symlink_to(place.folder / "elsewhere")
    return again(place, run)


@attack(REFUSED, "cannot be read")
def deep_run_file(place: Place) -> list[str]:
    """A run.json of a million brackets."""
    run = unfinished(place)
    (run / "run.json").write_text("[" * 1_000_000)
    return again(place, run)
