"""A run's folder: whose it is, who works in it, and whether it is finished. Torch-free.

OUT/run.json        the spec; written first, never changed
OUT/plan.json       the steps with their keys and costs
OUT/store/          outputs of steps (unless --store names another folder)
OUT/ticket/         the ticket
OUT/report.html     the report
OUT/model/          the fine-tuned sparse model, with --keep-model
OUT/times.json      seconds and environment; not hashed
OUT/finished.json   SHA-256 of the files above; written last
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ticketry.config import canonical_json
from ticketry.errors import RunError, RunLockedError, RunMismatchError, StorageError
from ticketry.files import sha256_file, storage_errors, write_json
from ticketry.store import Store

RUN_FILE = "run.json"
PLAN_FILE = "plan.json"
FINISHED_FILE = "finished.json"
TIMES_FILE = "times.json"
REPORT_FILE = "report.html"
MODEL_FOLDER = "model"
TICKET_FOLDER = "ticket"
LOCK_FILE = ".lock"


@contextlib.contextmanager
def open_run(out: Path, spec: Mapping[str, Any]) -> Iterator[Path]:
    """Hold a run's folder for one process.

    Args:
        out: the folder; made when it does not exist.
        spec: what decides the result, as JSON values.

    Raises:
        RunMismatchError: the folder is another configuration's; says what differs.
        RunLockedError: another process is at work in it.
        RunError: it holds something that is not a run, or it cannot be written.
    """
    check_run(out, spec)
    lock = _take_lock(out)
    try:
        check_run(out, spec)
        if not (out / RUN_FILE).exists():
            write_json(out / RUN_FILE, spec)
        yield out
    finally:
        lock.release()


def _take_lock(out: Path) -> FileLock:
    lock = FileLock(out / LOCK_FILE, timeout=0)
    try:
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:  # an OSError too, but no fault of the disk
                raise RunLockedError(
                    f"another ticketry process is at work in {out}; nothing was changed. "
                    "Wait for it to end, or give another --out."
                ) from error
    except StorageError as error:
        # A folder that was never writable is a fault of --out, not of a run under way.
        raise RunError(f"--out cannot be used: {error}") from error
    return lock


def check_run(out: Path, spec: Mapping[str, Any]) -> None:
    """Refuse a folder that is another configuration's or holds something else."""
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out} is a file; expected a folder, or a path that is free.")
    if not out.is_dir():
        return
    path = out / RUN_FILE
    if not path.exists():
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if others:
            raise RunError(
                f"--out {out} is not empty and is no ticketry run (it holds {others[0]!r}); "
                "nothing was changed. Give a new folder."
            )
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read ({error}), so whose run this is cannot be told. "
            "Give another --out, or delete that file if you are sure that the command is the same."
        ) from error
    wanted = json.loads(canonical_json(spec))
    if found != wanted:
        differences = _differences(found, wanted)
        raise RunMismatchError(
            f"{out} holds a run of another configuration; nothing was changed. It differs in:\n"
            + "\n".join(f"  - {line}" for line in differences)
            + "\nGive another --out, or the options of that run."
        )


def _differences(found: Any, wanted: Any, at: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines: list[str] = []
        for name in sorted({*found, *wanted}):
            path = f"{at}.{name}" if at else name
            lines += _differences(found.get(name), wanted.get(name), path)
        return lines
    if found == wanted:
        return []
    return [f"{at or 'the whole file'}: there {json.dumps(found)}, here {json.dumps(wanted)}"]


def input_stamps(paths: Sequence[Path]) -> list[list[Any]]:
    """Return path, size and modification time of the files that a run reads."""
    stamps: list[list[Any]] = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            stat = path.stat()
            stamps.append([str(path), stat.st_size, stat.st_mtime_ns])
    return stamps


def finish_run(
    out: Path, store: Store, keys: Sequence[str], files: Sequence[Path], inputs: Sequence[Path]
) -> None:
    """Record that a run is whole, with the hashes by which that can be checked at once."""
    write_json(
        out / FINISHED_FILE,
        {
            "files": {path.relative_to(out).as_posix(): sha256_file(path) for path in files},
            "steps": list(keys),
            "store": str(store.root.absolute()),
            "inputs": input_stamps(inputs),
        },
    )


def is_finished(out: Path, store: Store) -> bool:
    """Say whether a finished run is still whole: results, stored steps and inputs unchanged."""
    try:
        finished = json.loads((out / FINISHED_FILE).read_text(encoding="utf-8"))
        same_files = all(
            sha256_file(out / name) == sha256 for name, sha256 in finished["files"].items()
        )
        inputs = finished["inputs"]
        return (
            same_files
            and finished["store"] == str(store.root.absolute())
            and input_stamps([Path(entry[0]) for entry in inputs]) == inputs
            and all(store.check(key) is None for key in finished["steps"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False
