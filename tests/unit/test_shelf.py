"""Listing tickets in folders, and folders of the hub's cache; the hub itself: tests/contract."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ticketry import shelf
from ticketry.errors import InputError, TicketError
from ticketry.shelf import Row, list_tickets, local_paths, table
from ticketry.ticket import Ticket
from ticketry.ticketfolder import CONFIG_FILE, EVIDENCE_FILE, MASK_FILE

ARTIFACT = Path(__file__).parents[1] / "artifact" / "v1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def errors(root: Path) -> dict[str, str | None]:
    return {Path(row.source).name: row.error for row in list_tickets(str(root)).rows}


def test_tickets_are_found_at_any_depth_and_broken_ones_named(tmp_path: Path) -> None:
    for name in ("a", "b/c/good", "cut", "edited", "foreign", "nan", "task", "other"):
        shutil.copytree(ARTIFACT, tmp_path / name)
    (tmp_path / "cut" / MASK_FILE).unlink()
    (tmp_path / "edited" / EVIDENCE_FILE).write_text("{}")
    edit(tmp_path / "foreign" / CONFIG_FILE, files={"/etc/passwd": "0" * 64})
    edit(tmp_path / "nan" / CONFIG_FILE, sparsity=float("nan"))
    (tmp_path / "other" / CONFIG_FILE).write_text("{}")
    (tmp_path / "empty").mkdir()
    candidate = Ticket.from_pretrained(ARTIFACT)
    Ticket(candidate.mask, candidate.base).save_pretrained(tmp_path / "task")

    listing = list_tickets(str(tmp_path))
    assert listing.notes == ()
    found = {Path(row.source).name: row for row in listing.rows}
    assert found["a"] == Row(
        str(tmp_path / "a"), "bert", "reviews", pytest.approx(0.4, abs=1e-4), "inconclusive"
    )
    assert found["good"].verdict == "inconclusive"
    assert (found["task"].verdict, found["task"].task) == ("candidate", None)
    said = errors(tmp_path)
    assert "cannot be read (No such file or directory)" in said["cut"]
    assert "is damaged or was edited" in said["edited"]
    assert "names the file '/etc/passwd', which climbs out" in said["foreign"]
    assert "'sparsity' is nan; expected a finite number." in said["nan"]
    assert "its format is None" in said["other"]
    assert set(said) == {"a", "good", "cut", "edited", "foreign", "nan", "task", "other"}
    json.dumps([row.to_json() for row in listing.rows], allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": 3}, "'task' is 3; expected text."),
        ({"verdict": 3}, "'verdict' is 3; expected an object"),
        ({"verdict": {}}, "of its verdict is missing"),
    ],
)
def test_a_verdict_that_cannot_be_read_is_an_error_of_its_row(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    ticket = Ticket.from_pretrained(ARTIFACT)
    evidence = json.dumps({**dict(ticket.evidence or {}), **changes}).encode()
    shutil.copytree(ARTIFACT, tmp_path / "t")
    (tmp_path / "t" / EVIDENCE_FILE).write_bytes(evidence)
    files = json.loads((tmp_path / "t" / CONFIG_FILE).read_text())["files"]
    files[EVIDENCE_FILE] = hashlib.sha256(evidence).hexdigest()
    edit(tmp_path / "t" / CONFIG_FILE, files=files)
    assert message in (errors(tmp_path)["t"] or "")


def test_links_are_not_followed_out(tmp_path: Path) -> None:
    shutil.copytree(ARTIFACT, tmp_path / "elsewhere" / "ticket")
    shelf_folder = tmp_path / "shelf"
    (shelf_folder / "linked").mkdir(parents=True)
    (shelf_folder / "all").symlink_to(tmp_path / "elsewhere")
    (shelf_folder / "loop").symlink_to(shelf_folder)
    (shelf_folder / "linked" / CONFIG_FILE).symlink_to(ARTIFACT / CONFIG_FILE)
    assert list(errors(shelf_folder)) == ["linked"]
    assert "is a link that climbs out" in (errors(shelf_folder)["linked"] or "")


def test_a_listing_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*"12345678")
    shutil.copytree(ARTIFACT, deep / "too" / "deep")
    shutil.copytree(ARTIFACT, deep / "ticket", dirs_exist_ok=True)
    assert errors(tmp_path) == {}
    assert list(errors(tmp_path / "1")) == ["ticket"]
    monkeypatch.setattr(shelf, "MOST_FOLDERS", 3)
    (note,) = list_tickets(str(tmp_path)).notes
    assert note == "stopped after 3 folders; list a folder further down"


@pytest.mark.parametrize("where", ["no/where", "./nowhere", "~/no-such-folder", "", "a\\b"])
def test_neither_a_folder_nor_a_name(where: str) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        list_tickets(where)


def test_what_an_author_wrote_cannot_steer_the_terminal() -> None:
    rows = (
        Row("one", "\x1b]0;title\x07base", "ta\nsk", 0.5, "winning"),
        Row("two", error="a\u202ereason\ud800"),
    )
    lines = table(rows)
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[2].endswith("two: a\N{REPLACEMENT CHARACTER}reason\N{REPLACEMENT CHARACTER}")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder as the hub's client lays it out: a snapshot of links into blobs."""
    repository = tmp_path / "models--ann--ticket"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(ARTIFACT.iterdir())):
        shutil.copy(path, repository / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository


def test_a_folder_of_the_hubs_cache_loads(cache: Path) -> None:
    expected = Ticket.from_pretrained(ARTIFACT)
    assert Ticket.from_pretrained(cache / "snapshots" / COMMIT) == expected
    assert Ticket.from_pretrained(cache) == expected
    assert Ticket.from_pretrained(cache, revision=COMMIT) == expected
    (row,) = list_tickets(str(cache.parent)).rows
    assert row.error is None


@pytest.mark.parametrize("revision", ["other", "../../main", "f" * 40, "/etc/hostname"])
def test_a_revision_that_the_cache_lacks(cache: Path, revision: str) -> None:
    with pytest.raises(TicketError, match=r"without a snapshot of|climbs out of"):
        Ticket.from_pretrained(cache, revision=revision)


def test_a_ref_that_climbs_out(cache: Path) -> None:
    (cache / "refs" / "main").write_text("../../../elsewhere")
    with pytest.raises(TicketError, match="without a snapshot of the revision 'main'"):
        Ticket.from_pretrained(cache)


def test_links_of_a_snapshot_may_lead_into_its_blobs_alone(cache: Path, tmp_path: Path) -> None:
    snapshot = cache / "snapshots" / COMMIT
    blob = (snapshot / MASK_FILE).readlink()
    (snapshot / MASK_FILE).unlink()
    (snapshot / MASK_FILE).symlink_to(ARTIFACT / MASK_FILE)
    with pytest.raises(TicketError, match="is a link that climbs out"):
        Ticket.from_pretrained(snapshot)
    # Blobs that are a link themselves lead out, too.
    (snapshot / MASK_FILE).unlink()
    (snapshot / MASK_FILE).symlink_to(blob)
    assert Ticket.from_pretrained(snapshot) == Ticket.from_pretrained(ARTIFACT)
    shutil.move(cache / "blobs", tmp_path / "elsewhere")
    (cache / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TicketError, match="is a link that climbs out"):
        Ticket.from_pretrained(snapshot)


def test_a_revision_of_a_plain_folder_is_refused() -> None:
    with pytest.raises(TicketError, match=r"the revision 'main' was given for the folder .*drop"):
        Ticket.from_pretrained(ARTIFACT, revision="main")


def test_paths_of_this_machine_are_found_at_any_depth(tmp_path: Path) -> None:
    whole = Ticket.from_pretrained(ARTIFACT)
    spec = {"data": {"sources": ["/home/me/a.csv", "b.csv", "/home/me/a.csv"]}, "model": "~/bert"}
    Ticket(whole.mask, whole.base, {**whole.spec, **spec}).save_pretrained(tmp_path / "told")
    assert local_paths(tmp_path / "told") == ["/home/me/a.csv", "~/bert"]
    assert local_paths(ARTIFACT) == []
