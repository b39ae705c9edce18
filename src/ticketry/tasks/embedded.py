"""Polarity of rated sentences from a package: movie and product reviews.

Ratings are means of 20 people from −4 (most negative) to 4 (Hutto & Gilbert 2014, ICWSM). A
sentence counts as positive or negative when its mean is beyond ±0.5; the others are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from ticketry.assets import fetch_hutto
from ticketry.errors import DataError
from ticketry.metrics import METRICS
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.splits import (
    drop_conflicts,
    merge_groups,
    near_duplicate_groups,
    sizes_for,
    split_groups,
)

NEUTRAL = 0.5
LABELS = ("negative", "positive")


def load_polarity(
    name: str,
    file: str,
    *,
    by_document: bool,
    split_seed: int,
    say: Callable[[str], None],
) -> TaskData:
    """Read one of the rated corpora as a two-class task.

    Args:
        name: of the task.
        file: in the package's folder; lines of id, mean rating and text, tab-separated.
        by_document: the id is ``document_sentence``; a document's sentences stay together.
        split_seed: decides the splits.
        say: given a line about a download.
    """
    path = fetch_hutto(say) / file
    ids, texts, labels = [], [], []
    neutral = 0
    for number, line in enumerate(path.read_bytes().decode("utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}, line {number}: {len(fields)} fields; expected 3.")
        rating = float(fields[1])
        if abs(rating) <= NEUTRAL:
            neutral += 1
            continue
        ids.append(fields[0])
        texts.append(fields[2].strip())
        labels.append(int(rating > 0))
    kept = drop_conflicts(texts, labels)
    conflicts = len(texts) - len(kept)
    ids = [ids[i] for i in kept]
    texts = [texts[i] for i in kept]
    labels = [labels[i] for i in kept]
    near = near_duplicate_groups(texts)
    documents = [i.rsplit("_", 1)[0] for i in ids] if by_document else list(range(len(ids)))
    groups = merge_groups(near, documents)
    parts = split_groups(
        labels, groups, seed=split_seed, sizes=sizes_for(len(labels), with_test=True)
    )
    whole = Split(tuple(texts), None, tuple(labels))
    notes = [
        f"{neutral:,} sentences rated within ±{NEUTRAL} were left out",
        f"{len(near) - len(set(near)):,} near-duplicates stay on their twin's side of the split",
    ]
    if by_document:
        notes.append(f"sentences of {len(set(documents)):,} documents stay together")
    if conflicts:
        notes.append(f"{conflicts} sentences with two labels were left out")
    return TaskData(
        name=name,
        source=f"vaderSentiment 2.5, {file}",
        labels=LABELS,
        metric="accuracy",
        margin=METRICS["accuracy"].margin,
        train=whole.take(parts["train"]),
        validation=whole.take(parts["validation"]),
        test=whole.take(parts["test"]),
        notes=tuple(notes),
    )
