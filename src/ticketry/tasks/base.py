"""What a task's data are, whatever they were read from."""

from __future__ import annotations

import bisect
import dataclasses
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.config import derive_seed, fingerprint
from ticketry.errors import DataError
from ticketry.files import read_regular

MOST_BYTES = 16 << 30
"""Of prepared data, at most; a run holds them in memory."""
SPLITS = ("train", "validation", "test")
_REFERENCE = re.compile(r"[0-9]{1,8}x[0-9]{1,8}x[13]:@[0-9a-f]{64}:")
"""How an image begins whose pixels stand in a file (:func:`ticketry.tasks.pixels.refer_to`)."""

Label = Any
"""A class index, a number, a tuple of a 0 or 1 for each label, one of an (answer, place) each, or
the tags of a sentence's words, separated by spaces."""


@dataclass(frozen=True)
class Split:
    """Examples in a fixed order.

    Attributes:
        texts: one a example.
        pairs: the second text of each example, or None.
        labels: one a example, by objective: class indices, numbers, a 0 or 1 for each label, the
            answers to a question, or the tags of a sentence; none where texts are their own labels
            (language modelling).
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Split:
        """Return the examples at ``indices``, in that order."""
        return Split(
            tuple(self.texts[i] for i in indices),
            None if self.pairs is None else tuple(self.pairs[i] for i in indices),
            tuple(self.labels[i] for i in indices) if self.labels else (),
        )


def is_referred(text: str) -> bool:
    """Say whether an image's pixels stand in a file of its own."""
    return _REFERENCE.match(text) is not None


def identity(text: str) -> str:
    """Return an example less where its file lies: what makes it equal to another."""
    found = _REFERENCE.match(text)
    return text if found is None else found[0]


def _label(value: Any) -> Label:
    """Return a label as it was before JSON made lists of tuples."""
    return tuple(map(_label, value)) if isinstance(value, list) else value


def strata(split: Split) -> list[int]:
    """Return a small number for each example; those with equal ones have labels of one kind.

    Class indices stand for themselves, numbers for their tenth of the split, label sets for their
    rarest label, answers and tags for whether there are any (answers, entities); texts without
    labels are all of one kind.
    """
    labels = split.labels
    if not labels:
        return [0] * len(split)
    if isinstance(labels[0], str):
        return [int(any(tag != "O" for tag in tags.split(" "))) for tags in labels]
    if isinstance(labels[0], tuple) and any(isinstance(part, tuple) for x in labels for part in x):
        return [int(bool(answers)) for answers in labels]
    if isinstance(labels[0], tuple):
        totals = [sum(column) for column in zip(*labels, strict=True)]
        rarest = sorted(range(len(totals)), key=lambda i: (totals[i], i))
        return [next((i + 1 for i in rarest if flags[i]), 0) for flags in labels]
    if not isinstance(labels[0], float):
        return list(labels)
    ordered = sorted(labels)
    # Equal numbers are of one kind, that of the first of them.
    return [10 * bisect.bisect_left(ordered, label) // len(ordered) for label in labels]


@dataclass(frozen=True)
class TaskData:
    """Prepared splits with all that a verdict needs to know of them.

    Attributes:
        name: short, for people.
        source: where the examples come from.
        labels: class or label names, in the order of their indices; the number's name for
            regression; none for language modelling and question answering.
        metric: a key of :data:`ticketry.metrics.METRICS`.
        margin: the loss in that metric that still counts as "not worse".
        notes: what was dropped or grouped, with counts.
        objective: what is learned, a key of :data:`ticketry.tasks.objectives.OBJECTIVES`.
        parts: the tasks of a joint one (:mod:`ticketry.tasks.joint`), whose splits, metric and
            margin are those of the first.
    """

    name: str
    source: str
    labels: tuple[str, ...]
    metric: str
    margin: float
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()
    objective: str = "classification"
    parts: tuple[TaskData, ...] = ()

    @property
    def each(self) -> tuple[TaskData, ...]:
        """A joint task's parts; else the task itself."""
        return self.parts or (self,)

    @property
    def sha256(self) -> str:
        """Hash over texts, labels, class names and split membership; names and notes aside."""
        if self.parts:
            return fingerprint(
                {"objective": self.objective, "parts": [p.sha256 for p in self.parts]}
            )
        splits = {name: dataclasses.asdict(getattr(self, name)) for name in SPLITS}
        for split in splits.values():  # wherever the files of images lie
            split["texts"] = [identity(text) for text in split["texts"]]
        # Left out where it is the oldest one, so that the hashes of earlier versions stay.
        objective = {} if self.objective == "classification" else {"objective": self.objective}
        return fingerprint({"labels": list(self.labels), **splits, **objective})

    def limited(self, train_samples: int, seed: int) -> TaskData:
        """Return the data with a stratified, seeded part of the training split.

        Args:
            train_samples: examples to keep, each stratum (:func:`strata`) in proportion (largest
                remainders).
            seed: decides which.
        """
        if self.parts:
            parts = tuple(part.limited(train_samples, seed) for part in self.parts)
            return dataclasses.replace(self, train=parts[0].train, parts=parts)
        size = len(self.train)
        if train_samples >= size:
            return self
        by_class: dict[int, list[int]] = {}
        for index, stratum in enumerate(strata(self.train)):
            by_class.setdefault(stratum, []).append(index)
        draw = random.Random(derive_seed(seed, "train-samples"))
        exact = {c: train_samples * len(rows) / size for c, rows in by_class.items()}
        counts = {c: int(share) for c, share in exact.items()}
        rest = sorted(exact, key=lambda c: (counts[c] - exact[c], c))
        for c in rest[: train_samples - sum(counts.values())]:
            counts[c] += 1
        chosen = [i for c in sorted(by_class) for i in draw.sample(by_class[c], counts[c])]
        return dataclasses.replace(self, train=self.train.take(sorted(chosen)))

    def to_json(self) -> dict[str, Any]:
        """Return the data as JSON values; a joint task's splits stand in its parts alone."""
        fields = [field.name for field in dataclasses.fields(self) if field.name != "parts"]
        if self.parts:
            plain = {name: getattr(self, name) for name in fields if name not in SPLITS}
            found = {**plain, "parts": [part.to_json() for part in self.parts]}
        else:
            whole = dataclasses.asdict(self)
            found = {name: whole[name] for name in fields}
        return {**found, "sha256": self.sha256}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskData:
        """Rebuild the data from :meth:`to_json` and check their hash.

        Raises:
            DataError: they are not what was written.
        """
        try:
            parts = tuple(cls.from_json(part) for part in data.get("parts", ()))
            splits: dict[str, Any] = {
                name: getattr(parts[0], name) for name in SPLITS if parts
            } or {
                name: Split(
                    tuple(data[name]["texts"]),
                    None if data[name]["pairs"] is None else tuple(data[name]["pairs"]),
                    tuple(_label(label) for label in data[name]["labels"]),
                )
                for name in SPLITS
            }
            found = cls(
                name=data["name"],
                source=data["source"],
                labels=tuple(data["labels"]),
                metric=data["metric"],
                margin=data["margin"],
                notes=tuple(data["notes"]),
                objective=data.get("objective", "classification"),
                parts=parts,
                **splits,
            )
            intact = found.sha256 == data["sha256"]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"the prepared data are damaged: {error!r:.200}.") from error
        if not intact:
            raise DataError("the prepared data are damaged: they do not fit their hash.")
        return found

    @classmethod
    def read(cls, path: Path, sha256: str | None = None) -> TaskData:
        """Read prepared data from a store.

        Args:
            path: the file.
            sha256: what the data must hash to; by default what the file says of itself.

        Raises:
            DataError: missing, damaged or other data; says what to do.
        """
        try:
            found = cls.from_json(json.loads(read_regular(path, MOST_BYTES)))
            if sha256 not in (None, found.sha256):
                raise DataError("they are other data than those that this run was prepared for")
            return found
        except (OSError, ValueError, RecursionError, DataError) as error:
            raise DataError(
                f"{path} is missing or damaged ({error}); delete it and run the command again."
            ) from error
