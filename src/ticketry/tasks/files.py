"""Any table as a task: CSV, TSV, JSON lines, parquet, or a hub data set, through one door.

Every fault is one :class:`DataError` that says what was
found, what was expected and what to do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.errors import DataError, nearest
from ticketry.metrics import METRICS
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.splits import (
    check_classes,
    drop_conflicts,
    near_duplicate_groups,
    normalise,
    sizes_for,
    split_groups,
)
from ticketry.tasks.tables import Table, read_table

MOST_CLASSES = 200
_WHOLE = re.compile(r"-?[0-9]+\.0+")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what."""

    text: str
    pair: str | None
    label: str


@dataclass(frozen=True)
class Rows:
    """Checked examples of one table: texts, pairs and labels as they were written."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[str]


def load_file(
    data: str,
    *,
    text_column: str,
    text_pair_column: str | None = None,
    label_column: str,
    test_data: str | None = None,
    seed: int = 0,
) -> TaskData:
    """Read a classification task from a file, a local data-set folder or a hub data set.

    A hub data set's own ``train``, ``validation`` and ``test`` splits are used where they have
    labels; what is missing is split off: a fifth for testing (at most 2,000), a tenth for
    validation (at most 1,000), stratified, seeded, near-duplicates on one side.

    Args:
        data: a path, or a hub id.
        text_column: the text's column.
        text_pair_column: the second text's column, for pairs.
        label_column: the class's column: text, whole numbers or booleans.
        test_data: a file to test on.
        seed: decides what is split off.

    Raises:
        DataError: a fault of the data, with what to do.
    """
    columns = Columns(text_column, text_pair_column, label_column)
    tables = read_table(data)
    hidden = [
        name
        for name in ("validation", "test")
        if name in tables and _hides_labels(tables[name], tables["train"], label_column)
    ]
    tables = {name: table for name, table in tables.items() if name not in hidden}
    if test_data is not None:
        tables = {**tables, "test": read_table(test_data)["train"]}
    rows = {name: _rows(table, columns) for name, table in tables.items()}
    names = _class_names([label for part in rows.values() for label in part.labels], label_column)
    index = {name: number for number, name in enumerate(names)}
    train = rows["train"]
    for name in ("validation", "test"):
        if name in rows and (strange := sorted(set(rows[name].labels) - set(train.labels))):
            raise DataError(
                f"the {name} data ({tables[name].source}) have the label {strange[0]!r}, which "
                f"the training data lack; they have {', '.join(map(repr, names[:10]))}."
            )
    return _build(
        name=Path(data).stem if Path(data).exists() else data,
        source=data if test_data is None else f"{data}, test {test_data}",
        names=tuple(names),
        splits={
            name: Split(
                tuple(part.texts),
                None if part.pairs is None else tuple(part.pairs),
                tuple(index[label] for label in part.labels),
            )
            for name, part in rows.items()
        },
        where=tables["train"].source,
        seed=seed,
        notes=[f"the {name} split hides its labels and was not used" for name in hidden],
    )


def _hides_labels(table: Table, train: Table, column: str) -> bool:
    """Say whether every label is -1, as hub data sets write it, and -1 is no class."""
    labels = table.columns.get(column, [])
    return bool(labels) and set(labels) == {-1} and -1 not in train.columns.get(column, [])


def _build(
    *,
    name: str,
    source: str,
    names: tuple[str, ...],
    splits: dict[str, Split],
    where: str,
    seed: int,
    notes: list[str],
) -> TaskData:
    """Check the classes and split off what the source does not bring along."""
    whole = splits["train"]
    check_classes(whole.labels, names, where)
    joined = _joined(whole)
    kept = drop_conflicts(joined, whole.labels)
    notes = list(notes)
    if len(kept) < len(joined):
        dropped = f"{len(joined) - len(kept)} examples whose text has two labels"
        notes.append(f"{dropped} were left out")
        whole = whole.take(kept)
        check_classes(whole.labels, names, f"{where}, without {dropped},")
    whole, copies = _without_copies(whole, [s for n, s in splits.items() if n != "train"])
    if copies:
        left_out = f"{copies:,} training texts that also stand in the held-out data"
        notes.append(f"{left_out} were left out")
        check_classes(whole.labels, names, f"{where}, without {left_out},")
    groups = near_duplicate_groups(_joined(whole))
    sizes = sizes_for(len(whole.labels), with_test="test" not in splits)
    if "validation" in splits:
        del sizes["validation"]
    parts = split_groups(whole.labels, groups, seed=seed, sizes=sizes)
    taken = {part: whole.take(indices) for part, indices in parts.items()}
    taken |= {part: splits[part] for part in ("validation", "test") if part in splits}
    check_classes(taken["train"].labels, names, f"the training part of {where}")
    doubles = len(groups) - len(set(groups))
    if doubles and sizes:
        notes.append(f"{doubles:,} near-duplicates stay on their twin's side of the split")
    return TaskData(
        name=name,
        source=source,
        labels=names,
        metric="accuracy",
        margin=METRICS["accuracy"].margin,
        train=taken["train"],
        validation=taken["validation"],
        test=taken["test"],
        notes=tuple(notes),
    )


def _without_copies(train: Split, held_out: Sequence[Split]) -> tuple[Split, int]:
    """Drop training examples whose words also stand in a held-out split; return how many."""
    seen = {normalise(text) for split in held_out for text in _joined(split)}
    kept = [i for i, text in enumerate(_joined(train)) if normalise(text) not in seen]
    return train.take(kept), len(train.labels) - len(kept)


def _joined(split: Split) -> Sequence[str]:
    """Return each example as one text."""
    if split.pairs is None:
        return split.texts
    return [f"{a}\n{b}" for a, b in zip(split.texts, split.pairs, strict=True)]


def _rows(table: Table, columns: Columns) -> Rows:
    """Pick the columns and refuse missing texts and labels."""
    if not table.columns or not table.length:
        raise DataError(f"{table.source} has no rows; expected examples below its header.")
    for name in (columns.text, columns.pair, columns.label):
        if name is not None and name not in table.columns:
            close = nearest(name, table.columns)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise DataError(
                f"{table.source} has no column {name!r}.{hint} "
                f"It has {', '.join(map(repr, table.columns))}."
            )
    labels = [
        _label(value, table.names.get(columns.label)) for value in table.columns[columns.label]
    ]
    _refuse_missing(labels, table, columns.label, "labels")
    texts = [_text(value) for value in table.columns[columns.text]]
    _refuse_missing(texts, table, columns.text, "texts")
    pairs = None
    if columns.pair is not None:
        found = [_text(value) for value in table.columns[columns.pair]]
        _refuse_missing(found, table, columns.pair, "texts")
        pairs = [text for text in found if text is not None]
    return Rows(
        [text for text in texts if text is not None],
        pairs,
        [label for label in labels if label is not None],
    )


def _refuse_missing(values: Sequence[str | None], table: Table, column: str, what: str) -> None:
    missing = [number for number, value in enumerate(values) if value is None]
    if missing:
        rows = ", ".join(str(number + table.first_row) for number in missing[:5])
        rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{table.source} has {len(missing)} missing {what} in column {column!r} "
            f"(rows {rows}{rest}); fill them in or drop those rows."
        )


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def _label(value: Any, names: Sequence[str] | None) -> str | None:
    """Return a label as text: 1, 1.0 and "1" are one class; a hub data set's names are used."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if names is not None and isinstance(value, int) and not isinstance(value, bool):
        # A test split whose labels are hidden has -1.
        return names[value] if 0 <= value < len(names) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = value.strip().partition(".")[0]  # pandas writes whole numbers so
    return str(value).strip() or None


def _class_names(labels: Sequence[str], column: str) -> list[str]:
    """Return the class names: numbers in numeric order, anything else in text order."""
    found = sorted(set(labels))
    if len(found) > MOST_CLASSES:
        raise DataError(
            f"column {column!r} has {len(found):,} different labels (such as {found[0]!r} and "
            f"{found[1]!r}); at most {MOST_CLASSES} classes are expected. Is it a rating or an "
            "id? Name the column of the class with --label-column."
        )
    try:
        return sorted(found, key=int)
    except ValueError:
        return found
