"""What a verdict is made of, and its JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ticketry.errors import TicketError

TINY = 1e-12
"""Rounding noise of scores: an end that lies on the margin is not beyond it."""

Answer = Literal["yes", "no", "inconclusive"]


@dataclass(frozen=True)
class Comparison:
    """The gain of one arm over another, paired by seed and by test example.

    Gains are differences of scores, signed so that positive is better whichever way the metric
    goes. Ends are one-sided 95% each.

    Attributes:
        difference: mean gain.
        spread: sample standard deviation (ddof = 1) of the gains of single seeds.
        seed_ci_low, seed_ci_high: Student's t over replicates.
        example_ci_low, example_ci_high: bootstrap over test examples, all replicates together.
        overall_ci_low, overall_ci_high: both sources together; never narrower than either.
    """

    difference: float
    spread: float
    seed_ci_low: float
    seed_ci_high: float
    example_ci_low: float
    example_ci_high: float
    overall_ci_low: float
    overall_ci_high: float

    def surely_above(self, bound: float) -> bool:
        """Whether every lower end lies above ``bound``."""
        lows = (self.seed_ci_low, self.example_ci_low, self.overall_ci_low)
        return min(lows) > bound + TINY

    def surely_below(self, bound: float) -> bool:
        """Whether the upper end by seeds or that by test examples lies below ``bound``.

        An interval by seeds with no width is an accident of few replicates: it says nothing.
        """
        highs = [self.example_ci_high, *([self.seed_ci_high] if self.spread > 0 else [])]
        return min(highs) < bound - TINY


@dataclass(frozen=True)
class ControlReading(Comparison):
    """The ticket against a control.

    Attributes:
        mean: the control's mean score.
        beaten: every lower end of ticket - control is above 0.
    """

    mean: float
    beaten: bool


@dataclass(frozen=True)
class Verdict(Comparison):
    """What may be said about a ticket; the differences are ticket - dense, positive = better.

    Attributes:
        metric, direction, margin: how it was scored, and the loss that still counts as none.
        dense_mean, dense_std, ticket_mean, ticket_std: test scores (ddof = 1).
        replicates: fine-tunings of each arm.
        test_examples: in the test split.
        noninferior: ``yes``, ``no`` or ``inconclusive``: is the ticket at most ``margin`` worse?
        winning: non-inferior, and better than the random-layerwise control; None when that was
            not run, or when the ticket does not start at θ0.
        at_theta0: whether the ticket starts from the pre-trained weights.
        matches_paper: the mean is within one standard deviation of dense. Descriptive.
        matches_strict: the mean is at least that of dense. Descriptive.
        replicates_needed: about how many would decide; with ``examples_needed`` when both are
            needed; None when decided already or when no number up to the bound would.
        examples_needed: about how many test examples would decide, likewise.
        budget_gain: validation gain of the dense model between half and full training budget;
            None when half was not run.
        undertrained_reference: that gain is above the margin; None when half was not run.
        equal_ticket_pass_rate: chance that a truly equal ticket passes the test by seeds with this
            many replicates and this spread.
        controls: name -> the ticket against it.
    """

    metric: str
    direction: str
    margin: float
    dense_mean: float
    dense_std: float
    ticket_mean: float
    ticket_std: float
    replicates: int
    test_examples: int
    noninferior: Answer
    winning: bool | None
    matches_paper: bool
    matches_strict: bool
    replicates_needed: int | None
    examples_needed: int | None
    budget_gain: float | None
    undertrained_reference: bool | None
    equal_ticket_pass_rate: float
    controls: Mapping[str, ControlReading]
    at_theta0: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Read a verdict that :meth:`to_json` gave; unknown keys are left out.

        Raises:
            TicketError: names a key that is missing or of a wrong type.
        """
        values = _read(cls, data, "verdict")
        controls = values["controls"]
        values["controls"] = {
            str(name): ControlReading(**_read(ControlReading, reading, f"control {name!r}"))
            for name, reading in controls.items()
        }
        return cls(**values)

    def sentences(self) -> tuple[str, ...]:
        """Say the verdict in plain words, the most important first."""
        from ticketry.verdict.wording import sentences

        return sentences(self)


def _read(kind: type[Comparison], data: Any, what: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise TicketError(f"the evidence is damaged: its {what} is not a JSON object.")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = data.get(field.name, ...)
        if value is ... and field.default is not dataclasses.MISSING:
            continue  # not written by earlier versions
        if value is ... or not _fits(value, str(field.type)):
            found = "is missing" if value is ... else f"is {value!r:.80}"
            raise TicketError(
                f"the evidence is damaged: {field.name!r} of its {what} {found}; "
                f"expected {field.type}."
            )
        values[field.name] = value
    return values


def _fits(value: Any, annotation: str) -> bool:
    if value is None:
        return "None" in annotation
    if isinstance(value, bool):
        return "bool" in annotation
    if isinstance(value, int):
        return abs(value) < _HUGE and ("int" in annotation or "float" in annotation)
    if isinstance(value, float):
        return "float" in annotation and abs(value) < _HUGE  # NaN is not
    if isinstance(value, str):
        return annotation == "str" or (annotation == "Answer" and value in _ANSWERS)
    return isinstance(value, Mapping) and annotation.startswith("Mapping")


_HUGE = 1e15
_ANSWERS = ("yes", "no", "inconclusive")
