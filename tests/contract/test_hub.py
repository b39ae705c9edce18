"""Push, list, pull and load over HTTP, against a hub on loopback; refusals in one message.

The hub's client runs in a child process: it reads the endpoint when it is imported, and the tests'
own process is kept off the network.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_hub import FakeHub
from ticketry import Ticket
from ticketry.errors import HubError, TicketError

TESTS = Path(__file__).parents[1]
ARTIFACT = TESTS / "artifact" / "v1"
CONFIG, MASK = "ticket_config.json", "ticket_mask.safetensors"
EVIDENCE, CARD = "ticket_evidence.json", "README.md"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    yield hub
    hub.close()


def use(endpoint: str, home: Path, *jobs: tuple[str, Any]) -> list[dict[str, Any]]:
    """Run commands (``("cli", [...])``) and statements (``("py", "...")``) in a child process."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_of_the_test",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "hub_client.py")],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- a ticket goes round ------------------------------------------------------------------------


def test_push_list_pull_and_load_at_a_revision(hub: FakeHub, tmp_path: Path) -> None:
    verified = Ticket.from_pretrained(ARTIFACT)
    other = replace(
        verified,
        mask=~verified.mask,
        evidence=None,
        spec={**verified.spec, "data": "/home/me/a.csv"},
    )
    other.save_pretrained(tmp_path / "other")
    home = tmp_path / "home"
    pushed = use(
        hub.endpoint,
        home,
        ("cli", ["push", str(ARTIFACT), "ann/ticket", "--private", "--json"]),
        ("cli", ["push", str(tmp_path / "other"), "ann/ticket", "--message", "The complement"]),
        ("cli", ["push", str(tmp_path / "other"), "ann/ticket", "--revision", "trial"]),
        (
            "py",
            f"from ticketry import Ticket; result = Ticket.from_pretrained({str(ARTIFACT)!r})"
            ".push_to_hub('ann/ticket', create_pr=True)",
        ),
        ("cli", ["list", "ann", "--json"]),
    )
    assert [job.get("code", 0) for job in pushed] == [0] * 5, pushed
    repository = hub.repositories["ann/ticket"]
    assert repository.visibility == "private"
    empty, first, second, request = repository.commits
    assert json.loads(pushed[0]["out"]) == {"commit": f"{hub.endpoint}/ann/ticket/commit/{first}"}
    assert pushed[1]["out"] == f"Pushed: {hub.endpoint}/ann/ticket/commit/{second}\n"
    told = "note: whoever can read ann/ticket now reads this path of yours: /home/me/a.csv\n"
    assert (pushed[0]["err"], pushed[1]["err"]) == ("", told)
    assert pushed[3]["result"] == f"{hub.endpoint}/ann/ticket/commit/{request}"
    assert repository.branches == {"main": second, "trial": second, "refs/pr/1": request}
    assert list(repository.commits[empty]) == [".gitattributes"]

    # The very files, but for the card, which now has the ticket's address.
    remote = repository.commits[first]
    assert {n: remote[n] for n in (CONFIG, MASK, EVIDENCE)} == {
        n: (ARTIFACT / n).read_bytes() for n in (CONFIG, MASK, EVIDENCE)
    }
    assert b'Ticket.from_pretrained("ann/ticket")' in remote[CARD]
    # A candidate after a verified ticket leaves no evidence behind.
    assert sorted(repository.commits[second]) == sorted([".gitattributes", CARD, CONFIG, MASK])

    (row,) = json.loads(pushed[4]["out"])["tickets"]
    assert row == {
        "source": "ann/ticket",
        "base": verified.base.name,
        "task": None,
        "sparsity": pytest.approx(1 - verified.sparsity),
        "verdict": "candidate",
        "error": None,
    }
    assert MASK not in hub.sent  # a listing fetches no mask

    load = "from ticketry import Ticket; result = Ticket.from_pretrained('ann/ticket'{}).mask"
    pulled = use(
        hub.endpoint,
        home,
        ("cli", ["pull", "ann/ticket", str(tmp_path / "one"), "--revision", first]),
        ("cli", ["pull", "ann/ticket", str(tmp_path / "two"), "--json"]),
        ("py", load.format(f", revision={first!r}") + ".digest()"),
        ("py", load.format(", revision='trial'") + ".digest()"),
        ("py", load.format(", local_files_only=True") + ".digest()"),
        ("cli", ["inspect", "ann/ticket", "--json"]),
        ("cli", ["list", str(tmp_path)]),
    )
    digests = [verified.mask.digest(), other.mask.digest(), other.mask.digest()]
    assert [job["result"] for job in pulled[2:5]] == digests
    assert json.loads(pulled[5]["out"])["mask_digest"] == other.mask.digest()
    assert files_of(tmp_path / "one") == {n: d for n, d in remote.items() if n[0] != "."}
    assert Ticket.from_pretrained(tmp_path / "one") == verified
    assert json.loads(pulled[1]["out"])["verdict"] == "candidate"
    assert Ticket.from_pretrained(tmp_path / "two").mask == ~verified.mask
    assert pulled[6]["out"].count("inconclusive") == 2  # pulled, and in the hub's cache

    # The hub's own cache, as a folder that somebody names or copies; links lead into its blobs.
    cache = home / "hub" / "models--ann--ticket"
    assert (cache / "snapshots" / first / MASK).is_symlink()
    assert Ticket.from_pretrained(cache / "snapshots" / first) == verified
    assert Ticket.from_pretrained(cache).mask == ~verified.mask
    assert Ticket.from_pretrained(cache, revision=first) == verified
    assert Ticket.from_pretrained(cache, revision="trial").mask == ~verified.mask
    with pytest.raises(TicketError, match="without a snapshot of the revision 'gone'"):
        Ticket.from_pretrained(cache, revision="gone")

    down = use(
        "http://127.0.0.1:9",  # nobody answers there
        home,
        ("py", load.format("") + ".digest()"),
        ("cli", ["pull", "ann/absent", str(tmp_path / "absent")]),
        ("cli", ["push", str(ARTIFACT), "ann/ticket"]),
    )
    assert down[0]["result"] == other.mask.digest()  # from the cache
    assert "is not in the hub's local cache, and the hub was not asked or cannot" in down[1]["err"]
    assert "the hub at http://127.0.0.1:9 cannot be reached" in down[2]["err"]
    assert [job["code"] for job in down[1:]] == [2, 2]


def test_a_ticket_in_a_subfolder_is_fetched_alone(hub: FakeHub, tmp_path: Path) -> None:
    files = files_of(ARTIFACT)
    hub.plant("bea/many", {f"{part}/{n}": d for part in ("a", "a*") for n, d in files.items()})
    hub.sent.clear()
    load = (
        "from ticketry import Ticket; result = Ticket.from_pretrained('bea/many', subfolder={!r})"
    )
    one, climbing, absent = use(
        hub.endpoint,
        tmp_path,
        ("py", load.format("a*") + ".mask.digest()"),
        ("py", load.format("../a")),
        ("py", load.format("b")),
    )
    assert one["result"] == Ticket.from_pretrained(ARTIFACT).mask.digest()
    assert set(hub.sent) == {f"a*/{name}" for name in files}
    assert "the subfolder '../a' climbs out of the ticket's folder" in climbing["error"]
    assert "but it holds no b/ticket_config.json" in absent["error"]


# --- what is refused ----------------------------------------------------------------------------


def edited(**changes: Any) -> dict[str, bytes]:
    files = files_of(ARTIFACT)
    return {**files, CONFIG: json.dumps({**json.loads(files[CONFIG]), **changes}).encode()}


def plant_all(hub: FakeHub) -> None:
    files = files_of(ARTIFACT)
    hub.plant("eve/good", files)
    hub.plant("eve/climbs", edited(files={"../../../secret": "0" * 64}))
    hub.plant("eve/foreign", edited(files={"model.safetensors": "0" * 64}))
    hub.plant("eve/version", edited(format_version=99))
    hub.plant("eve/steers", edited(base_model_name_or_path="\x1b[2Jbase\n\x07"))
    hub.plant("eve/json", {**files, CONFIG: b"[" * 200_000})
    hub.plant("eve/flipped", {**files, MASK: files[MASK][:-1] + b"\xff"})
    hub.plant("eve/evidence", {**files, EVIDENCE: b"{}"})
    hub.plant("eve/header", {**files, MASK: (1 << 62).to_bytes(8, "little") + b"{}"})
    hub.plant("eve/pickle", {**files, MASK: pickle.dumps({"w": 1})})
    hub.plant("eve/model", {"config.json": b"{}", "model.safetensors": b"w" * 64})
    hub.plant("eve/readme", {".gitattributes": b"", CARD: b"my own words"})
    hub.plant("eve/closed", files)
    hub.repositories["eve/closed"].gated = True
    hub.plant("eve/raced", files)
    hub.meanwhile["/api/models/eve/raced/preupload"] = lambda: hub.plant(
        "eve/raced", {**files, CARD: b"---\n---\n\nsomebody else's"}
    )
    hub.refuse["/api/models/eve/busy"] = 503
    hub.refuse["/api/models/eve/secret"] = 401
    hub.refuse["/api/models/eve/good/branch"] = 403


PULLS = {
    "eve/absent": "the hub has no such repository, or hides it; check the name",
    "eve/secret": "the hub has no such repository, or hides it; check the name",
    "eve/busy": "the hub was not asked or cannot be reached",
    "eve/closed": "the hub has it, but gated; accept its terms on its page and log in with",
    "eve/model": "the hub has this repository, but it holds no ticket_config.json",
    "not a/hub/id": "this is not a hub id; expected USER/NAME.",
    "eve/climbs": "names the file '../../../secret', which climbs out of the folder; nothing was",
    "eve/foreign": "names the file 'model.safetensors', which is not known; nothing was read",
    "eve/version": "has format version 99; this ticketry reads versions 1 and 2",
    "eve/json": "is not JSON",
    "eve/flipped": "is damaged or was edited: its SHA-256 is not the one in ticket_config.json",
    "eve/evidence": "is damaged or was edited: its SHA-256 is not the one in ticket_config.json",
    "eve/header": "is damaged or was edited",
    "eve/pickle": "is a pickle or zip archive, not safetensors; it was not opened",
}
PUSHES = {
    "eve/model": "this repository holds config.json, model.safetensors, but no ticket",
    "eve/readme": "this repository holds README.md, but no ticket, and a ticket would overwrite",
    "eve/raced": "the repository changed meanwhile (412); look at it, and run this again.",
    "eve/busy": "the hub is busy or down (503); try again later.",
    "eve/good --revision new": "the hub refuses (403): a token with the right to do this is needed",
    "eve/good --revision refs/pr/7": "has no revision 'refs/pr/7'; name a branch, tag or commit.",
    "one/two/three": "this is not a hub id; expected USER/NAME.",
}


@pytest.fixture(scope="module")
def refusals(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Try everything that must be refused, in one child process."""
    plant_all(hub)
    place = tmp_path_factory.mktemp("refused")
    (place / "no-ticket").mkdir()
    (place / "no-ticket" / "notes.txt").write_text("mine")
    (place / "file").write_text("mine")
    jobs = {f"pull {name}": ["pull", name, str(place / "out")] for name in PULLS}
    jobs |= {f"push {name}": ["push", str(ARTIFACT), *name.split()] for name in PUSHES}
    jobs |= {
        "revision": ["pull", "eve/good", str(place / "out"), "--revision", "v9"],
        "no ticket": ["push", str(place / "no-ticket"), "eve/new"],
        "no folder": ["push", str(place / "nowhere"), "eve/new"],
        "in the way": ["pull", "eve/good", str(place / "no-ticket")],
        "file in the way": ["pull", "eve/good", str(place / "file")],
        "list": ["list", "eve"],
        "list json": ["list", "eve", "--json"],
        "nobody": ["list", "nobody"],
    }
    before = {name: dict(repo.branches) for name, repo in hub.repositories.items()}
    done = use(hub.endpoint, place / "home", *(("cli", arguments) for arguments in jobs.values()))
    assert not (place / "out").exists()
    assert (place / "no-ticket" / "notes.txt").read_text() == "mine"
    assert (place / "file").read_text() == "mine"
    after = {name: dict(repo.branches) for name, repo in hub.repositories.items()}
    assert after.pop("eve/raced") != before.pop("eve/raced")  # by somebody else alone
    assert after == before
    return dict(zip(jobs, done, strict=True))


def assert_refused(job: dict[str, Any], message: str) -> None:
    assert job["code"] == 2, job
    assert job["out"] == ""
    error = job["err"].splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("name", PULLS)
def test_a_pull_is_refused_with_what_to_do(refusals: dict[str, Any], name: str) -> None:
    assert_refused(refusals[f"pull {name}"], PULLS[name])


@pytest.mark.parametrize("name", PUSHES)
def test_a_push_is_refused_with_what_to_do(refusals: dict[str, Any], name: str) -> None:
    assert_refused(refusals[f"push {name}"], PUSHES[name])


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("revision", "the hub's repository has no revision 'v9'; name a branch, tag or commit."),
        ("no ticket", "a ticket is a folder with ticket_config.json"),
        ("no folder", "give a ticket's folder to push"),
        ("in the way", "is not empty and holds no ticket; nothing was written"),
        ("file in the way", "is a file; nothing was written. Choose a new folder."),
    ],
)
def test_other_refusals(refusals: dict[str, Any], job: str, message: str) -> None:
    assert_refused(refusals[job], message)


def test_broken_repositories_are_listed_as_such(refusals: dict[str, Any]) -> None:
    rows = {r["source"]: r for r in json.loads(refusals["list json"]["out"])["tickets"]}
    assert rows["eve/good"]["verdict"] == "inconclusive"
    assert "climbs out of the folder" in rows["eve/climbs"]["error"]
    assert "gated" in rows["eve/closed"]["error"]
    assert "is damaged or was edited" in rows["eve/evidence"]["error"]
    assert "eve/model" not in rows  # it has no tag
    shown = refusals["list"]["out"]
    assert refusals["list"]["code"] == 0
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert len(shown.splitlines()) == 1 + len(rows)
    assert refusals["nobody"]["code"] == 0
    assert "no repository of 'nobody' with the tag 'ticketry'" in refusals["nobody"]["err"]


def test_a_claimed_size_beyond_the_bound_is_not_fetched(tmp_path: Path) -> None:
    hub = FakeHub()
    try:
        hub.plant("eve/huge", files_of(ARTIFACT))
        hub.claimed_sizes[MASK] = 1 << 50
        (job,) = use(hub.endpoint, tmp_path, ("cli", ["pull", "eve/huge", str(tmp_path / "out")]))
    finally:
        hub.close()
    assert_refused(job, "ticket_mask.safetensors of 'eve/huge' has 1,125,899,906,842,624 bytes")
    assert hub.sent == []


def test_a_process_kept_off_the_hub_says_so() -> None:
    ticket = Ticket.from_pretrained(ARTIFACT)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE keeps this process off the hub; unset it"):
        ticket.push_to_hub("ann/ticket")
