"""Content-addressed outputs of steps: written atomically, found again by key, checked by hash.

    STORE/objects/ab/abcd…/manifest.json    {"key", "files": {name: {"sha256", "bytes"}}, "sha256"}
                          /record.json      what was measured
                          /mask.safetensors …
                          /times.json       seconds; the only file that is not hashed
    STORE/scratch/abcd…/                    a training's checkpoint, removed when its step is done
    STORE/damaged/abcd….N/                  outputs whose hash was wrong, kept for inspection
    STORE/data/SHA.json                     prepared data sets, by their hash
    STORE/locks/abcd….lock                  so that two runs sharing a store train a step once
    STORE/brought/abcd….safetensors         the mask of a step whose other outputs are not here

A step's output exists exactly when its folder does, because the folder is renamed into place.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from ticketry.config import fingerprint
from ticketry.errors import RunError
from ticketry.files import (
    pretty_json,
    read_regular,
    replace_folder,
    sha256_bytes,
    sha256_file,
    storage_errors,
    write_bytes,
)
from ticketry.tasks.base import is_referred

MANIFEST = "manifest.json"
TIMES = "times.json"
RECORD = "record.json"
_MOST_MANIFEST_BYTES = 16 << 20


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
            manifest = json.loads(read_regular(manifest_file, _MOST_MANIFEST_BYTES))
            stated = manifest.pop("sha256")
            files = manifest["files"].items()
            if stated != fingerprint(manifest) or manifest["key"] != key:
                return Damage(key, manifest_file, "its content does not fit its own hash")
            if RECORD not in manifest["files"]:
                return Damage(key, manifest_file, f"it names no {RECORD}")
            if strange := [name for name, _ in files if not _plain(name)]:
                return Damage(key, manifest_file, f"it names the file {strange[0][:60]!r}")
            expected = [(folder / name, entry["sha256"], entry["bytes"]) for name, entry in files]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError):
            return Damage(key, manifest_file, "it cannot be read")
        for path, sha256, size in expected:
            try:
                # Opening a pipe or a device may never end, so what it is comes first.
                status = path.stat()
                if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                    return Damage(key, path, "it is not a file of the size that was written")
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
        """Return a stored file; callers check the key first with :meth:`check`.

        Raises:
            RunError: it cannot be read.
        """
        try:
            return (self.folder(key) / name).read_bytes()
        except OSError as error:
            raise RunError(
                f"{name} of the stored step {key[:12]} cannot be read ({error.strerror}); delete "
                f"{self.folder(key)} and run the same command again."
            ) from error

    def record(self, key: str) -> dict[str, Any]:
        """Return a step's record."""
        record: dict[str, Any] = json.loads(self.read(key, RECORD))
        return record

    def times(self, key: str) -> dict[str, Any]:
        """Return a step's times, empty when that unhashed file is unreadable."""
        try:
            times = json.loads(self.read(key, TIMES))
        except (ValueError, RunError, RecursionError):
            return {}
        return times if isinstance(times, dict) else {}

    def scratch(self, key: str) -> Path:
        """Return the folder for a training's checkpoint (not made here)."""
        return self.root / "scratch" / key

    def bring_mask(self, key: str, data: bytes) -> None:
        """Keep the mask of a step that was made elsewhere; its other outputs are not here."""
        write_bytes(self._brought(key), data)

    def has_mask(self, key: str) -> bool:
        """Say whether the mask of ``key`` can be read, as its output's part or brought along."""
        return self.has(key) or self._brought(key).exists()

    def read_mask(self, key: str, name: str) -> bytes:
        """Return the mask file of ``key``; its content is checked by who decodes it.

        Raises:
            RunError: it cannot be read.
        """
        if not self.has(key) and (brought := self._brought(key)).exists():
            with storage_errors(brought):
                return brought.read_bytes()
        return self.read(key, name)

    def _brought(self, key: str) -> Path:
        return self.root / "brought" / f"{key}.safetensors"

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
        train = content.get("train")  # a joint task's texts stand in its parts; none is a picture
        # Equal data may say of other places where their pictures lie: the last ones are there.
        places = train is not None and any(map(is_referred, train["texts"][:1]))
        if places or not path.exists():
            write_bytes(path, json.dumps(content, ensure_ascii=False).encode())


def _plain(name: str) -> bool:
    """Say whether a manifest's name stays inside its step's folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name
