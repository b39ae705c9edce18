"""Content-addressed outputs of steps: written atomically, found again by key, checked by hash.

    STORE/objects/ab/abcd…/manifest.json    {"key", "files": {name: {"sha256", "bytes"}}, "sha256"}
                          /record.json      what was measured
                          /mask.safetensors …
                          /times.json       seconds; the only file that is not hashed
    STORE/scratch/abcd…/                    a training's checkpoint, removed when its step is done
    STORE/damaged/abcd….N/                  outputs whose hash was wrong, kept for inspection
    STORE/data/SHA.json                     prepared data sets, by their hash
    STORE/locks/abcd….lock                  so that two runs sharing a store train a step once

A step's output exists exactly when its folder does, because the folder is renamed into place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ticketry.config import fingerprint
from ticketry.files import (
    pretty_json,
    replace_folder,
    sha256_bytes,
    sha256_file,
    storage_errors,
    write_bytes,
)

MANIFEST = "manifest.json"
TIMES = "times.json"
RECORD = "record.json"


@dataclass(frozen=True)
class Damage:
    """A stored file that is not what was written."""

    key: str
    file: Path
    reason: str


class Store:
    """A folder of step outputs.

    Args:
        root: the store's folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Return where the output of ``key`` lies or would lie."""
        return self.root / "objects" / key[:2] / key

    def has(self, key: str) -> bool:
        """Say whether the output of ``key`` exists; its content is checked on reading."""
        return (self.folder(key) / MANIFEST).exists()

    def write(self, key: str, files: Mapping[str, bytes], times: Mapping[str, Any]) -> None:
        """Store a step's output; a second writer of the same key changes nothing.

        Args:
            key: the step's key.
            files: file name -> content; hashed into the manifest.
            times: seconds and environment; stored beside, not hashed.
        """
        folder = self.folder(key)
        if self.has(key):
            return
        manifest: dict[str, Any] = {
            "key": key,
            "files": {
                name: {"sha256": sha256_bytes(data), "bytes": len(data)}
                for name, data in files.items()
            },
        }
        manifest["sha256"] = fingerprint(manifest)
        replace_folder(
            folder,
            {**files, TIMES: pretty_json(dict(times)), MANIFEST: pretty_json(manifest)},
        )
        with storage_errors(folder):
            shutil.rmtree(self.scratch(key), ignore_errors=True)

    def check(self, key: str) -> Damage | None:
        """Compare every file of ``key`` with its manifest; return the first that differs."""
        folder = self.folder(key)
        manifest_file = folder / MANIFEST
        try:
            manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
            stated = manifest.pop("sha256")
            files = manifest["files"].items()
            if stated != fingerprint(manifest) or manifest["key"] != key:
                return Damage(key, manifest_file, "its content does not fit its own hash")
            expected = [(folder / name, entry["sha256"]) for name, entry in files]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError):
            return Damage(key, manifest_file, "it cannot be read")
        for path, sha256 in expected:
            try:
                if sha256_file(path) != sha256:
                    return Damage(key, path, "its content does not fit its hash")
            except OSError:
                return Damage(key, path, "it is missing or cannot be read")
        return None

    def set_aside(self, damage: Damage) -> Path:
        """Move a damaged output out of the way, so that its step runs again."""
        parent = self.root / "damaged"
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            number = 0
            while (target := parent / f"{damage.key}.{number}").exists():
                number += 1
            self.folder(damage.key).replace(target)
        return target

    def read(self, key: str, name: str) -> bytes:
        """Return a stored file; callers check the key first with :meth:`check`."""
        return (self.folder(key) / name).read_bytes()

    def record(self, key: str) -> dict[str, Any]:
        """Return a step's record."""
        record: dict[str, Any] = json.loads(self.read(key, RECORD))
        return record

    def times(self, key: str) -> dict[str, Any]:
        """Return a step's times, empty when that unhashed file is unreadable."""
        try:
            times = json.loads(self.read(key, TIMES))
        except (ValueError, OSError):
            return {}
        return times if isinstance(times, dict) else {}

    def scratch(self, key: str) -> Path:
        """Return the folder for a training's checkpoint (not made here)."""
        return self.root / "scratch" / key

    def lock(self, key: str) -> FileLock:
        """Return the lock that a process holds while it works on ``key``."""
        path = self.root / "locks" / f"{key}.lock"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def data_file(self, sha256: str) -> Path:
        """Return where the prepared data set of that hash lies."""
        return self.root / "data" / f"{sha256}.json"

    def write_data(self, sha256: str, content: Mapping[str, Any]) -> None:
        """Keep a prepared data set, so that every worker reads the same bytes."""
        path = self.data_file(sha256)
        if not path.exists():
            write_bytes(path, json.dumps(content, ensure_ascii=False).encode())
