"""A ticket's folder, read with distrust: links, sizes, names and hashes are checked; torch-free."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ticketry.errors import TicketError
from ticketry.files import read_regular, sha256_bytes
from ticketry.ticketform import CONFIG, EVIDENCE, check_form

FORMAT = "ticketry-ticket"
FORMAT_VERSION = 1
REWIND_VERSION = 2
"""Of a ticket that carries weights to start from; without these, nothing changed since 1."""
CONFIG_FILE = "ticket_config.json"
MASK_FILE = "ticket_mask.safetensors"
EVIDENCE_FILE = "ticket_evidence.json"
REWIND_FILE = "ticket_rewind.safetensors"
CARD_FILE = "README.md"
MOST_BYTES: Mapping[str, int] = {
    CONFIG_FILE: 64 << 20,
    EVIDENCE_FILE: 256 << 20,
    MASK_FILE: 64 << 30,
    REWIND_FILE: 1 << 40,
    CARD_FILE: 16 << 20,
}
"""Every file of a ticket, and the most bytes of it that are read."""

_HASHED = (MASK_FILE, EVIDENCE_FILE, REWIND_FILE)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_folder(root: Path, revision: str | None, subfolder: str | None) -> Path:
    """Return the folder that holds a ticket's files.

    Args:
        root: a local folder; one of the hub's cache (``models--USER--NAME``) leads to a snapshot.
        revision: of such a cache folder, by default ``main``.
        subfolder: inside the folder.

    Raises:
        TicketError: the snapshot is not there, or the subfolder climbs out.
    """
    root = root.resolve()
    if root.name.startswith("models--") and (root / "snapshots").is_dir():
        root = _snapshot(root, revision or "main")
    elif revision is not None:
        raise TicketError(
            f"the revision {revision!r} was given for the folder {root}, which has none; drop it."
        )
    if subfolder is None:
        return root
    check_subfolder(subfolder)
    return inside(root, subfolder)


def _snapshot(repository: Path, revision: str) -> Path:
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = inside(repository / "refs", revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            commit = ""
    folder = repository / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not folder.is_dir():
        raise TicketError(
            f"{repository} is a folder of the hub's cache, without a snapshot of the revision "
            f"{revision!r}. Name a commit that lies in its snapshots, or fetch it again."
        )
    return folder


def check_subfolder(subfolder: str) -> None:
    """Refuse a subfolder that is no plain relative path."""
    path = PurePosixPath(subfolder)
    if path.is_absolute() or ".." in path.parts or "\\" in subfolder:
        raise TicketError(
            f"the subfolder {subfolder!r} climbs out of the ticket's folder; it was not opened."
        )


def inside(root: Path, name: str) -> Path:
    """Return the path ``name`` under ``root``, refused if it leads out of it."""
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise TicketError(f"{name!r} climbs out of the ticket's folder; it was not opened.")
    return path


def check_target(folder: Path) -> None:
    """Refuse to write a ticket in the place of a file, or of a folder of something else."""
    if folder.exists() and not folder.is_dir():
        raise TicketError(f"{folder} is a file; nothing was written. Choose a new folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_FILE).exists():
        raise TicketError(
            f"{folder} is not empty and holds no ticket; nothing was written. Choose a new folder."
        )


def read(folder: Path, name: str) -> bytes:
    """Return the bytes of one of a ticket's files.

    Raises:
        TicketError: it is missing, too large, or a link that leads out of the folder. In the hub's
            cache, whose snapshots are made of links, they may lead into the blobs beside them.
    """
    path = folder / name
    if path.exists() and not any(path.resolve().is_relative_to(home) for home in _homes(folder)):
        raise TicketError(
            f"{path} is a link that climbs out of the ticket's folder; it was not opened."
        )
    try:
        return read_regular(path, MOST_BYTES[name])
    except ValueError as error:
        raise TicketError(f"{path} was not opened: {error}.") from error
    except OSError as error:
        raise TicketError(
            f"{path} cannot be read ({error.strerror}); a ticket is a folder with {CONFIG_FILE} "
            f"and {MASK_FILE}."
        ) from error


def _homes(folder: Path) -> Iterable[Path]:
    folder = folder.resolve()
    yield folder
    for commit in (folder, *folder.parents):
        snapshots = commit.parent
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
            yield snapshots.parent / "blobs"


def read_config(folder: Path) -> dict[str, Any]:
    """Return a ticket's checked ``ticket_config.json``.

    Raises:
        TicketError: it is missing, damaged, of another version, or names other files.
    """
    path = folder / CONFIG_FILE
    config = parse_json(read(folder, CONFIG_FILE), path)
    _check_config(config, path)
    return config


def read_hashed(folder: Path, config: Mapping[str, Any], name: str) -> bytes:
    """Return a file that the configuration names, its hash checked.

    Raises:
        TicketError: it is missing, too large, a link that leads out, or has another hash.
    """
    data = read(folder, name)
    if sha256_bytes(data) != config["files"][name]:
        raise damaged(folder, name)
    return data


def damaged(folder: Path, name: str) -> TicketError:
    """Return the error for a file whose hash is not the recorded one."""
    return TicketError(
        f"{folder / name} is damaged or was edited: its SHA-256 is not the one in "
        f"{CONFIG_FILE}. Fetch the ticket again."
    )


def parse_evidence(data: bytes, path: Path) -> dict[str, Any]:
    """Return the evidence in ``data``, which was read from ``path``.

    Raises:
        TicketError: it is not JSON, or not of the form that the card and the lists read.
    """
    evidence = parse_json(data, path)
    check_form(evidence, EVIDENCE, path)
    return evidence


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object in ``data``, which was read from ``path``."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise TicketError(f"{path} holds {type(value).__name__}; expected a JSON object.")
    return value


def _check_config(config: dict[str, Any], path: Path) -> None:
    if config.get("format") != FORMAT:
        raise TicketError(f"{path} is not a ticket's: its format is {config.get('format')!r}.")
    if config.get("format_version") not in (FORMAT_VERSION, REWIND_VERSION):
        raise TicketError(
            f"{path} has format version {config.get('format_version')!r}; this ticketry reads "
            f"versions {FORMAT_VERSION} and {REWIND_VERSION}. Update ticketry."
        )
    check_form(config, CONFIG, path)
    for name in config["files"]:
        if name not in _HASHED:
            climbs = "climbs out of the folder" if "/" in name or ".." in name else "is not known"
            raise TicketError(f"{path} names the file {name!r}, which {climbs}; nothing was read.")
    if MASK_FILE not in config["files"]:
        raise TicketError(f"{path} is damaged: it names no {MASK_FILE}.")
    carries, step = REWIND_FILE in config["files"], config.get("rewind_step", 0)
    if carries != (config["format_version"] == REWIND_VERSION):
        raise TicketError(
            f"{path} is damaged: a ticket of format version {config['format_version']} "
            f"{'names' if carries else 'lacks'} {REWIND_FILE}."
        )
    if type(step) is not int or not 0 <= step < 2**40:
        raise TicketError(f"{path} is damaged: its rewind_step is {str(step)[:40]}.")
