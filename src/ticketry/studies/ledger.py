"""What a study has measured: one line a finished step, in a file that may be committed.

    OUT/run.json         the plan; written first, never changed
    OUT/contexts.json    what each context was: data, recipe, device, threads, versions
    OUT/records.jsonl    a line a step: its key, what it was, its record, seconds, SHA-256
    OUT/damaged.jsonl    lines that were not what was written; their steps are done again
    OUT/masks/           masks that may be read again, where they are kept (masks.py)
    OUT/summary.json     what follows from the records
    OUT/summary.md       the same for people

Masks and weights lie in the store, which is not committed: a record is enough for every number of a
study, and a mask that is needed again is found again by the same search.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ticketry.config import canonical_json, fingerprint
from ticketry.errors import RunError
from ticketry.files import read_regular, storage_errors, write_bytes
from ticketry.forms import Number, faults_of
from ticketry.recordform import FORMS
from ticketry.steps import Step
from ticketry.studies.predictions import pack, unpack

RECORDS_FILE = "records.jsonl"
DAMAGED_FILE = "damaged.jsonl"
_MOST_BYTES = 4 << 30
_LINE = {
    "key": str,
    "name": str,
    "kind": str,
    "context": str,
    "params": dict,
    "record": dict,
    "seconds": Number(),
    "environment": {...: (str, Number(), bool, type(None))},
}


class Ledger:
    """The records of a study, by step key.

    Args:
        out: the study's folder.

    Raises:
        RunError: the file cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / RECORDS_FILE
        self.lines: dict[str, dict[str, Any]] = {}
        self.damaged: list[str] = []
        if not self.path.exists():
            return
        try:
            content = read_regular(self.path, _MOST_BYTES)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path} cannot be read: {error}.") from error
        for raw in content.split(b"\n"):
            if not raw.strip():
                continue
            line = _intact(raw)
            if line is None:
                self.damaged.append(raw.decode(errors="replace"))
            else:
                self.lines[line["key"]] = line

    def __contains__(self, key: str) -> bool:
        return key in self.lines

    def record(self, key: str) -> dict[str, Any]:
        """Return what a step measured."""
        record: dict[str, Any] = self.lines[key]["record"]
        return record

    def predictions(self, key: str) -> list[Any]:
        """Return a fine-tuning's predictions on the test split.

        Raises:
            RunError: they are not as they were written.
        """
        try:
            return unpack(self.record(key)["predictions"])
        except (ValueError, TypeError) as error:
            raise RunError(
                f"the predictions of {self.lines[key]['name']!r} cannot be read ({error}); delete "
                f"its line in {self.path} and run the same command again."
            ) from error

    def seconds(self) -> Iterable[tuple[dict[str, Any], float]]:
        """Return each line with the seconds its step took."""
        return [(line, float(line["seconds"])) for line in self.lines.values()]

    def set_aside(self) -> int:
        """Move damaged lines to a file of their own, so that only their steps are done again."""
        if not self.damaged:
            return 0
        aside = self.path.with_name(DAMAGED_FILE)
        before = aside.read_bytes() if aside.exists() else b""
        write_bytes(aside, before + "".join(f"{line}\n" for line in self.damaged).encode())
        write_bytes(
            self.path, "".join(f"{canonical_json(line)}\n" for line in self.lines.values()).encode()
        )
        count, self.damaged = len(self.damaged), []
        return count

    def add(
        self,
        step: Step,
        record: Mapping[str, Any],
        seconds: float,
        environment: Mapping[str, Any],
    ) -> None:
        """Append a finished step; the line is on the disk when this returns.

        A line that a crash has torn fails its hash when it is read again.
        """
        line: dict[str, Any] = {
            "key": step.key,
            "name": step.name,
            "kind": step.kind,
            "context": step.context_key,
            "params": dict(step.params),
            "record": _compact(record),
            "seconds": round(seconds, 2),
            "environment": dict(environment),
        }
        line["sha256"] = fingerprint(line)
        self._append(line)

    def adopt(self, other: Ledger, keys: Iterable[str], *, write: bool = True) -> int:
        """Take over what another study measured of the same steps; say how many.

        Args:
            other: the other study's records.
            keys: of this study's steps.
            write: whether they are written here as well, or only counted as done.
        """
        found = [key for key in keys if key in other and key not in self]
        for key in found:
            if write:
                self._append(other.lines[key])
            self.lines[key] = other.lines[key]
        return len(found)

    def _append(self, line: Mapping[str, Any]) -> None:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.exists() and not _ends_whole(self.path)
            with self.path.open("ab") as file:
                file.write((b"\n" if torn else b"") + canonical_json(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.lines[line["key"]] = dict(line)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _compact(record: Mapping[str, Any]) -> dict[str, Any]:
    if "predictions" not in record:
        return dict(record)
    return {**record, "predictions": pack(record["predictions"])}


def _intact(raw: bytes) -> dict[str, Any] | None:
    """Return a line, or None where it is not what was written or not of its kind's form."""
    try:
        line = json.loads(raw)
        stated = line.pop("sha256")
        if stated != fingerprint(line):
            return None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    form = dict(FORMS.get(line.get("kind"), {}))
    if "predictions" in form:
        form["predictions"] = (str, form["predictions"])
    if faults_of(line, {**_LINE, "record": form}, most=1):
        return None
    return {**line, "sha256": stated}
