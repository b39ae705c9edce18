"""Rated sentences from a package: movie and product reviews, tweets, editorials.

Ratings are means of 20 people from −4 (most negative) to 4 (Hutto & Gilbert 2014, ICWSM). As
polarity, a sentence counts as positive or negative when its mean is beyond ±0.5, and the others are
left out; as a rating, all are kept and the mean itself is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ticketry.assets import fetch_hutto
from ticketry.errors import DataError
from ticketry.tasks.base import TaskData
from ticketry.tasks.dealing import deal

NEUTRAL = 0.5
LABELS = ("negative", "positive")


def load_rated(
    name: str,
    file: str,
    *,
    polarity: bool,
    by_document: bool,
    split_seed: int,
    say: Callable[[str], None],
) -> TaskData:
    """Read one of the rated corpora as a task of two classes, or of numbers.

    Args:
        name: of the task.
        file: in the package's folder; lines of id, mean rating and text, tab-separated.
        polarity: two classes; else the ratings themselves.
        by_document: the id is ``document_sentence``; a document's sentences stay together.
        split_seed: decides the splits.
        say: given a line about a download.
    """
    ids, texts, ratings = read_rated(file, say)
    notes = []
    rows = list(range(len(ids)))
    if polarity:
        rows = [i for i in rows if abs(ratings[i]) > NEUTRAL]
        notes.append(f"{len(ids) - len(rows):,} sentences rated within ±{NEUTRAL} were left out")
    return deal(
        name=name,
        source=f"vaderSentiment 2.5, {file}",
        texts=[texts[i] for i in rows],
        labels=[int(ratings[i] > 0) if polarity else ratings[i] for i in rows],
        documents=[document_of(ids[i]) for i in rows] if by_document else None,
        class_names=LABELS if polarity else ("rating",),
        metric="accuracy" if polarity else "spearman",
        objective="classification" if polarity else "regression",
        split_seed=split_seed,
        notes=notes,
    )


def document_of(sentence: str) -> str:
    """Return the document of a sentence's id, ``document_sentence``."""
    return sentence.rsplit("_", 1)[0]


def read_rated(file: str, say: Callable[[str], None]) -> tuple[list[str], list[str], list[float]]:
    """Return the ids, texts and mean ratings of one of the corpora.

    Raises:
        DataError: a line is not what was written there.
    """
    path = fetch_hutto(say) / file
    ids, texts, ratings = [], [], []
    for number, line in enumerate(path.read_bytes().decode("utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}, line {number}: {len(fields)} fields; expected 3.")
        try:
            rating = float(fields[1])
        except ValueError:
            rating = math.nan
        if not -4 <= rating <= 4:
            raise DataError(
                f"{path}, line {number}: the rating is {fields[1]!r}; expected a number from -4 "
                "to 4."
            )
        ids.append(fields[0])
        texts.append(fields[2].strip())
        ratings.append(rating)
    return ids, texts, ratings
