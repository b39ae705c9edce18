"""A verdict in plain words."""

from __future__ import annotations

from ticketry.metrics import METRICS, say_difference, say_score, unit_of
from ticketry.verdict.intervals import EXAMPLES_BOUND, REPLICATES_BOUND
from ticketry.verdict.judging import CHANCE
from ticketry.verdict.reading import ControlReading, Verdict

FEW_REPLICATES = 5
"""Below this many, the words say how rarely the test can say yes."""


def headline(verdict: Verdict) -> str:
    """Name the verdict in a few words."""
    if verdict.noninferior == "no":
        return "Not matching"
    if verdict.noninferior == "inconclusive":
        return "Inconclusive"
    name = {True: "Winning ticket", False: "Matching, but so is chance", None: "Matching ticket"}[
        verdict.winning
    ]
    return f"{name} (undertrained reference)" if verdict.undertrained_reference else name


def sentences(verdict: Verdict) -> tuple[str, ...]:
    """Say the verdict, the most important first.

    Returns:
        Sentences: the verdict with its numbers and what would decide, each control, the stamp,
        and what the reader must know of the test itself.
    """
    said = [f"{headline(verdict)}: {numbers(verdict)} {_decides(verdict)}".strip()]
    said += [_control(verdict, name, reading) for name, reading in verdict.controls.items()]
    if not verdict.at_theta0:
        said.append(
            "It starts from weights of its own, not from the pre-trained ones, so it is not called "
            "a winning ticket, whatever it beats."
        )
    elif verdict.winning is None:
        said.append(
            f"The {CHANCE} control was not run, so whether chance does as well, and whether this "
            "is a winning ticket, is not known."
        )
    said.append(_budget(verdict))
    said += _wide(verdict)
    if verdict.spread == 0:
        said.append(
            f"All {verdict.replicates} seeds gave the same difference, so the interval by seeds "
            "has no width; only the one over test examples guards this verdict."
        )
    elif verdict.replicates < FEW_REPLICATES and verdict.noninferior != "yes":
        said.append(_few(verdict))
    said.append(
        "Descriptive readings: within one standard deviation of dense (the papers' reading): "
        f"{_yes(verdict.matches_paper)}; mean at least that of dense (strict): "
        f"{_yes(verdict.matches_strict)}."
    )
    return tuple(said)


def numbers(verdict: Verdict) -> str:
    """Say the scores, the difference and how bad it may be, in one sentence."""
    decimals = _decimals(verdict, (verdict.seed_ci_low, verdict.example_ci_low))
    gap = say_difference(verdict.metric, verdict.difference, decimals=decimals, sign=True)
    ends = _ends(verdict, verdict, decimals)
    direction = "" if verdict.direction == "higher" else ", where lower is better"
    positive = "" if verdict.direction == "higher" else ", positive = better"
    return (
        f"the ticket scored {say_score(verdict.metric, verdict.ticket_mean)} against "
        f"{say_score(verdict.metric, verdict.dense_mean)} dense{direction} (difference "
        f"{gap}{unit_of(verdict.metric)}{positive}; {ends}; "
        f"allowed: {say_difference(verdict.metric, verdict.margin, decimals=decimals)})."
    )


def _ends(verdict: Verdict, reading: Verdict | ControlReading, decimals: int) -> str:
    shown = {
        "by seeds": reading.seed_ci_low,
        "by test examples": reading.example_ci_low,
    }
    said = [
        f"{say_difference(verdict.metric, end, decimals=decimals, sign=True)} {how}"
        for how, end in shown.items()
    ]
    text = f"at worst {' and '.join(said)}"
    bound = 0.0 if isinstance(reading, ControlReading) else -verdict.margin
    if min(shown.values()) > bound >= reading.overall_ci_low:
        overall = say_difference(
            verdict.metric, reading.overall_ci_low, decimals=decimals, sign=True
        )
        text += f", {overall} by both together"
    if verdict.noninferior == "no" and not isinstance(reading, ControlReading):
        best = min(reading.seed_ci_high, reading.example_ci_high)
        said_best = say_difference(verdict.metric, best, decimals=decimals, sign=True)
        how = "seeds" if best == reading.seed_ci_high else "test examples"
        text += f", at best {said_best} by {how}"
    return f"{text}, at 95%"


def _decimals(verdict: Verdict, ends: tuple[float, ...]) -> int:
    """Return how many decimals keep an end apart from the margin, so that words do not mislead."""
    for decimals in (1, 2):
        allowed = say_difference(verdict.metric, -verdict.margin, decimals=decimals)
        shown = {say_difference(verdict.metric, end, decimals=decimals) for end in ends}
        if allowed not in shown:
            return decimals
    return 3


def _decides(verdict: Verdict) -> str:
    if verdict.noninferior != "inconclusive":
        return ""
    parts = []
    if verdict.replicates_needed is not None:
        parts.append(f"{verdict.replicates_needed} replicates")
    if verdict.examples_needed is not None:
        parts.append(
            f"{_about(verdict.examples_needed):,} test examples (there are "
            f"{verdict.test_examples:,})"
        )
    if parts:
        return f"About {' and '.join(parts)} would decide."
    return (
        f"No number up to {REPLICATES_BOUND:,} replicates and {EXAMPLES_BOUND:,} test examples "
        "would decide: the difference lies too close to the margin."
    )


def _about(number: int) -> int:
    """Round up to two significant digits."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def _control(verdict: Verdict, name: str, reading: ControlReading) -> str:
    decimals = 1
    gap = abs(reading.difference)
    word = "better" if reading.difference >= 0 else "worse"
    outcome = "beaten" if reading.beaten else "not shown to be beaten"
    return (
        f"Control {name}, {outcome}: it scored {say_score(verdict.metric, reading.mean)}, the "
        f"ticket is {say_difference(verdict.metric, gap, decimals=decimals)}"
        f"{unit_of(verdict.metric)} {word} ({_ends(verdict, reading, decimals)})."
    )


def _budget(verdict: Verdict) -> str:
    if verdict.budget_gain is None:
        return (
            "Whether the dense reference was trained for long enough was not checked (it was not "
            "run at half the budget)."
        )
    gain = say_difference(verdict.metric, verdict.budget_gain)
    unit = unit_of(verdict.metric)
    allowed = say_difference(verdict.metric, verdict.margin)
    if verdict.undertrained_reference:
        return (
            f"Stamped undertrained_reference: the second half of the training budget still gained "
            f"dense {gain}{unit} of validation {verdict.metric}, more than the margin of "
            f"{allowed}; a dense model trained for longer may be out of this ticket's reach."
        )
    return (
        f"The dense reference is not undertrained: the second half of its training budget gained "
        f"{gain}{unit} of validation {verdict.metric}, at most the margin of {allowed}."
    )


def _wide(verdict: Verdict) -> list[str]:
    """Say that a task allows more than its metric does."""
    known = METRICS.get(verdict.metric)
    if known is None or verdict.margin <= known.margin:
        return []
    shown = [say_difference(verdict.metric, m, decimals=2) for m in (verdict.margin, known.margin)]
    return [
        f"The task allows a loss of {shown[0]}{unit_of(verdict.metric)}, more than the "
        f"{shown[1]} that {verdict.metric} allows by itself; this verdict rests on that."
    ]


def _few(verdict: Verdict) -> str:
    """Say how rarely so few replicates can give a yes."""
    rate = verdict.equal_ticket_pass_rate
    said = "under 1%" if rate < 0.01 else "over 99%" if rate > 0.99 else f"about {100 * rate:.0f}%"
    if rate < 0.5:
        return (
            f"With {verdict.replicates} replicates this test rarely says yes: at this spread, even "
            f"a ticket truly equal to dense would pass the test by seeds {said} of the time."
        )
    return (
        f"With {verdict.replicates} replicates the spread between seeds is itself a rough guess; "
        f"if it is right, a ticket truly equal to dense passes the test by seeds {said} of the "
        "time (with 3 replicates and a spread of dense as large as the margin, about a quarter)."
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"
