"""Read tables: files by their extension, anything else as a data set of ``datasets``.

The only import of ``datasets`` is here; it is an extra (``pip install 'ticketry[data]'``).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ticketry.errors import DataError, nearest

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")
TEXT = "text"
"""The one column of a .txt file."""
_EMPTY_LINES = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Table:
    """Columns of values.

    Attributes:
        source: the file or data set, for messages.
        columns: name -> values, all of one length.
        first_row: what people call the first example: 2 below a header line, else 1.
        names: column -> class names of its integers, or those in its lists, where known.
        images: columns of images, each as its ``bytes`` or the ``path`` of its file.
    """

    source: str
    columns: dict[str, list[Any]]
    first_row: int
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: frozenset[str] = frozenset()

    @property
    def length(self) -> int:
        """Rows."""
        return max((len(values) for values in self.columns.values()), default=0)


def require_columns(table: Table, names: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: names the nearest that are there.
    """
    for name in names:
        if name not in table.columns:
            close = nearest(name, table.columns)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise DataError(
                f"{table.source} has no column {name!r}.{hint} It has {_some(list(table.columns))}."
            )


def _some(names: list[str]) -> str:
    """Name the first few, each cut to a readable length, and count the rest."""
    shown = ", ".join(repr(name if len(name) <= 60 else name[:60] + "…") for name in names[:20])
    return shown + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")


def read_table(
    name: str, *, config: str | None = None, test_split: str | None = None
) -> dict[str, Table]:
    """Read a file (as ``train``), or a data set with the splits that it has.

    Args:
        name: a file, a folder in the hub's layout, or a hub id.
        config: of a data set that has several.
        test_split: of a data set: the split that is called ``test`` here.

    Raises:
        DataError: not found, not readable, or not a table.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if config or test_split:
            option = "--data-config" if config else "--test-split"
            raise DataError(
                f"{option} was given, but {name} is a file, which has neither configurations nor "
                "splits; drop it, or name a data set."
            )
        return {"train": _read_file(path)}
    if path.is_dir():
        return _read_dataset(name, config, test_split)
    if path.suffix.lower() in FORMATS or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DataError(f"there is no file {name!r}.{_beside(path)}")
    return _read_dataset(name, config, test_split)


def _beside(path: Path) -> str:
    """Name the nearest files that are there."""
    if not path.parent.is_dir():
        return f" The folder {str(path.parent)!r} does not exist either."
    files = [p.name for p in path.parent.iterdir() if p.suffix.lower() in FORMATS]
    close = nearest(path.name, files)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _read_file(path: Path) -> Table:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DataError(
            f"{path} has the extension {path.suffix!r}; expected {', '.join(FORMATS)}. "
            "Nothing was opened."
        )
    if suffix == ".parquet":
        return _read_parquet(path)
    text = decode_file(path)
    if suffix == ".txt":
        return _read_text(path, text)
    if suffix in SEPARATORS:
        return _read_separated(path, text, SEPARATORS[suffix])
    return _read_json(path, text)


def decode_file(path: Path) -> str:
    """Return a file's text: UTF-8, with or without a byte-order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:1000]:
        raise DataError(
            f"{path} looks like UTF-16; expected UTF-8. Convert it: "
            f"iconv -f UTF-16 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} in line {line}. If it is "
            f"Latin-1, convert it: iconv -f LATIN1 -t UTF-8 {path.name} > "
            f"{path.stem}-utf8{path.suffix}"
        ) from error


def _read_separated(path: Path, text: str, separator: str) -> Table:
    # Cells of long texts are wanted whole; the library's default limit is 128 KiB.
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        _check_header(path, header)
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue  # an empty line
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}. Quote texts that hold {separator!r} or line ends."
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error
    columns: dict[str, list[Any]] = {
        name: [row[i] for row in rows] for i, name in enumerate(header)
    }
    return Table(str(path), columns, first_row=2)


def _check_header(path: Path, header: list[str]) -> None:
    double = [name for name, count in Counter(header).items() if count > 1]
    if double:
        raise DataError(
            f"{path} has {len(double)} column name(s) more than once: "
            f"{', '.join(map(repr, double[:5]))}; rename them, so that one is meant."
        )


def _read_text(path: Path, text: str) -> Table:
    """Read documents: an empty line ends one; in a file without any, each line is one."""
    text = text.replace("\r\n", "\n").strip()
    parts = _EMPTY_LINES.split(text) if _EMPTY_LINES.search(text) else text.split("\n")
    return Table(str(path), {TEXT: [part for part in parts if part]}, first_row=1)


def _read_json(path: Path, text: str) -> Table:
    """Read JSON lines, or one JSON array of objects."""
    if text.lstrip().startswith("["):
        try:
            objects = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}.") from error
        numbered = list(enumerate(objects, start=1))
    else:
        numbered = []
        # Not splitlines: JSON strings may hold U+2028 and its like as they are.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                numbered.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
    names: dict[str, None] = {}
    for number, value in numbered:
        if not isinstance(value, dict):
            raise DataError(
                f"{path}, line {number} holds {type(value).__name__}; expected an object "
                '{"column": value, …}.'
            )
        names.update(dict.fromkeys(value))
    columns = {name: [value.get(name) for _, value in numbered] for name in names}
    return Table(str(path), columns, first_row=1)


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: parquet needs pyarrow; install it with: pip install 'ticketry[data]'"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not a parquet file: {reason}") from error
    _check_header(path, table.column_names)
    return Table(str(path), table.to_pydict(), first_row=1)


def _read_dataset(name: str, config: str | None, test_split: str | None) -> dict[str, Table]:
    """Load a hub data set, or a local folder in the hub's own layout."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name!r} is no file here; a hub data set needs: pip install 'ticketry[data]'"
        ) from error
    try:
        datasets.disable_progress_bars()
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises dozens of kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if lines and lines[0].startswith("Config name is missing"):
            raise DataError(
                f"{name!r} has several configurations; name one with --data-config: "
                f"{' '.join(lines[1:2])[:500]}"
            ) from error
        reason = lines[0] if lines else repr(error)
        raise DataError(
            f"{name!r} is neither a file here nor a data set that could be loaded: {reason}"
        ) from error
    shown = name if config is None else f"{name} ({config})"
    wanted = {"train": "train", "validation": "validation", "test": test_split or "test"}
    for part in ("train", *([test_split] if test_split else [])):
        if part not in loaded:
            close = nearest(part, loaded)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise DataError(
                f"{shown!r} has the splits {', '.join(map(repr, loaded))}; expected {part!r} "
                f"among them.{hint}"
            )
    if test_split == "train":
        raise DataError("--test-split is 'train', which is trained on; name another split.")
    if test_split == "validation":
        del wanted["validation"]  # a part of train is split off for it
    return {
        part: _from_dataset(f"{shown} ({split})", loaded[split])
        for part, split in wanted.items()
        if split in loaded
    }


def _from_dataset(source: str, dataset: Any) -> Table:
    names, images = {}, set()
    features: dict[str, Any] = dict(dataset.features)
    for column, feature in features.items():
        if type(feature).__name__ == "Image":
            # As they lie in the file: decoding is our own, with messages of our own.
            dataset = dataset.cast_column(column, type(feature)(decode=False))
            images.add(column)
        inner = getattr(feature, "feature", feature)  # of a list, what it is of
        if type(inner).__name__ == "ClassLabel":
            names[column] = tuple(inner.names)
    return Table(source, dataset.to_dict(), 1, names, frozenset(images))
