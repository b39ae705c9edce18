"""Metrics of extracted answers: F1 over words and exact match, as SQuAD's own scripts count them.

Each question counts the same: its score is the best over its gold answers. Both scripts compare
lower-cased words without punctuation and articles; they differ in what an empty answer is worth,
so each has metrics of its own.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import check_length
from ticketry.metrics.resampling import Resampled, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Answers = Sequence[tuple[str, int]]
"""The gold answers of a question: text, and where it begins in the context; none in v2."""


def words_of(answer: str) -> list[str]:
    """Return an answer's words: lower case, punctuation (of ASCII) and then articles left out."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def _f1(gold: Sequence[str], found: Sequence[str]) -> float:
    shared = sum((Counter(gold) & Counter(found)).values())
    return 2 * shared / (len(gold) + len(found)) if shared else 0.0


@dataclass(frozen=True)
class AnswerScores:
    """Outputs that are the answers' texts.

    Questions are drawn anew. Those on one text resemble each other, which an interval over
    questions does not see; seeds and the same questions in both arms take most of that out.

    Attributes:
        exact: exact match; else F1 over words.
        may_be_none: as the script of version 2 counts: a question may have no answer, and then
            only the empty one is right; gold answers without a word are left out.

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1, and its ``evaluate-v1.1.py``;
        Rajpurkar et al. 2018 (arXiv 1806.03822) and its ``evaluate-v2.0.py``. Differs: scores lie
        in [0, 1], not in percent.
    """

    exact: bool
    may_be_none: bool

    def values(self, labels: Sequence[Answers], predictions: Sequence[str]) -> Floats:
        """Return each question's score."""
        import numpy as np

        golds = [self._golds(answers) for answers in labels]
        return np.array([self._best(*pair) for pair in zip(golds, predictions, strict=True)])

    def mean(self, labels: Sequence[Answers], predictions: Sequence[str]) -> float:
        """Return the mean over questions: the metric."""
        check_length("the run", predictions, len(labels))
        values = self.values(labels, predictions).tolist()
        return math.fsum(values) / len(values)

    def _golds(self, answers: Answers) -> list[list[str]]:
        golds = [words_of(text) for text, _ in answers]
        return [gold for gold in golds if gold] or [[]] if self.may_be_none else golds

    def _best(self, golds: Sequence[Sequence[str]], prediction: str) -> float:
        found = words_of(prediction)
        return max(self._value(gold, found) for gold in golds)

    def _value(self, gold: Sequence[str], found: Sequence[str]) -> float:
        if self.exact or (self.may_be_none and not (gold and found)):
            return float(gold == found)
        return _f1(gold, found)

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[NDArray[Any], dict[str, Floats]]:
        """Return the numbers of gold answers (examples,), and runs' scores (examples,)."""
        import numpy as np

        if not labels or not all(_are_answers(answers) for answers in labels):
            raise InputError("the test labels are empty or not lists of answers and their places.")
        if not (self.may_be_none or all(labels)):
            raise InputError("a test question has no answer; expected at least one for each.")
        runs = {}
        for who, values in predictions.items():
            check_length(who, values, len(labels))
            if not all(isinstance(value, str) for value in values):
                raise InputError(f"{who} has predictions of another kind; expected answers' texts.")
            runs[who] = self.values(labels, values)
        return np.array([len(answers) for answers in labels]), runs

    def scores(self, labels: NDArray[Any], runs: Floats) -> Floats:
        """Return the scores of runs."""
        share: Floats = runs.mean(-1)
        return share

    def resample(
        self,
        sign: float,
        labels: NDArray[Any],
        reference: Floats,
        candidate: Floats,
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain; the imaginary question is one answered in full or not at all."""
        import numpy as np

        replicates, examples = reference.shape
        table = np.concatenate([reference, candidate]).T / examples
        one = np.full(replicates, 1.0 / examples)
        return resample_weighted(
            lambda weights: weights @ table,
            (-one, one),
            sign=sign,
            examples=examples,
            samples=samples,
            rng=rng,
        )


def _are_answers(label: Any) -> bool:
    return isinstance(label, tuple | list) and all(
        isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in label
    )
