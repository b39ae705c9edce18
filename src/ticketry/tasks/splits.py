"""Splits that no text straddles: stratified, seeded, by document, near-duplicates on one side."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.config import derive_seed
from ticketry.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
MOST_TEST = 2000
MOST_VALIDATION = 1000
FEWEST_A_CLASS = 8
NEAR = 0.8
"""Cosine between sets of word pairs from which two texts count as near-duplicates."""

_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """Return the words of a text, case, punctuation and spacing aside.

    A text without a word, such as ":)", is itself: there the punctuation is what it says. Marks
    that follow a letter are part of the word (vowels of Hindi, accents).
    """
    text = text.lower()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        letters: list[str] = []
        for char in text:
            mark = unicodedata.category(char)[0] == "M"
            part = letters[-1:] not in ([], [" "]) if mark else char.isalnum() or char == "_"
            letters.append(char if part else " ")
        words = " ".join("".join(letters).split())
    else:
        words = " ".join(_WORD.findall(text))
    return words or " ".join(text.split())


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """Return a group number for each text; near-duplicates share one.

    Texts are near-duplicates when their words are equal, or when the cosine of their sets of
    neighbouring word pairs is at least :data:`NEAR`. Groups are the connected parts.

    Args:
        texts: any number; 10,000 sentences take a second or two.
    """
    keys = [normalise(text) for text in texts]
    # A group bears the number of its first text, so that it depends on nothing else.
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    worded = [key for key in first if key]
    lead: dict[int, int] = {}
    for key, part in zip(worded, _similar(worded), strict=True):
        first[key] = lead.setdefault(part, first[key])
    return [first[key] for key in keys]


def _similar(texts: list[str]) -> list[int]:
    """Return a part for each text; those whose cosine reaches the threshold share one."""
    if len(texts) < 2:
        return list(range(len(texts)))
    import numpy as np
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import CountVectorizer

    counts = CountVectorizer(
        lowercase=False, token_pattern=r"\S+", ngram_range=(2, 2), binary=True, dtype=np.int32
    ).fit_transform([f"^ {text} $" for text in texts])
    counts = sparse.csr_array(counts)
    lengths = np.diff(counts.indptr).astype(np.int64)
    columns = counts.indices.astype(np.int64)
    frequency = np.bincount(columns, minlength=counts.shape[1])
    rank = np.empty(len(frequency), dtype=np.int64)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    # Prefix filter, exact: sets x and y with a cosine >= t share at least t²·|x| members, so they
    # share one among the |x| - ⌈t²·|x|⌉ + 1 rarest of x and as many of y. Comparing the rare ones
    # alone keeps frequent word pairs out of the product, which they would fill.
    row_of = np.repeat(np.arange(len(texts)), lengths)
    order = np.lexsort((rank[columns], row_of))
    place = np.arange(len(columns)) - np.repeat(counts.indptr[:-1], lengths)
    rarest = lengths - np.ceil(NEAR**2 * lengths - 1e-6).astype(np.int64) + 1
    columns = columns[order]
    # A pair of words that one text alone has makes no two texts alike.
    keep = (place < rarest[row_of]) & (frequency[columns] >= 2)
    ones = np.ones(int(keep.sum()), dtype=np.int32)
    rare = sparse.csr_array((ones, (row_of[keep], columns[keep])), shape=counts.shape)
    turned = rare.T.tocsr()
    parts: NDArray[np.integer[Any]] = np.arange(len(texts))
    step, block = 1000, 10_000  # bound the memory of the product and of the comparison
    for start in range(0, len(texts), step):
        maybe = (rare[start : start + step] @ turned).tocoo()
        i, j = maybe.row.astype(np.int64) + start, maybe.col.astype(np.int64)
        while len(i):
            # What is joined already need not be compared: a thousand texts of one template have
            # half a million pairs.
            apart = parts[i] != parts[j]
            i, j = i[apart], j[apart]
            one, other, i, j = i[:block], j[:block], i[block:], j[block:]
            shared = np.asarray(counts[one].multiply(counts[other]).sum(axis=1)).ravel()
            near = shared >= NEAR * np.sqrt(lengths[one] * lengths[other]) - 1e-6
            if near.any():
                edges = (np.ones(int(near.sum())), (parts[one[near]], parts[other[near]]))
                graph = sparse.coo_array(edges, shape=(len(texts), len(texts)))
                parts = connected_components(graph, directed=False)[1][parts]
    return [int(part) for part in parts]


def merge_groups(*groupings: Sequence[Hashable]) -> list[int]:
    """Join groupings: examples that share a group in any of them share one in the result."""
    parent: dict[Hashable, Hashable] = {}

    def root(x: Hashable) -> Hashable:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    n = len(groupings[0])
    for which, grouping in enumerate(groupings):
        for i in range(n):
            parent[root(("row", i))] = root((which, grouping[i]))
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(("row", i)), len(numbers)) for i in range(n)]


def split_groups(
    labels: Sequence[int],
    groups: Sequence[int],
    *,
    seed: int,
    sizes: dict[str, int],
) -> dict[str, list[int]]:
    """Deal whole groups to the named parts, the rest to ``train``, each class in proportion.

    Groups are visited in a seeded random order; each goes to the first part that still lacks
    examples of the group's most common class and has room for it.

    Args:
        labels: class of each example.
        groups: group of each example; a group is never divided.
        seed: decides the order.
        sizes: part -> wanted examples; met up to the size of a group.
    Returns:
        Part -> sorted indices; ``train`` is among the parts.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    order = sorted(members)
    random.Random(derive_seed(seed, "split")).shuffle(order)
    total = Counter(labels)
    wanted = {
        part: {c: size * count / len(labels) for c, count in total.items()}
        for part, size in sizes.items()
    }
    filled: dict[str, Counter[int]] = {part: Counter() for part in sizes}
    parts: dict[str, list[int]] = {part: [] for part in (*sizes, "train")}
    for group in order:
        rows = members[group]
        kinds = Counter(labels[i] for i in rows)
        common = min(kinds, key=lambda c: (-kinds[c], c))
        target = "train"
        for part, size in sizes.items():
            lacks = wanted[part][common] - filled[part][common]
            # A group that overshoots by more than half of itself is left to another part.
            if lacks >= kinds[common] / 2 and len(parts[part]) + len(rows) <= size + 1:
                target = part
                break
        parts[target] += rows
        if target != "train":
            filled[target] += kinds
    return {part: sorted(rows) for part, rows in parts.items()}


def sizes_for(n: int, *, with_test: bool) -> dict[str, int]:
    """Return how many of ``n`` examples go to test and validation.

    A fifth to test and a tenth to validation, at most 2,000 and 1,000.
    """
    sizes = {"test": min(MOST_TEST, round(n * TEST_SHARE))} if with_test else {}
    sizes["validation"] = min(MOST_VALIDATION, max(round(n * VALIDATION_SHARE), 2))
    return sizes


def drop_conflicts(texts: Sequence[str], labels: Sequence[int]) -> list[int]:
    """Return the indices of examples whose words do not occur with another label too."""
    seen: dict[str, set[int]] = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        seen[normalise(text)].add(label)
    return [i for i, text in enumerate(texts) if len(seen[normalise(text)]) == 1]


def check_classes(labels: Sequence[int], names: Sequence[str], where: str) -> None:
    """Refuse data from which nothing can be learnt or judged.

    Raises:
        DataError: fewer than two classes, or a class with too few examples to split.
    """
    counts = Counter(labels)
    if not counts:
        raise DataError(f"{where} has no examples; expected at least two classes to tell apart.")
    if len(counts) < 2:
        only = names[next(iter(counts))]
        raise DataError(
            f"{where} has one class only ({only!r}); expected at least two classes to tell apart."
        )
    few = [f"{names[c]!r} ({counts[c]})" for c in sorted(counts) if counts[c] < FEWEST_A_CLASS]
    if few:
        raise DataError(
            f"{where} has too few examples of {', '.join(few[:5])}; expected at least "
            f"{FEWEST_A_CLASS} a class. Add examples or drop the class."
        )
