"""Label columns: classes, numbers, sets of names, or none, read and checked by objective.

Every fault names the column, the row and what was found there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ticketry.errors import DataError
from ticketry.tasks.base import Label, Split
from ticketry.tasks.splits import FEWEST_A_CLASS, check_classes
from ticketry.tasks.tables import Table

MOST_CLASSES = 200
MOST_NUMBERS = 10
"""From this many different fractions on, a column holds a quantity, not classes."""
FEWEST_EXAMPLES = 20
SEPARATOR = ";"
_WHOLE = re.compile(r"-?[0-9]+\.0+")
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class LabelKind:
    """How the labels of one objective are read, named and checked.

    Attributes:
        read: (table, columns) -> a value for each row, before names are numbered.
        names: (all values, columns) -> class or label names.
        encode: (value, names) -> label.
        check: (split, names, where) refuses data from which nothing can be learnt or judged.
        conflicts: a text with two labels is a fault of the data, and left out.
        check_test: (test split, where) refuses one on which every model scores the same.
    """

    read: Callable[[Table, Sequence[str]], list[Any]]
    names: Callable[[Sequence[Any], Sequence[str]], tuple[str, ...]]
    encode: Callable[[Any, Sequence[str]], Label]
    check: Callable[[Split, Sequence[str], str], None]
    conflicts: bool
    check_test: Callable[[Split, str], None] = lambda split, where: None


def refuse_missing(values: Sequence[Any], table: Table, column: str, what: str) -> None:
    """Refuse a column with None in it; names the rows."""
    missing = [number for number, value in enumerate(values) if value is None]
    if missing:
        rows = ", ".join(str(number + table.first_row) for number in missing[:5])
        rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{table.source} has {len(missing)} missing {what} in column {column!r} "
            f"(rows {rows}{rest}); fill them in or drop those rows."
        )


def is_missing(value: Any) -> bool:
    """Say whether a cell is empty as files write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _strange(table: Table, column: str, row: int, value: Any, expected: str) -> DataError:
    return DataError(
        f"{table.source}, row {row + table.first_row}: column {column!r} holds {value!r:.60}; "
        f"{expected}."
    )


# --- classes ----------------------------------------------------------------------------------


def _read_classes(table: Table, columns: Sequence[str]) -> list[Any]:
    (column,) = columns
    names = table.names.get(column)
    for row, value in enumerate(table.columns[column]):
        if isinstance(value, list | dict):
            raise _strange(
                table, column, row, value,
                "--objective classification expects one class a row; for several labels give "
                "--objective multi-label",
            )  # fmt: skip
    labels = [_class(value, names) for value in table.columns[column]]
    refuse_missing(labels, table, column, "labels")
    return labels


def _class(value: Any, names: Sequence[str] | None) -> str | None:
    """Return a label as text: 1, 1.0 and "1" are one class; a hub data set's names are used."""
    if is_missing(value):
        return None
    if names is not None and isinstance(value, int) and not isinstance(value, bool):
        # A test split whose labels are hidden has -1.
        return names[value] if 0 <= value < len(names) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = value.strip().partition(".")[0]  # pandas writes whole numbers so
    return str(value).strip() or None


def _class_names(labels: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the class names: numbers in numeric order, anything else in text order."""
    (column,) = columns
    found = sorted(set(labels))
    if len(found) > MOST_NUMBERS and _are_fractions(found):
        raise DataError(
            f"column {column!r} has {len(found):,} different numbers (such as {found[0]!r} and "
            f"{found[1]!r}), which look like a quantity. To predict it, give --objective "
            "regression; if they are classes, write them as names."
        )
    if len(found) > MOST_CLASSES:
        raise DataError(
            f"column {column!r} has {len(found):,} different labels (such as {found[0]!r} and "
            f"{found[1]!r}); at most {MOST_CLASSES} classes are expected. Is it a rating (then "
            "give --objective regression) or an id? Name the column of the class with "
            "--label-column."
        )
    try:
        return tuple(sorted(found, key=int))
    except ValueError:
        return tuple(found)


def _are_fractions(labels: Sequence[str]) -> bool:
    """Say whether all are numbers, and some not whole."""
    numbers = [_number(label) for label in labels]
    return None not in numbers and any(n is not None and not n.is_integer() for n in numbers)


def _check_class_counts(split: Split, names: Sequence[str], where: str) -> None:
    check_classes(split.labels, names, where)


# --- numbers ----------------------------------------------------------------------------------


def _read_numbers(table: Table, columns: Sequence[str]) -> list[Any]:
    (column,) = columns
    values = table.columns[column]
    empty = [None if is_missing(v) or (isinstance(v, str) and not v.strip()) else v for v in values]
    refuse_missing(empty, table, column, "labels")
    numbers = []
    for row, value in enumerate(values):
        number = _number(value)
        if number is None:
            hint = "" if isinstance(value, bool) else ". For classes, leave --objective out"
            raise _strange(
                table, column, row, value, "--objective regression expects a finite number" + hint
            )  # fmt: skip
        numbers.append(number)
    return numbers


def _number(value: Any) -> float | None:
    if isinstance(value, bool | list | dict):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _check_numbers(split: Split, names: Sequence[str], where: str) -> None:
    if len(split) < FEWEST_EXAMPLES:
        raise DataError(
            f"{where} has {len(split)} examples; expected at least {FEWEST_EXAMPLES} to learn a "
            "number from."
        )
    _check_spread(split, where)


def _check_spread(split: Split, where: str) -> None:
    if len(set(split.labels)) < 2:
        raise DataError(
            f"{where} has one number only ({split.labels[0]:g}); expected different ones, or "
            "nothing can be told apart."
        )


# --- sets of names ----------------------------------------------------------------------------


def _read_sets(table: Table, columns: Sequence[str]) -> list[Any]:
    if len(columns) == 1:
        return _read_set_column(table, columns[0])
    found: list[list[str]] = [[] for _ in range(table.length)]
    for column in columns:
        for row, value in enumerate(table.columns[column]):
            flag = value if isinstance(value, bool | int) else None
            if isinstance(value, float) and value in (0.0, 1.0):
                flag = int(value)
            if isinstance(value, str):
                flag = _FLAGS.get(value.strip().lower())
            if flag not in (0, 1):
                raise _strange(
                    table, column, row, value, "--label-columns expects 0 or 1 in each of them"
                )
            if flag:
                found[row].append(column)
    return found


def _read_set_column(table: Table, column: str) -> list[list[str]]:
    values = table.columns[column]
    refuse_missing([None if is_missing(v) else v for v in values], table, column, "label sets")
    names = table.names.get(column)
    sets = []
    for row, value in enumerate(values):
        if isinstance(value, str):
            parts: list[Any] = value.split(SEPARATOR)
        elif isinstance(value, list):
            parts = value
        else:
            raise _strange(
                table, column, row, value,
                f"--objective multi-label expects names separated by {SEPARATOR!r}, or a list of "
                "them",
            )  # fmt: skip
        labels = [_class(part, names) for part in parts]
        sets.append(list(dict.fromkeys(label for label in labels if label)))
    if max(map(len, sets), default=0) < 2:
        raise DataError(
            f"{table.source}: no row of column {column!r} has two labels; --objective multi-label "
            f"expects names separated by {SEPARATOR!r}. If each row has one class, leave "
            "--objective out."
        )
    return sets


def _set_names(sets: Sequence[Sequence[str]], columns: Sequence[str]) -> tuple[str, ...]:
    if len(columns) > 1:
        return tuple(columns)
    return _class_names([name for names in sets for name in names], columns)


def _check_sets(split: Split, names: Sequence[str], where: str) -> None:
    if len(names) < 2:
        raise DataError(
            f"{where} has {len(names)} labels; expected at least two, for one label is a class."
        )
    counts = [sum(column) for column in zip(*split.labels, strict=True)] or [0] * len(names)
    few = [f"{name!r} ({n})" for name, n in zip(names, counts, strict=True) if n < FEWEST_A_CLASS]
    if few:
        raise DataError(
            f"{where} has too few examples of {', '.join(few[:5])}; expected at least "
            f"{FEWEST_A_CLASS} a label. Add examples or drop the label."
        )


# --- none -------------------------------------------------------------------------------------


def _check_documents(split: Split, names: Sequence[str], where: str) -> None:
    if len(split) < FEWEST_EXAMPLES:
        raise DataError(
            f"{where} has {len(split)} documents; expected at least {FEWEST_EXAMPLES}, some of "
            "which are held out. In a .txt file, an empty line ends a document (without any, each "
            "line is one)."
        )


_DOCUMENTS = LabelKind(
    lambda table, columns: [],
    lambda values, columns: (),
    lambda value, names: (),
    _check_documents,
    conflicts=False,
)

KINDS: Mapping[str, LabelKind] = {
    "classification": LabelKind(
        _read_classes,
        _class_names,
        lambda value, names: names.index(value),
        _check_class_counts,
        conflicts=True,
    ),
    "regression": LabelKind(
        _read_numbers,
        lambda values, columns: tuple(columns),
        lambda value, names: value,
        _check_numbers,
        conflicts=False,
        check_test=_check_spread,
    ),
    "multi-label": LabelKind(
        _read_sets,
        _set_names,
        lambda value, names: tuple(int(name in value) for name in names),
        _check_sets,
        conflicts=True,
    ),
    "causal-lm": _DOCUMENTS,
    "masked-lm": _DOCUMENTS,
}
"""Objective -> how its labels are read."""
