"""Reading and writing files so that nothing is ever half-written; torch-free."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ticketry.errors import RunError, StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission was denied; choose a folder that you may write to",
    errno.EPERM: "permission was denied; choose a folder that you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file of that name exists; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` about ``path`` into one clear :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(
            f"cannot write {path}: {reason}, then run the same command again; "
            "what was finished is kept."
        ) from error


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pretty_json(value: Any) -> bytes:
    """Serialise for people and for hashing: sorted keys, two spaces, a final newline, no NaN."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably: a reader sees the old bytes or the new, never a mix."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; results are to be shared like any other file.
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as pretty JSON, atomically."""
    write_bytes(path, pretty_json(value))


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: what the file is, for the message.

    Raises:
        RunError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{what} is missing: expected {path}.") from error
    except (ValueError, RecursionError, OSError) as error:
        raise RunError(f"{what} at {path} cannot be read: {error}.") from error


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Read a file that a stranger may have made.

    Args:
        path: the file; links are followed.
        most_bytes: more is refused, and so is more than half of this machine's memory.

    Raises:
        ValueError: not a regular file (opening a pipe or a device may never end), or too large.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    most_bytes = most_here(most_bytes)
    if status.st_size > most_bytes:
        raise ValueError(f"it has {status.st_size:,} bytes; at most {most_bytes:,} are read")
    try:
        return path.read_bytes()
    except MemoryError as error:
        raise ValueError(f"there is no memory for its {status.st_size:,} bytes") from error


def most_here(most_bytes: int) -> int:
    """Return how many bytes are read at most: half of this machine's memory, if that is less."""
    return min(most_bytes, _memory_bytes() // 2)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not told here
        return 1 << 62


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files so that it appears whole; an older one of that name is replaced.

    Args:
        path: the folder to write.
        files: relative POSIX path -> content.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            for name, data in files.items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            swap_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


_MOST_SWAPS = 100
"""Tries to win against other writers of one folder."""


def swap_folder(new: Path, path: Path) -> None:
    """Put the folder ``new`` in the place of ``path`` (renames within one file system)."""
    for attempt in range(_MOST_SWAPS):
        old = None
        if path.exists() or path.is_symlink():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            with contextlib.suppress(FileNotFoundError):  # another writer has moved it
                path.replace(old / "was")
        try:
            new.replace(path)
            return
        except OSError as error:  # another writer has put its own there meanwhile
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not taken or attempt + 1 == _MOST_SWAPS:
                raise
        finally:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
