from __future__ import annotations

import itertools
import json
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ticketry.errors import DataError
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.splits import (
    drop_conflicts,
    merge_groups,
    near_duplicate_groups,
    sizes_for,
    split_groups,
)


def make(n: int = 40) -> TaskData:
    whole = Split(tuple(f"text {i}" for i in range(n)), None, tuple(i % 4 // 3 for i in range(n)))
    part = whole.take(range(4))
    return TaskData("t", "s", ("a", "b"), "accuracy", 0.01, whole, part, part)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25)), min_size=30, max_size=200),
    st.integers(0, 5),
)
def test_no_group_is_divided_and_nothing_is_lost(rows: list[tuple[int, int]], seed: int) -> None:
    labels, groups = [r[0] for r in rows], [r[1] for r in rows]
    parts = split_groups(labels, groups, seed=seed, sizes={"test": 10, "validation": 5})
    assert sorted(i for part in parts.values() for i in part) == list(range(len(rows)))
    homes: dict[int, set[str]] = {}
    for part, indices in parts.items():
        for i in indices:
            homes.setdefault(groups[i], set()).add(part)
    assert all(len(home) == 1 for home in homes.values())
    assert len(parts["test"]) <= 11


def test_classes_are_in_proportion() -> None:
    labels = [0] * 300 + [1] * 100
    parts = split_groups(labels, range(400), seed=0, sizes={"test": 80, "validation": 40})
    assert Counter(labels[i] for i in parts["test"]) == {0: 60, 1: 20}
    assert Counter(labels[i] for i in parts["validation"]) == {0: 30, 1: 10}
    assert parts == split_groups(labels, range(400), seed=0, sizes={"test": 80, "validation": 40})
    other = split_groups(labels, range(400), seed=1, sizes={"test": 80, "validation": 40})
    assert parts["test"] != other["test"]


def test_near_duplicates_share_a_group() -> None:
    long = "a long sentence about a film that has many words and one more " * 2
    texts = ["The film!", "the  FILM", long + "end", long + "end indeed", "quite another", ""]
    groups = near_duplicate_groups(texts)
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len({groups[0], groups[2], groups[4], groups[5]}) == 4


def test_groups_join_through_either_grouping() -> None:
    # 0-1 by the first, 1-2 by the second: all three together.
    groups = merge_groups([0, 0, 1, 2], ["x", "y", "y", "z"])
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_conflicting_labels_are_dropped() -> None:
    assert drop_conflicts(["A b", "a  B!", "c", "c"], [0, 1, 1, 1]) == [2, 3]


def test_sizes() -> None:
    assert sizes_for(100, with_test=True) == {"test": 20, "validation": 10}
    assert sizes_for(10**6, with_test=True) == {"test": 2000, "validation": 1000}
    assert sizes_for(100, with_test=False) == {"validation": 10}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40))
def test_a_part_of_the_training_data_is_stratified(samples: int) -> None:
    data = make(40)  # 30 of class 0, 10 of class 1
    part = data.limited(samples, 0)
    counts = Counter(part.train.labels)
    assert len(part.train.labels) == samples
    assert abs(counts[0] - samples * 0.75) < 1
    assert set(part.train.texts) <= set(data.train.texts)
    assert part.test == data.test
    assert part == data.limited(samples, 0)


def test_prepared_data_come_back_or_are_refused(tmp_path) -> None:
    data = make()
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data.to_json()))
    assert TaskData.read(path) == data
    path.write_text(path.read_text().replace("text 7", "text 8"))
    with pytest.raises(DataError, match="do not fit their hash"):
        TaskData.read(path)
    path.write_text("{")
    with pytest.raises(DataError, match="is missing or damaged"):
        TaskData.read(path)


def test_a_text_without_words_is_itself() -> None:
    assert drop_conflicts([":)", ":(", "☺️", "☹️"], [1, 0, 1, 0]) == [0, 1, 2, 3]
    assert len(set(near_duplicate_groups([":)", ":(", "❤️"]))) == 3


def test_vowel_marks_are_part_of_a_word() -> None:
    assert drop_conflicts(["कि", "का"], [1, 0]) == [0, 1]
    assert drop_conflicts(["caf\u00e9", "cafe\u0301!"], [1, 0]) == []  # one word, spelt two ways


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=14), max_size=14))
def test_near_duplicates_are_those_of_the_plain_formula(words: list[list[str]]) -> None:
    texts = [" ".join(row) for row in words]
    sets = []
    for row in words:
        sets.append(set(itertools.pairwise(["^", *row, "$"])))
    expected = list(range(len(texts)))
    for i, a in enumerate(sets):
        for j, b in enumerate(sets[:i]):
            # The exact form of "cosine >= 0.8".
            if 25 * len(a & b) ** 2 >= 16 * len(a) * len(b) or texts[i] == texts[j]:
                old, new = expected[i], expected[j]
                expected = [new if group == old else group for group in expected]
    found = near_duplicate_groups(texts)
    pairs = [(i, j) for i in range(len(texts)) for j in range(i)]
    assert [found[i] == found[j] for i, j in pairs] == [
        expected[i] == expected[j] for i, j in pairs
    ]


def test_texts_of_one_template_are_one_group_in_little_memory() -> None:
    end = "was shipped on monday and will arrive at your door within three working days thank you"
    texts = [f"your order {i} {end}" for i in range(1500)]
    tracemalloc.start()
    try:
        groups = near_duplicate_groups(texts)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(groups) == {0}
    # Seen: 82 MB, most of it one block of the product; 205 MB with a list of all pairs.
    assert peak_bytes < 120e6
