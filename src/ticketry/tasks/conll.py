"""Sentences whose words bear tags: CoNLL files, and data sets with lists of words and of tags.

In a split, a text is a sentence's words, each on a line, and a label its tags, separated by spaces.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ticketry.errors import DataError
from ticketry.metrics import METRICS, metrics_for
from ticketry.metrics.entities import need_seqeval
from ticketry.tasks.base import Split, TaskData, strata
from ticketry.tasks.dealing import hold_out, no_copies
from ticketry.tasks.labels import FEWEST_EXAMPLES
from ticketry.tasks.splits import merge_groups, near_duplicate_groups
from ticketry.tasks.tables import Table, decode_file, read_table, require_columns

COLUMNS = ("tokens", "ner_tags")
"""What data sets of the hub call words and tags."""
DOCUMENT = "document_id"
FEWEST_DOCUMENTS = 20
"""From this many documents on, whole documents are held out, else single sentences."""
TABLES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")
"""Files that are tables; any other file is one of CoNLL."""
WORDS, TAGS = "\n", " "
OUTSIDE = "O"
_TAG = re.compile(r"O|[BI]-\S+")
_SPACES = re.compile(" +")
_DOCUMENT = "-DOCSTART-"
_SHOWN = 60


@dataclass
class Tagged:
    """Sentences as they were read.

    Attributes:
        source: for messages.
        words: of each sentence.
        tags: of each sentence, one a word.
        documents: which document each sentence is of; None where that is not known.
        dropped: sentences without a word, which were left out.
    """

    source: str
    words: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    documents: list[Hashable] | None = None
    dropped: int = 0

    def split(self) -> Split:
        """Return the sentences as a split."""
        texts = tuple(WORDS.join(words) for words in self.words)
        return Split(texts, None, tuple(TAGS.join(tags) for tags in self.tags))


def load_tagged(
    data: str,
    *,
    columns: tuple[str | None, str | None, str | None] = (None, None, None),
    objective: str = "token-classification",
    test_data: str | None = None,
    config: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
    drop_empty: bool = False,
) -> TaskData:
    """Read tagged sentences from a CoNLL file, a table, or a data set of the hub.

    Of a CoNLL file a line is a word, its first column, and its tag, the last one; an empty line
    ends a sentence, and lines of ``-DOCSTART-`` stand between documents. What the source does not
    bring along is split off: whole documents or, where these are not known or few, sentences, of
    which near-duplicates stay together.

    Args:
        data: a path, or a hub id.
        columns: of the words, none, and of the tags, where not :data:`COLUMNS`; not of a CoNLL
            file.
        objective: ``token-classification``.
        test_data: a file to test on.
        config: of a hub data set that has several.
        test_split: the split of a hub data set that is tested on.
        seed: decides what is split off.
        drop_empty: leave out sentences without a word and count them.

    Raises:
        DataError: a fault of the data, such as a word without a tag.
        InputError: seqeval, which counts entities, is not installed.
    """
    need_seqeval()
    named = (columns[0], columns[2])
    found = _read(data, named, config, test_split, drop_empty)
    if test_data is not None:
        found = {**found, "test": _read(test_data, named, None, None, drop_empty)["train"]}
    where = found["train"].source
    names = _names(found)
    notes = [_scheme([tags for part in found.values() for tags in part.tags])]
    splits = {part: tagged.split() for part, tagged in found.items()}
    notes += [
        f"{tagged.dropped:,} {part} sentences without a word were left out"
        for part, tagged in found.items()
        if tagged.dropped
    ]
    whole = splits.pop("train")
    kept = no_copies(whole, list(splits.values()))
    if copies := len(whole) - len(kept):
        notes.append(
            f"{copies:,} training sentences that also stand in the held-out data were left out"
        )
    whole = whole.take(kept)
    _check_enough(whole, where)
    groups = list(range(len(whole)))
    if len(splits) < 2:
        groups, unit = _groups(whole, found["train"], kept)
        notes.append(f"{unit} stay on one side of the split")
    taken = hold_out(whole, splits, groups, seed=seed, where=where)
    if not any(strata(taken["test"])):
        raise DataError(
            f"the test part of {where} has no entity (all tags are O); every model would score 0."
        )
    metric = metrics_for(objective)[0]
    source = data if config is None else f"{data} ({config})"
    return TaskData(
        name=Path(data).stem if Path(data).exists() else data,
        source=source if test_data is None else f"{source}, test {test_data}",
        labels=names,
        metric=metric,
        margin=METRICS[metric].margin,
        train=taken["train"],
        validation=taken["validation"],
        test=taken["test"],
        notes=tuple(notes),
        objective=objective,
    )


# --- reading -------------------------------------------------------------------------------------


def _read(
    name: str,
    columns: tuple[str | None, str | None],
    config: str | None,
    test_split: str | None,
    drop_empty: bool,
) -> dict[str, Tagged]:
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() not in TABLES and not (config or test_split):
        if given := [column for column in columns if column]:
            raise DataError(
                f"{path} is read as a CoNLL file, a word a line, whose columns have no names such "
                f"as {given[0]!r}; drop --text-column and --label-column, or give a table "
                f"({', '.join(TABLES)})."
            )
        return {"train": read_conll(path)}
    tables = read_table(name, config=config, test_split=test_split)
    usual = (columns[0] or COLUMNS[0], columns[1] or COLUMNS[1])
    return {part: _from_table(table, *usual, drop_empty) for part, table in tables.items()}


def read_conll(path: Path) -> Tagged:
    """Read a CoNLL file: columns separated by tabs, where there are any, or else by spaces.

    Raises:
        DataError: names the line that is no word with a tag.
    """
    found = Tagged(str(path), documents=[])
    document = 0
    words: list[str] = []
    tags: list[str] = []

    def end() -> None:
        if words:
            assert found.documents is not None
            found.words.append(list(words))
            found.tags.append(list(tags))
            found.documents.append(document)
        words.clear()
        tags.clear()

    # Not splitlines: a word may hold U+2028 and its like.
    for number, line in enumerate(decode_file(path).replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            end()
        elif line.startswith(_DOCUMENT):
            end()
            document += 1
        else:
            fields = line.rstrip().split("\t") if "\t" in line else _SPACES.split(line.strip(" "))
            if len(fields) < 2:
                raise DataError(
                    f"{path}, line {number}: {line[:_SHOWN]!r} has no tag; expected a word and, in "
                    "the last column, its tag. An empty line ends a sentence."
                )
            words.append(_word(fields[0], f"{path}, line {number}"))
            tags.append(_tag(fields[-1].strip(), f"{path}, line {number}"))
    end()
    if not found.words:
        raise DataError(f"{path} has no sentences; expected a word and its tag in each line.")
    if document == 0:
        found.documents = None
    return found


def _from_table(table: Table, words: str, tags: str, drop_empty: bool) -> Tagged:
    """Read a table whose rows are sentences."""
    if not table.columns or not table.length:
        raise DataError(f"{table.source} has no rows; expected sentences.")
    require_columns(table, (words, tags))
    names = table.names.get(tags)
    found = Tagged(table.source, documents=[] if DOCUMENT in table.columns else None)
    for row in range(table.length):
        where = f"{table.source}, row {row + table.first_row}"
        some, theirs = table.columns[words][row], table.columns[tags][row]
        for column, value in ((words, some), (tags, theirs)):
            if not isinstance(value, list):
                raise DataError(
                    f"{where}: column {column!r} holds {value!r:.60}; expected a list, of a "
                    "sentence's words or tags."
                )
        if len(some) != len(theirs):
            raise DataError(
                f"{where} has {len(some)} words and {len(theirs)} tags; expected one tag a word."
            )
        if not some and drop_empty:
            found.dropped += 1
            continue
        if not some:
            raise DataError(f"{where} is a sentence without a word; drop such rows.")
        found.words.append([_word(word, where) for word in some])
        found.tags.append([_tag(_named(tag, names, where, tags), where) for tag in theirs])
        if found.documents is not None:
            found.documents.append(table.columns[DOCUMENT][row])
    return found


def _word(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or WORDS in value:
        raise DataError(
            f"{where} has the word {value!r:.60}; expected text on one line, and not only spaces."
        )
    return value


def _named(tag: Any, names: Sequence[str] | None, where: str, column: str) -> Any:
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None or not 0 <= tag < len(names):
            known = "no names" if names is None else f"names of 0 to {len(names) - 1}"
            raise DataError(
                f"{where}: column {column!r} holds the number {tag}, and the data have {known} for "
                "it; expected tags such as B-PER, or a ClassLabel's numbers."
            )
        return names[tag]
    return tag


def _tag(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _TAG.fullmatch(value):
        raise DataError(
            f"{where}: the tag {value!r:.60} is none of IOB; expected O, B-TYPE or I-TYPE. Convert "
            "other schemes first: of IOBES and BILOU, S- and U- are B-, E- and L- are I-."
        )
    return value


# --- checks --------------------------------------------------------------------------------------


def _names(found: dict[str, Tagged]) -> tuple[str, ...]:
    """Return the tags, O first; refuse held-out ones that the training data lack."""
    seen = {
        part: {tag for tags in tagged.tags for tag in tags} - {OUTSIDE}
        for part, tagged in found.items()
    }
    names = (OUTSIDE, *sorted(seen["train"], key=lambda tag: (tag[2:], tag)))
    for part, tagged in found.items():
        if strange := sorted(seen[part] - set(names)):
            raise DataError(
                f"the {part} data ({tagged.source}) have the tag {strange[0]!r}, which the "
                f"training data lack; they have {', '.join(names[:20])}."
            )
    return names


def _scheme(sentences: Sequence[Sequence[str]]) -> str:
    """Say how entities begin; the tags are kept as they are."""
    begun = {"B": 0, "I": 0}
    needed = 0
    for tags in sentences:
        for before, tag in zip((OUTSIDE, *tags), tags, strict=False):
            touches = before[2:] == tag[2:] and before != OUTSIDE
            if tag[0] == "B" or (tag[0] == "I" and not touches):
                begun[tag[0]] += 1
                needed += tag[0] == "B" and touches
    if not begun["I"]:
        return "tags are IOB2: every entity begins with B-; they are kept"
    if begun["B"] == needed:
        return "tags are IOB1: B- stands only between entities of one type; they are kept"
    return (
        f"tags mix IOB1 and IOB2: {begun['B']:,} entities begin with B-, {begun['I']:,} with I-; "
        "they are kept"
    )


def _groups(whole: Split, tagged: Tagged, kept: Sequence[int]) -> tuple[list[int], str]:
    """Return a group for each training sentence, and what is kept together."""
    documents = [tagged.documents[i] for i in kept] if tagged.documents else []
    if len(set(documents)) >= FEWEST_DOCUMENTS:
        # Not near-duplicates too: short lines that all news have would join all documents.
        return merge_groups(documents), f"sentences of {len(set(documents)):,} documents"
    groups = near_duplicate_groups(whole.texts)
    return groups, f"{len(groups) - len(set(groups)):,} near-duplicates"


def _check_enough(split: Split, where: str) -> None:
    told = sum(strata(split)) if len(split) else 0
    if told < FEWEST_EXAMPLES:
        raise DataError(
            f"{where} has {told} training sentences with an entity; expected at least "
            f"{FEWEST_EXAMPLES}."
        )
