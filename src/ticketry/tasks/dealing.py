"""Examples of one corpus, dealt to train, validation and test."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from ticketry.errors import DataError
from ticketry.metrics import METRICS
from ticketry.tasks.base import Label, Split, TaskData, strata
from ticketry.tasks.splits import (
    drop_conflicts,
    merge_groups,
    near_duplicate_groups,
    normalise,
    sizes_for,
    split_groups,
)


def deal(
    *,
    name: str,
    source: str,
    texts: Sequence[str],
    labels: Sequence[Label],
    documents: Sequence[Hashable] | None,
    class_names: tuple[str, ...],
    metric: str,
    objective: str,
    split_seed: int,
    notes: Sequence[str] = (),
    unit: str = "sentences",
    whole: str = "documents",
) -> TaskData:
    """Split a corpus, documents and near-duplicates undivided, kinds of labels in proportion.

    Args:
        name: of the task.
        source: where the texts come from.
        texts: one a example.
        labels: one a text; of a classification, texts with two labels are left out.
        documents: what each text is a part of; None when each stands alone.
        class_names: in the order of the labels; the number's name for regression.
        metric: the task's.
        objective: what is learned.
        split_seed: decides the splits.
        notes: what was left out before.
        unit: what a text is, for the notes.
        whole: what ``documents`` are, for the notes.
    """
    kept = list(range(len(texts)))
    if objective == "classification":
        kept = drop_conflicts(texts, labels)
    conflicts = len(texts) - len(kept)
    examples = Split(tuple(texts[i] for i in kept), None, tuple(labels[i] for i in kept))
    near = near_duplicate_groups(examples.texts)
    groups = near
    said = list(notes)
    said.append(
        f"{len(near) - len(set(near)):,} near-duplicates stay on their twin's side of the split"
    )
    if documents is None:
        groups = merge_groups(near, range(len(kept)))
    else:
        parents = [documents[i] for i in kept]
        groups = merge_groups(near, parents)
        said.append(f"{unit} of {len(set(parents)):,} {whole} stay together")
    if conflicts:
        said.append(f"{conflicts} {unit} with two labels were left out")
    parts = split_groups(
        strata(examples), groups, seed=split_seed, sizes=sizes_for(len(kept), with_test=True)
    )
    return TaskData(
        name=name,
        source=source,
        labels=class_names,
        metric=metric,
        margin=METRICS[metric].margin,
        train=examples.take(parts["train"]),
        validation=examples.take(parts["validation"]),
        test=examples.take(parts["test"]),
        notes=tuple(said),
        objective=objective,
    )


def hold_out(
    whole: Split,
    given: Mapping[str, Split],
    groups: Sequence[int],
    *,
    seed: int,
    where: str,
    what: str = "texts",
) -> dict[str, Split]:
    """Split off what a source does not bring along, kinds of labels in proportion.

    Args:
        whole: the source's training split.
        given: its other splits, by name.
        groups: of each example of ``whole``; a group is never divided.
        seed: decides what is split off.
        where: the source, for messages.
        what: its examples, for messages.
    Returns:
        The splits ``train``, ``validation`` and ``test``.

    Raises:
        DataError: a split would be empty.
    """
    sizes = sizes_for(len(whole), with_test="test" not in given)
    if "validation" in given:
        del sizes["validation"]
    parts = split_groups(strata(whole), groups, seed=seed, sizes=sizes)
    taken = {part: whole.take(indices) for part, indices in parts.items()} | dict(given)
    if empty := [part for part, split in taken.items() if not len(split)]:
        raise DataError(
            f"{where} leaves nothing for {' and '.join(empty)}: its {what} resemble each other so "
            f"much ({len(set(groups)):,} groups of near-duplicates among {len(whole):,}) that they "
            f"must stay on one side of the split. Give --test-data, or more varied {what}."
        )
    return taken


def without_copies(train: Split, held_out: Sequence[Split]) -> tuple[Split, int]:
    """Drop training examples whose words also stand in a held-out split; return how many."""
    kept = no_copies(train, held_out)
    return train.take(kept), len(train) - len(kept)


def no_copies(train: Split, held_out: Sequence[Split]) -> list[int]:
    """Return the indices of training examples whose words stand in no held-out split."""
    seen = {normalise(text) for split in held_out for text in joined_texts(split)}
    return [i for i, text in enumerate(joined_texts(train)) if normalise(text) not in seen]


def joined_texts(split: Split) -> Sequence[str]:
    """Return each example as one text."""
    if split.pairs is None:
        return split.texts
    return [f"{a}\n{b}" for a, b in zip(split.texts, split.pairs, strict=True)]
