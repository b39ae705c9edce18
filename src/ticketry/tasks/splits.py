"""Splits that no text straddles: stratified, seeded, by document, near-duplicates on one side."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from ticketry.config import derive_seed
from ticketry.errors import DataError

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
MOST_TEST = 2000
MOST_VALIDATION = 1000
FEWEST_A_CLASS = 8
NEAR = 0.8
"""Cosine between sets of word pairs from which two texts count as near-duplicates."""

_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """Return the words of a text, case, punctuation and spacing aside."""
    return " ".join(_WORD.findall(text.lower()))


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """Return a group number for each text; near-duplicates share one.

    Texts are near-duplicates when their words are equal, or when the cosine of their sets of
    neighbouring word pairs is at least :data:`NEAR`. Groups are the connected parts.

    Args:
        texts: any number; 10,000 sentences take a second or two.
    """
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    unique: list[int] = []
    for i, text in enumerate(texts):
        key = normalise(text)
        if key in first:
            parent[root(i)] = root(first[key])
        else:
            first[key] = i
            if key:
                unique.append(i)
    for i, j in _similar([k for k in first if k]):
        parent[root(unique[i])] = root(unique[j])
    return [root(i) for i in range(len(texts))]


def _similar(texts: list[str]) -> list[tuple[int, int]]:
    """Return index pairs whose cosine reaches the threshold."""
    if len(texts) < 2:
        return []
    import numpy as np
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer

    counts = CountVectorizer(
        lowercase=False, token_pattern=r"\S+", ngram_range=(2, 2), binary=True, dtype=np.float32
    ).fit_transform([f"^ {text} $" for text in texts])
    norms = np.sqrt(np.asarray(counts.sum(axis=1)).ravel())
    # A pair of words that one text alone has makes no two texts alike: most columns go.
    common = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() >= 2)
    rows = (sparse.diags_array(1.0 / norms) @ counts.tocsc()[:, common]).tocsr()
    columns = rows.T.tocsr()
    pairs: list[tuple[int, int]] = []
    step = 1000  # bounds the memory of the product
    for start in range(0, len(texts), step):
        product = (rows[start : start + step] @ columns).tocoo()
        near = product.data >= NEAR - 1e-6
        for i, j in zip(product.row[near].tolist(), product.col[near].tolist(), strict=True):
            if start + i < j:
                pairs.append((start + i, j))
    return pairs


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
    if len(counts) < 2:
        only = names[next(iter(counts))] if counts else "none"
        raise DataError(
            f"{where} has one class only ({only!r}); expected at least two classes to tell apart."
        )
    few = [f"{names[c]!r} ({counts[c]})" for c in sorted(counts) if counts[c] < FEWEST_A_CLASS]
    if few:
        raise DataError(
            f"{where} has too few examples of {', '.join(few[:5])}; expected at least "
            f"{FEWEST_A_CLASS} a class. Add examples or drop the class."
        )
