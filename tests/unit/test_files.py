"""Files of a user's own: what is read, and the message for each fault."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ticketry.errors import DataError
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file

ROWS = [(f"text number {i} about {'cats' if i % 2 else 'dogs'}", i % 2) for i in range(60)]


def write(path: Path, rows: list[Any], *, header: str = "text,label") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
    return path


def load(path: Path | str, **changes: Any) -> TaskData:
    return load_file(str(path), **{"text_column": "text", "label_column": "label", **changes})


def texts(data: TaskData) -> set[str]:
    return {*data.train.texts, *data.validation.texts, *data.test.texts}


def test_csv_is_split_and_hashed(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.csv", ROWS))
    # 60 examples: a fifth to test, a tenth to validation.
    assert (len(data.train.labels), len(data.validation.labels), len(data.test.labels)) == (
        42,
        6,
        12,
    )
    assert data.labels == ("0", "1")
    assert texts(data) == {text for text, _ in ROWS}
    assert (data.metric, data.margin) == ("accuracy", 0.01)
    assert data.sha256 == load(tmp_path / "a.csv").sha256
    assert data.sha256 != load(tmp_path / "a.csv", seed=1).sha256


def test_every_format_gives_the_same_data(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame(ROWS, columns=["text", "label"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_parquet(tmp_path / "a.parquet")
    files = ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"]
    assert len({load(tmp_path / name).sha256 for name in files}) == 1


def test_a_folder_in_the_hubs_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "reviews"
    folder.mkdir()
    write(folder / "train.csv", ROWS)
    write(folder / "test.csv", [("an unseen text about dogs", 0), ("another about cats", 1)])
    data = load(folder)
    assert data.test.texts == ("an unseen text about dogs", "another about cats")
    assert len(data.train.labels) + len(data.validation.labels) == 60


def test_pairs(tmp_path: Path) -> None:
    rows = [(a, f"second {i}", b) for i, (a, b) in enumerate(ROWS)]
    path = write(tmp_path / "a.csv", rows, header="text,other,label")
    data = load(path, text_pair_column="other")
    assert data.train.pairs is not None
    assert all(
        pair.split()[-1] == text.split()[2]
        for text, pair in zip(data.train.texts, data.train.pairs, strict=True)
    )


def test_test_data_of_its_own(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ROWS)
    test = write(tmp_path / "b.csv", [("new cats", 1), ("new dogs", 0)])
    data = load(train, test_data=str(test))
    assert data.test.texts == ("new cats", "new dogs")
    assert len(data.train.labels) + len(data.validation.labels) == 60


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path).labels == ("0", "1")


def test_labels_of_several_kinds_are_one_class(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    kinds: list[Any] = [1, 1.0, "1", "1 "]
    lines = [
        {"text": text, "label": kinds[i % 4] if label else "10"}
        for i, (text, label) in enumerate(ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert load(path).labels == ("1", "10")  # numbers in numeric order


def test_text_with_two_labels_is_left_out_and_counted(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.csv", [*ROWS, ("Same text!", 0), ("same  TEXT", 1)]))
    assert "2 examples whose text has two labels were left out" in data.notes
    assert len(texts(data)) == 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"text,label\n", "has no rows; expected examples below its header"),
        (b"text,verdict\na,1\n", r"has no column 'label'. It has 'text', 'verdict'"),
        (b"texts,label\na,1\n", r"has no column 'text'. Did you mean 'texts'\?"),
        (b"text,text,label\na,b,1\n", r"has 1 column name\(s\) more than once: 'text'"),
        (b"text,label\na,1,x\n", r"line 2: 3 fields, but the header has 2"),
        (b"text,label\na,\nb,1\nc,\n", r"2 missing labels in column 'label' \(rows 2, 4\)"),
        (b"text,label\n,1\nb,1\n", r"1 missing texts in column 'text' \(rows 2\)"),
        (b'text,label\n"a,1\n', r"line 2: unexpected end of data"),
        (b"text,label\na\xff,1\n", r"is not UTF-8: byte 0xff in line 2. If it is Latin-1"),
        ("text,label\na,1\n".encode("utf-16"), "looks like UTF-16; expected UTF-8. Convert it"),
        ("text,label\na,1\n".encode("utf-16-le"), "looks like UTF-16"),
    ],
)
def test_faults_of_a_csv(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(path)


def test_one_class_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [(text, "good") for text, _ in ROWS])
    with pytest.raises(DataError, match=r"has one class only \('good'\); expected at least two"):
        load(path)


def test_too_few_of_a_class(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [*ROWS, ("rare one", 2), ("rare two", 2)])
    with pytest.raises(DataError, match=r"has too few examples of '2' \(2\); expected at least 8"):
        load(path)


def test_a_target_that_is_no_class(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [(f"text {i}", i / 7) for i in range(300)])
    with pytest.raises(DataError, match=r"300 different numbers .* give --objective regression"):
        load(path)


def test_a_test_label_that_training_lacks(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ROWS)
    test = write(tmp_path / "b.csv", [("new", 7)])
    with pytest.raises(DataError, match="have the label '7', which the training data lack"):
        load(train, test_data=str(test))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", ROWS)
    with pytest.raises(DataError, match=r"there is no file .*Did you mean 'reviews.csv'\?"):
        load(tmp_path / "review.csv")
    with pytest.raises(DataError, match="does not exist either"):
        load(tmp_path / "no" / "review.csv")
    with pytest.raises(DataError, match="neither a file here nor a data set that could be loaded"):
        load("user/no-such-data-set")


def test_an_extension_that_is_not_known_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match=r"has the extension '.pkl'; expected .csv, .tsv"):
        load(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", "[1, 2]\n", "line 1 holds int; expected an object"),
        ("a.json", "[{]", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.parquet", "not parquet at all", "is not a parquet file"),
    ],
)
def test_faults_of_other_formats(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def hub_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch, classes: dict[str, list[str]], **splits: Any
) -> Path:
    """Write parquet files in the hub's layout; ``classes``: column -> ClassLabel names."""
    import datasets
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", path.parent / "cache")
    path.mkdir()
    for split, rows in splits.items():
        features = datasets.Features(
            {
                column: datasets.ClassLabel(names=classes[column])
                if column in classes
                else datasets.Value("int64" if isinstance(value, int) else "string")
                for column, value in rows[0].items()
            }
        )
        table = datasets.Dataset.from_list(rows, features=features).data.table
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path / f"{split}.parquet")
    return path


def test_class_names_are_those_of_the_label_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {"coarse": ["place", "number", "person"], "fine": ["x", "y"]}
    rows = [
        {"text": text, "plain": i % 3, "coarse": i % 3, "fine": i % 2}
        for i, (text, _) in enumerate(ROWS)
    ]
    folder = hub_folder(tmp_path / "d", monkeypatch, classes, train=rows)
    assert load(folder, label_column="coarse").labels == ("number", "person", "place")
    assert load(folder, label_column="plain").labels == ("0", "1", "2")
    assert load(folder, label_column="fine").labels == ("x", "y")


def test_a_test_split_is_hidden_by_its_labels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {"label": ["bad", "good"]}
    train = [{"text": text, "label": label, "idx": i} for i, (text, label) in enumerate(ROWS)]
    test = [{"text": f"new {i}", "label": i % 2, "idx": -1} for i in range(9)]
    seen = hub_folder(tmp_path / "seen", monkeypatch, classes, train=train, test=test)
    assert set(load(seen).test.texts) == {row["text"] for row in test}
    hidden = [{**row, "label": -1, "idx": 1} for row in test]
    unseen = hub_folder(tmp_path / "unseen", monkeypatch, classes, train=train, test=hidden)
    data = load(unseen)
    assert texts(data) == {text for text, _ in ROWS}
    assert "the test split hides its labels and was not used" in data.notes


def test_line_separators_inside_a_json_string_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"{text}\u2028more\u0085", "label": label} for text, label in ROWS]
    path.write_bytes(
        "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8")
    )
    assert len(texts(load(path))) == len(ROWS)


def test_whole_numbers_with_a_point_are_whole(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [(text, ("2.0", "10.0")[label]) for text, label in ROWS])
    test = write(tmp_path / "b.csv", [("new cats", 10), ("new dogs", 2)])
    assert load(train, test_data=str(test)).labels == ("2", "10")


def test_training_texts_that_stand_in_the_test_data_are_left_out(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ROWS)
    test = write(tmp_path / "b.csv", [(f"{text.upper()}!", label) for text, label in ROWS[:10]])
    data = load(train, test_data=str(test))
    note = "10 training texts that also stand in the held-out data were left out"
    assert note in data.notes
    held = {text for text, _ in ROWS[:10]}
    assert not held & {*data.train.texts, *data.validation.texts}
    assert len(data.train.texts) + len(data.validation.texts) == 50


def test_training_data_that_are_the_test_data_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    with pytest.raises(DataError, match="60 training texts that also stand in the held-out data"):
        load(path, test_data=str(path))
