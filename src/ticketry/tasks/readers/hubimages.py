"""Image data sets of the hub: a column of images and one of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ticketry.errors import DataError
from ticketry.tasks.pictures import SHORT, PictureReader
from ticketry.tasks.readers.base import Examples, Found
from ticketry.tasks.tables import Table, read_table, require_columns

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def is_hub_folder(folder: Path) -> bool:
    """Say whether a folder is laid out as data sets are on the hub: parquet files, or metadata."""
    patterns = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns) or any(
        (place / name).is_file()
        for name in _METADATA
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir()))
    )


def read_hub(
    name: str,
    *,
    config: str | None,
    test_split: str | None,
    image_column: str | None,
    label_column: str | None,
) -> Found:
    """Read an image data set of the hub, or a folder in its layout.

    Args:
        name: an id, or a folder.
        config: of a data set that has several.
        test_split: that is tested on.
        image_column: by default the only one of images.
        label_column: by default the only one of classes.

    Raises:
        DataError: it cannot be read, or has not the columns.
    """
    tables = read_table(name, config=config, test_split=test_split)
    train = tables["train"]
    image = image_column or _only(train, sorted(train.images), "of images", "--text-column")
    label = label_column or _only(train, list(train.names), "of classes", "--label-column")
    reader = PictureReader(SHORT)
    notes, splits = [], {}
    for role, table in tables.items():
        require_columns(table, [image, label])
        if image not in table.images:
            raise DataError(
                f"{table.source}: column {image!r} holds no images; expected a column of the "
                f"hub's type Image, such as {', '.join(map(repr, sorted(table.images))) or 'none'}."
            )
        names = table.names.get(label)
        if role != "train" and set(table.columns[label]) == {-1}:
            notes.append(f"the {role} split hides its labels and was not used")
            continue
        images, labels = [], []
        for row, (cell, value) in enumerate(
            zip(table.columns[image], table.columns[label], strict=True)
        ):
            where = f"{role} row {row + table.first_row}"
            found = reader.read(_content(cell), where)
            if found is not None:
                images.append(found)
                labels.append(_class(value, names, f"{table.source}, row {row}", label))
        splits[role] = Examples(tuple(images), tuple(labels))
    if test_split is not None and "test" not in splits:
        raise DataError(
            f"{tables['test'].source} hides its labels (all are -1), so it cannot be tested on; "
            "name another --test-split."
        )
    reader.refuse_faults(name)
    return Found(splits, train.names.get(label, ()), (*notes, *reader.notes()))


def _only(table: Table, found: Sequence[str], what: str, option: str) -> str:
    if len(found) != 1:
        shown = ", ".join(map(repr, found)) or "none"
        raise DataError(
            f"{table.source} has {len(found)} columns {what} ({shown}); name one of its columns "
            f"with {option}: {', '.join(map(repr, table.columns))}."
        )
    return found[0]


def _content(cell: Any) -> bytes | Path:
    """Return an image's bytes, or the file that it lies in."""
    if isinstance(cell, dict):
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path"):
            return Path(cell["path"])
    return b""


def _class(value: Any, names: Sequence[str] | None, where: str, column: str) -> str:
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if names is None and isinstance(value, str | int) and str(value).strip():
        return str(value).strip()
    raise DataError(
        f"{where}: column {column!r} holds {value!r:.60}; expected a class: "
        + (f"0 to {len(names) - 1} (classes count from 0)." if names else "text or a whole number.")
    )
