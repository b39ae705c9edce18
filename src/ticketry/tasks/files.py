"""Any table as a task: CSV, TSV, JSON lines, parquet, text, or a hub data set, through one door.

Every fault is one :class:`DataError` that says what was
found, what was expected and what to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.config import IMAGE_OBJECTIVES, PRETRAINING
from ticketry.errors import DataError
from ticketry.metrics import METRICS, metrics_for
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.dealing import hold_out, joined_texts, without_copies
from ticketry.tasks.labels import KINDS, LabelKind, is_missing, refuse_missing
from ticketry.tasks.splits import drop_conflicts, near_duplicate_groups
from ticketry.tasks.tables import TEXT, Table, read_table, require_columns


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; ``labels`` are none, one, or several of 0 and 1."""

    text: str
    pair: str | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Checked examples of one table: texts, pairs and labels as they were written."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[Any]


def load_file(
    data: str,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_columns: Sequence[str] = (),
    objective: str = "classification",
    test_data: str | None = None,
    config: str | None = None,
    test_split: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    name: str | None = None,
    seed: int = 0,
    drop_empty: bool = False,
) -> TaskData:
    """Read a task from a file, a local data-set folder or a hub data set.

    A hub data set's own ``train``, ``validation`` and ``test`` splits are used where they have
    labels; what is missing is split off: a fifth for testing (at most 2,000), a tenth for
    validation (at most 1,000), stratified, seeded, near-duplicates on one side.

    Args:
        data: a path, or a hub id.
        text_column: the text's column; where it may be left out, the objective's usual one.
        text_pair_column: the second text's column, for pairs.
        label_column: the label's column: the class (text, whole numbers or booleans), the number,
            or names separated by ``;``; none for language modelling.
        label_columns: columns of 0 and 1 instead, one for each label.
        objective: what is learned, a key of :data:`ticketry.tasks.labels.KINDS` or :data:`READERS`.
        test_data: a file to test on.
        config: of a hub data set that has several.
        test_split: the split of a hub data set that is tested on; then a split of the name
            ``test`` is left alone.
        metric: by default the objective's usual one.
        margin: by default the metric's own.
        name: of the task; by default that of the file.
        seed: decides what is split off.
        drop_empty: leave out rows without a text and count them, where they are a fault else.

    Raises:
        DataError: a fault of the data, with what to do.
    """
    if objective in READERS:
        found = READERS[objective](
            data,
            columns=(text_column, text_pair_column, label_column),
            objective=objective,
            test_data=test_data,
            config=config,
            test_split=test_split,
            seed=seed,
            drop_empty=drop_empty,
        )
        metric = metric or found.metric
        return dataclasses.replace(
            found,
            name=name or found.name,
            metric=metric,
            margin=METRICS[metric].margin if margin is None else margin,
        )
    kind = KINDS[objective]
    text_column = text_column or TEXT
    label_names = tuple(label_columns) or ((label_column,) if label_column else ())
    columns = Columns(text_column, text_pair_column, label_names)
    tables = read_table(data, config=config, test_split=test_split)
    hidden = [
        part
        for part in ("validation", "test")
        if part in tables and _hides_labels(tables[part], tables["train"], label_column)
    ]
    if test_split is not None and "test" in hidden:
        raise DataError(
            f"{tables['test'].source} hides its labels (all are -1), so it cannot be tested on; "
            "name another --test-split."
        )
    tables = {part: table for part, table in tables.items() if part not in hidden}
    if test_data is not None:
        tables = {**tables, "test": read_table(test_data)["train"]}
    notes = [f"the {part} split hides its labels and was not used" for part in hidden]
    if drop_empty:
        for part, table in tables.items():
            tables[part], dropped = _without_empty(table, columns)
            if dropped:
                notes.append(f"{dropped:,} {part} examples without a text were left out")
    rows = {part: _rows(table, columns, kind) for part, table in tables.items()}
    names = kind.names([label for part in rows.values() for label in part.labels], label_names)
    _refuse_unknown(rows, tables, names)
    metric = metric or metrics_for(objective)[0]
    source = data if config is None else f"{data} ({config})"
    return _build(
        TaskData(
            name=name or (Path(data).stem if Path(data).exists() else data),
            source=source if test_data is None else f"{source}, test {test_data}",
            labels=names,
            metric=metric,
            margin=METRICS[metric].margin if margin is None else margin,
            train=_EMPTY,
            validation=_EMPTY,
            test=_EMPTY,
            objective=objective,
        ),
        kind,
        splits={
            part: Split(
                tuple(found.texts),
                None if found.pairs is None else tuple(found.pairs),
                tuple(kind.encode(label, names) for label in found.labels),
            )
            for part, found in rows.items()
        },
        where=tables["train"].source,
        seed=seed,
        notes=notes,
    )


_EMPTY = Split((), None, ())


def _read_answers(data: str, **options: Any) -> TaskData:
    from ticketry.tasks.answers import load_answers

    return load_answers(data, **options)


def _read_tags(data: str, **options: Any) -> TaskData:
    from ticketry.tasks.conll import load_tagged

    return load_tagged(data, **options)


def _read_images(data: str, **options: Any) -> TaskData:
    from ticketry.tasks.imagedata import load_images

    return load_images(data, **options)


def _read_pretraining(data: str, *, objective: str, **options: Any) -> TaskData:
    from ticketry.tasks.imagedata import load_images
    from ticketry.tasks.pretraining import as_pretraining

    return as_pretraining(load_images(data, **options), objective)


READERS: Mapping[str, Callable[..., TaskData]] = {
    "token-classification": _read_tags,
    "extractive-qa": _read_answers,
    "extractive-qa-v2": _read_answers,
    **dict.fromkeys(IMAGE_OBJECTIVES, _read_images),
    **dict.fromkeys(PRETRAINING, _read_pretraining),
}
"""Objective whose labels are no column of classes or numbers -> its own reader."""


def _hides_labels(table: Table, train: Table, column: str | None) -> bool:
    """Say whether every label is -1, as hub data sets write it, and -1 is no class."""
    labels = table.columns.get(column or "", [])
    return bool(labels) and set(labels) == {-1} and -1 not in train.columns.get(column or "", [])


def _refuse_unknown(
    rows: Mapping[str, Rows], tables: Mapping[str, Table], names: Sequence[str]
) -> None:
    """Refuse held-out classes or label names that the training data lack."""

    def seen(part: str) -> set[str]:
        labels = rows[part].labels
        if labels and isinstance(labels[0], list):
            return {name for some in labels for name in some}
        return {label for label in labels if isinstance(label, str)}

    for part in ("validation", "test"):
        if part in rows and (strange := sorted(seen(part) - seen("train"))):
            raise DataError(
                f"the {part} data ({tables[part].source}) have the label {strange[0]!r}, which "
                f"the training data lack; they have {', '.join(map(repr, names[:10]))}."
            )


def _build(
    data: TaskData,
    kind: LabelKind,
    *,
    splits: dict[str, Split],
    where: str,
    seed: int,
    notes: list[str],
) -> TaskData:
    """Check the labels and split off what the source does not bring along."""
    names = data.labels
    whole = splits["train"]
    kind.check(whole, names, where)
    notes = list(notes)
    if kind.conflicts:
        joined = joined_texts(whole)
        kept = drop_conflicts(joined, whole.labels)
        if len(kept) < len(joined):
            dropped = f"{len(joined) - len(kept)} examples whose text has two labels"
            notes.append(f"{dropped} were left out")
            whole = whole.take(kept)
            kind.check(whole, names, f"{where}, without {dropped},")
    whole, copies = without_copies(whole, [s for n, s in splits.items() if n != "train"])
    if copies:
        left_out = f"{copies:,} training texts that also stand in the held-out data"
        notes.append(f"{left_out} were left out")
        kind.check(whole, names, f"{where}, without {left_out},")
    groups = near_duplicate_groups(joined_texts(whole))
    given = {part: split for part, split in splits.items() if part != "train"}
    taken = hold_out(whole, given, groups, seed=seed, where=where)
    if kind.conflicts:
        kind.check(taken["train"], names, f"the training part of {where}")
    kind.check_test(taken["test"], f"the test part of {where}")
    doubles = len(groups) - len(set(groups))
    if doubles and len(given) < 2:
        notes.append(f"{doubles:,} near-duplicates stay on their twin's side of the split")
    return dataclasses.replace(
        data,
        train=taken["train"],
        validation=taken["validation"],
        test=taken["test"],
        notes=tuple(notes),
    )


def _rows(table: Table, columns: Columns, kind: LabelKind) -> Rows:
    """Pick the columns and refuse missing texts and labels."""
    if not table.columns or not table.length:
        raise DataError(f"{table.source} has no rows; expected examples below its header.")
    require_columns(table, [n for n in (columns.text, columns.pair, *columns.labels) if n])
    labels = kind.read(table, columns.labels)
    texts = _texts(table, columns.text)
    pairs = None if columns.pair is None else _texts(table, columns.pair)
    return Rows(texts, pairs, labels)


def _without_empty(table: Table, columns: Columns) -> tuple[Table, int]:
    """Return a table without the rows that lack a text, and how many these are."""
    wanted = [table.columns.get(name, []) for name in (columns.text, columns.pair) if name]
    empty = {
        row
        for values in wanted
        for row, value in enumerate(values)
        if is_missing(value) or not str(value).strip()
    }
    kept = {
        name: [value for row, value in enumerate(values) if row not in empty]
        for name, values in table.columns.items()
    }
    return dataclasses.replace(table, columns=kept), len(empty)


def _texts(table: Table, column: str) -> list[str]:
    values = [None if is_missing(v) else str(v).strip() or None for v in table.columns[column]]
    refuse_missing(values, table, column, "texts")
    return [text for text in values if text is not None]
