"""Questions on texts, whose answers are parts of these texts: SQuAD's layouts, read and checked.

In a split, ``texts`` are the questions, ``pairs`` the contexts, and a label is the tuple of an
example's (answer, place) pairs, a place being the index of the answer's first character.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ticketry.errors import DataError
from ticketry.metrics import METRICS, metrics_for
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.dealing import hold_out, without_copies
from ticketry.tasks.labels import FEWEST_EXAMPLES, is_missing, refuse_missing
from ticketry.tasks.splits import merge_groups, near_duplicate_groups
from ticketry.tasks.tables import Table, decode_file, read_table, require_columns

COLUMNS = ("question", "context", "answers")
"""What SQuAD calls its columns on the hub, and its fields in its own files."""
ID, TITLE = "id", "title"
FEWEST_TITLES = 20
"""From this many articles on, whole articles are held out, else whole contexts."""
_SHOWN = 60


def load_answers(
    data: str,
    *,
    columns: tuple[str | None, str | None, str | None] = (None, None, None),
    objective: str = "extractive-qa",
    test_data: str | None = None,
    config: str | None = None,
    test_split: str | None = None,
    seed: int = 0,
    drop_empty: bool = False,
) -> TaskData:
    """Read questions from a SQuAD JSON file, JSON lines, parquet, or a data set of the hub.

    What the source does not bring along is split off: whole articles by their ``title``, or, of
    few articles, whole contexts with their near-duplicates.

    Args:
        data: a path, or a hub id.
        columns: of the question, the context and the answers, where not :data:`COLUMNS`.
        objective: ``extractive-qa``, or ``extractive-qa-v2`` where a question may have no answer.
        test_data: a file to test on.
        config: of a hub data set that has several.
        test_split: the split of a hub data set that is tested on.
        seed: decides what is split off.
        drop_empty: leave out rows without a question or context and count them.

    Raises:
        DataError: a fault of the data, such as an answer that is not where it is said to be.
    """
    named = tuple(given or usual for given, usual in zip(columns, COLUMNS, strict=True))
    tables = _tables(data, config, test_split)
    if test_data is not None:
        tables = {**tables, "test": _tables(test_data, None, None)["train"]}
    notes = []
    if drop_empty:
        for part, table in tables.items():
            tables[part], dropped = _without_empty(table, named[:2])
            if dropped:
                notes.append(f"{dropped:,} {part} questions without a text were left out")
    may_be_none = objective == "extractive-qa-v2"
    splits = {part: _split(table, named, may_be_none) for part, table in tables.items()}
    where = tables["train"].source
    whole, copies = without_copies(splits.pop("train"), list(splits.values()))
    if copies:
        notes.append(f"{copies:,} training questions that also stand in the held-out data, with "
                     "their contexts, were left out")  # fmt: skip
    _check_enough(whole, where)
    groups = list(range(len(whole)))
    if len(splits) < 2:
        groups, unit = _groups(whole, tables["train"], named[1])
        notes.append(f"questions on one {unit} stay on one side of the split")
    taken = hold_out(whole, splits, groups, seed=seed, where=where)
    if may_be_none:
        for part, split in taken.items():
            none = sum(not answers for answers in split.labels)
            notes.append(f"{none:,} of {len(split):,} {part} questions have no answer")
    metric = metrics_for(objective)[0]
    source = data if config is None else f"{data} ({config})"
    return TaskData(
        name=Path(data).stem if Path(data).exists() else data,
        source=source if test_data is None else f"{source}, test {test_data}",
        labels=(),
        metric=metric,
        margin=METRICS[metric].margin,
        train=taken["train"],
        validation=taken["validation"],
        test=taken["test"],
        notes=tuple(notes),
        objective=objective,
    )


def _tables(name: str, config: str | None, test_split: str | None) -> dict[str, Table]:
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() == ".json" and not (config or test_split):
        try:
            content = json.loads(decode_file(path))
        except (ValueError, RecursionError):
            content = None  # JSON lines, perhaps
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            return {"train": _flat(path, content["data"])}
    return read_table(name, config=config, test_split=test_split)


def _flat(path: Path, articles: Sequence[Any]) -> Table:
    """Return a SQuAD file, articles of paragraphs of questions, as a table."""
    try:
        rows = list(_questions(articles))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not in SQuAD's layout ({type(error).__name__}: {str(error)[:_SHOWN]}); "
            "expected data: [{title, paragraphs: [{context, qas: [{id, question, answers}]}]}]."
        ) from error
    names = (ID, TITLE, *COLUMNS)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return Table(str(path), columns, first_row=1)


def _questions(articles: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                # In version 2 an impossible question may have plausible answers, under that name.
                answers = [] if asked.get("is_impossible") else asked["answers"]
                yield (
                    asked.get(ID),
                    article.get(TITLE),
                    asked["question"],
                    paragraph["context"],
                    answers,
                )


def _without_empty(table: Table, names: Sequence[str]) -> tuple[Table, int]:
    require_columns(table, names)
    kept = [
        row
        for row in range(table.length)
        if all(str(table.columns[name][row] or "").strip() for name in names)
    ]
    columns = {name: [values[i] for i in kept] for name, values in table.columns.items()}
    return dataclasses.replace(table, columns=columns), table.length - len(kept)


def _split(table: Table, names: Sequence[str], may_be_none: bool) -> Split:
    """Check a table's questions, contexts and answers."""
    if not table.columns or not table.length:
        raise DataError(f"{table.source} has no rows; expected questions.")
    require_columns(table, names)
    question, context, answers = names
    for name, what in ((question, "questions"), (context, "contexts")):
        values = [None if is_missing(v) or not str(v).strip() else v for v in table.columns[name]]
        refuse_missing(values, table, name, what)
    # Contexts stay as they are: the answers' places count every character.
    contexts = tuple(map(str, table.columns[context]))
    labels = tuple(
        _answers(value, contexts[row], _Place(table, row), may_be_none)
        for row, value in enumerate(table.columns[answers])
    )
    questions = tuple(str(value).strip() for value in table.columns[question])
    return Split(questions, contexts, labels)


@dataclasses.dataclass(frozen=True)
class _Place:
    """An example, for messages: by its id, or by its row."""

    table: Table
    row: int

    def __str__(self) -> str:
        ids = self.table.columns.get(ID)
        if ids is not None and not is_missing(ids[self.row]):
            return f"{self.table.source}, question {str(ids[self.row])[:_SHOWN]!r}"
        return f"{self.table.source}, row {self.row + self.table.first_row}"


def _answers(
    value: Any, context: str, place: _Place, may_be_none: bool
) -> tuple[tuple[str, int], ...]:
    """Return an example's different answers, each found where it is said to be."""
    pairs = _pairs(value)
    if pairs is None:
        raise DataError(
            f"{place}: its answers are {value!r:.60}; expected texts and the places of their "
            "first characters, such as {'text': ['Rome'], 'answer_start': [17]}."
        )
    if not pairs and not may_be_none:
        raise DataError(
            f"{place} has no answer; --objective extractive-qa expects at least one for each "
            "question. If some cannot be answered, give --objective extractive-qa-v2 (as the task "
            "squad_v2 does)."
        )
    for text, start in pairs:
        if not text.strip():
            raise DataError(
                f"{place} has an answer that is empty ({text!r}); expected some of its context"
                + (", or no answer at all." if may_be_none else ".")
            )
        found = context[start : start + len(text)] if start >= 0 else ""
        if found != text:
            at = context.find(text)
            hint = f"it stands at {at}" if at >= 0 else "it stands nowhere in it"
            raise DataError(
                f"{place}: the answer {text!r:.80} is said to begin at character {start} of its "
                f"context ({len(context):,} characters), which has {found!r:.80} there; {hint}. "
                "Places count characters from 0, not bytes or words."
            )
    return tuple(dict.fromkeys(pairs))


def _pairs(value: Any) -> list[tuple[str, int]] | None:
    """Read ``{"text": […], "answer_start": […]}`` (the hub) or a list of such with one each."""
    if value is None:
        return []
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
    elif isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        texts = [answer.get("text") for answer in value]
        starts = [answer.get("answer_start") for answer in value]
    else:
        return None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return None
    pairs = list(zip(texts, starts, strict=True))
    return pairs if all(type(t) is str and type(s) is int for t, s in pairs) else None


def _check_enough(split: Split, where: str) -> None:
    answered = sum(bool(answers) for answers in split.labels)
    if answered < FEWEST_EXAMPLES:
        raise DataError(
            f"{where} has {answered} training questions with an answer; expected at least "
            f"{FEWEST_EXAMPLES}."
        )


def _groups(whole: Split, table: Table, column: str) -> tuple[list[int], str]:
    """Return a group for each training question, and what a group is."""
    assert whole.pairs is not None
    contexts = list(dict.fromkeys(whole.pairs))
    near = dict(zip(contexts, near_duplicate_groups(contexts), strict=True))
    groups = [near[context] for context in whole.pairs]
    titles = [title for title in table.columns.get(TITLE, ()) if title]
    if len(titles) < table.length or len(set(titles)) < FEWEST_TITLES:
        return groups, "context"
    article = dict(zip(table.columns[column], titles, strict=True))
    return merge_groups(groups, [article[context] for context in whole.pairs]), "article"
