"""Tickets where they are kept: listed in folders or on the hub, pushed and pulled; torch-free.

A listing reads the small JSON files and checks hashes. It never decodes a mask, and of the hub's
it fetches none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ticketry import hub
from ticketry.errors import HubError, InputError, TicketError
from ticketry.files import replace_folder
from ticketry.terminal import printable
from ticketry.ticketfolder import (
    CARD_FILE,
    CONFIG_FILE,
    EVIDENCE_FILE,
    MOST_BYTES,
    check_target,
    find_folder,
    parse_evidence,
    read,
    read_config,
    read_hashed,
)
from ticketry.verdict import Verdict

MOST_DEPTH = 8
MOST_FOLDERS = 50_000
MOST_REPOSITORIES = 500
_LISTED_BYTES = {CONFIG_FILE: 16 << 20, EVIDENCE_FILE: 64 << 20}
"""What a listing fetches of each repository, and the most bytes of it."""


@dataclass(frozen=True)
class Row:
    """One ticket of a listing.

    Attributes:
        source: its folder or hub id.
        base: the base model's name.
        task: of the evidence; None for a candidate.
        sparsity: pruned / prunable, in [0, 1].
        verdict: ``winning``, ``non-inferior``, ``not non-inferior``, ``inconclusive`` or
            ``candidate``.
        error: why the ticket cannot be used; then the fields above are None.
    """

    source: str
    base: str | None = None
    task: str | None = None
    sparsity: float | None = None
    verdict: str | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Listing:
    """The tickets that were found, and what was left out."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def list_tickets(where: str) -> Listing:
    """List the tickets below a folder, or those of a user of the hub.

    Broken tickets are listed with the reason.

    Args:
        where: a folder, which is walked without following links, at most 8 deep; or the name of a
            user or an organisation.

    Raises:
        InputError: it is neither.
    """
    folder = Path(where).expanduser()
    if where and folder.is_dir():
        return _of_folder(folder)
    if not where or where.startswith((".", "~")) or "/" in where or "\\" in where:
        raise InputError(
            f"there is no folder {where!r}; give a folder, or the name of a user of the hub."
        )
    return _of_user(where)


def _of_folder(root: Path) -> Listing:
    rows: list[Row] = []
    notes: list[str] = []
    for seen, folder in enumerate(_walk(root)):
        if seen == MOST_FOLDERS:
            notes.append(f"stopped after {MOST_FOLDERS:,} folders; list a folder further down")
            break
        if (folder / CONFIG_FILE).is_symlink() or (folder / CONFIG_FILE).exists():
            rows.append(_row(str(folder), folder, every_file=True))
    return Listing(tuple(rows), tuple(notes))


def _walk(root: Path) -> Iterator[Path]:
    """Yield the folders of a tree in name order, links not followed."""
    for path, names, _ in os.walk(root, followlinks=False):
        folder = Path(path)
        deep = len(folder.relative_to(root).parts) >= MOST_DEPTH
        names[:] = [] if deep else sorted(name for name in names if name != ".git")
        yield folder


def _of_user(author: str) -> Listing:
    found = hub.find_repositories(author, most=MOST_REPOSITORIES)
    notes = []
    if len(found) == MOST_REPOSITORIES:
        notes.append(f"only the first {MOST_REPOSITORIES} repositories were asked for")
    if not found:
        notes.append(f"the hub names no repository of {author!r} with the tag {hub.TAG!r}")
    return Listing(tuple(_fetched_row(repo_id) for repo_id in found), tuple(notes))


def _fetched_row(repo_id: str) -> Row:
    try:
        folder = hub.fetch(repo_id, _LISTED_BYTES, needed=CONFIG_FILE, quiet=True)
    except HubError as error:
        return Row(repo_id, error=str(error))
    return _row(repo_id, folder, every_file=False)


def _row(source: str, folder: Path, *, every_file: bool) -> Row:
    try:
        config = read_config(folder)
        for name in config["files"] if every_file else ():
            read_hashed(folder, config, name)
        evidence = None
        if EVIDENCE_FILE in config["files"]:
            data = read_hashed(folder, config, EVIDENCE_FILE)
            evidence = parse_evidence(data, folder / EVIDENCE_FILE)
        return Row(
            source,
            base=config["base_model_name_or_path"],
            task=None if evidence is None else evidence["task"],
            sparsity=_sparsity(config),
            verdict=_verdict(evidence),
        )
    except TicketError as error:
        return Row(source, error=str(error))


def _sparsity(config: Mapping[str, Any]) -> float:
    value = config.get("sparsity")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise TicketError(f"the sparsity in {CONFIG_FILE} is {value!r:.80}; expected 0 to 1.")
    return float(value)


def _verdict(evidence: Mapping[str, Any] | None) -> str:
    if evidence is None:
        return "candidate"
    verdict = Verdict.from_json(evidence["verdict"])
    if verdict.winning:
        return "winning"
    return {"yes": "non-inferior", "no": "not non-inferior"}.get(
        verdict.noninferior, "inconclusive"
    )


def table(rows: tuple[Row, ...]) -> list[str]:
    """Say a listing in lines for people; what an author wrote cannot steer the terminal."""
    head = ("BASE", "TASK", "SPARSITY", "VERDICT", "SOURCE")
    cells = [head]
    for row in rows:
        if row.error is None:
            sparsity = f"{row.sparsity:.1%}"
            cells.append((row.base or "", row.task or "-", sparsity, row.verdict or "", row.source))
        else:
            cells.append(("-", "-", "-", "broken", f"{row.source}: {row.error}"))
    shown = [[printable(cell, keep="") for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in shown) for column in range(len(head) - 1)]
    return [
        "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]])
        for line in shown
    ]


def push(folder: str | Path, repo_id: str, destination: hub.Destination) -> str:
    """Upload a ticket's folder: its own files, checked, and nothing else that lies there.

    Args:
        folder: as ``save_pretrained`` or a run left it; an edited model card goes along.
        repo_id: ``"user/name"``.
        destination: how and where.
    Returns:
        The commit's address.

    Raises:
        TicketError: the folder holds no ticket, or a damaged one.
        HubError: as in :func:`ticketry.hub.push`.
    """
    from ticketry.ticket import Ticket

    if not Path(folder).is_dir():
        raise TicketError(f"there is no folder {str(folder)!r}; give a ticket's folder to push.")
    Ticket.from_pretrained(folder)
    return hub.push(_files(find_folder(Path(folder), None, None)), repo_id, destination)


def local_paths(folder: str | Path) -> list[str]:
    """Return the paths of this machine that a ticket's JSON files name, each once.

    A ticket says how it was found as its user typed it; an absolute path among that, or one from
    the home folder, tells readers of a published ticket a user name and what lies where.

    Args:
        folder: of a ticket.
    """
    place = find_folder(Path(folder), None, None)
    found: dict[str, None] = {}
    for name in (CONFIG_FILE, EVIDENCE_FILE):
        if (place / name).exists():
            for text in _strings(json.loads((place / name).read_bytes())):
                if Path(text).is_absolute() or text.startswith("~"):
                    found[text] = None
    return list(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def pull(
    repo_id: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
) -> Row:
    """Fetch a ticket from the hub, check it, and write its files as they are.

    Args:
        repo_id: ``"user/name"``.
        folder: where to; an older ticket in it is replaced, anything else refused.
        revision: a branch, tag or commit.
        subfolder: in the repository.
        token: for the hub.
    Returns:
        What was fetched.

    Raises:
        HubError: the hub does not give it.
        TicketError: it is damaged or hostile, or the folder holds something else; nothing was
            written.
    """
    from ticketry.ticket import Ticket

    check_target(Path(folder))
    root = hub.fetch(
        repo_id, MOST_BYTES, needed=CONFIG_FILE, revision=revision, subfolder=subfolder, token=token
    )
    found = find_folder(root, None, subfolder)
    Ticket.from_pretrained(found)
    replace_folder(Path(folder), _files(found))
    return _row(str(folder), Path(folder), every_file=True)


def _files(folder: Path) -> dict[str, bytes]:
    """Return a ticket's files: those that its configuration names, itself, and the card."""
    config = read_config(folder)
    names = [CONFIG_FILE, *config["files"]]
    if (folder / CARD_FILE).exists():
        names.append(CARD_FILE)
    return {name: read(folder, name) for name in names}
