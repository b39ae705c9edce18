"""The sparsity after each round."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticketry.core.schedule import sparsity_levels
from ticketry.errors import ConfigError


@pytest.mark.parametrize(
    ("sparsity", "arguments", "expected"),
    [
        (0.36, {"levels": 2}, (0.2, 0.36)),  # density 0.64 = 0.8²
        (0.875, {"levels": 3}, (0.5, 0.75, 0.875)),
        (0.4, {"levels": 1}, (0.4,)),
        (0.4, {"rate": 0.2}, (0.2, 0.36, 0.4)),  # 0.488 would pass
        (0.36, {"rate": 0.2}, (0.2, 0.36)),
        (0.51, {"rate": 0.3}, (0.3, 0.51)),  # 1 − 0.7² is above 0.51 in floats: no third round
        (0.1, {"rate": 0.2}, (0.1,)),
        (0.875, {"rate": 0.5}, (0.5, 0.75, 0.875)),
        (0.7, {"rate": 0.1, "rate_of": "original"}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
        (0.35, {"rate": 0.1, "rate_of": "original"}, (0.1, 0.2, 0.3, 0.35)),
        (0.0, {"rate": 0.2}, (0.0,)),
        (0.0, {"levels": 2}, (0.0, 0.0)),
    ],
)
def test_levels_by_hand(
    sparsity: float, arguments: dict[str, float | str], expected: tuple[float, ...]
) -> None:
    found = sparsity_levels(sparsity, **arguments)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[-1] == sparsity  # exactly


targets = st.floats(0.01, 0.99)


@given(targets, st.integers(1, 40))
def test_levels_keep_the_same_fraction_each_round(sparsity: float, levels: int) -> None:
    found = sparsity_levels(sparsity, levels=levels)
    densities = [1.0, *(1 - level for level in found)]
    kept = [after / before for before, after in itertools.pairwise(densities)]
    assert len(found) == levels
    assert found[-1] == sparsity
    assert kept == pytest.approx([kept[0]] * levels)


@given(targets, st.floats(0.01, 0.99), st.sampled_from(["remaining", "original"]))
def test_a_rate_climbs_until_the_target(sparsity: float, rate: float, rate_of: str) -> None:
    found = sparsity_levels(sparsity, rate=rate, rate_of=rate_of)
    assert found[-1] == sparsity
    climb = (0.0, *found)
    assert all(before < after for before, after in zip(climb, found, strict=False))
    for before, after in zip(climb, found, strict=False):
        step = rate * (1 - before) if rate_of == "remaining" else rate
        if after == found[-1]:
            assert after - before <= step + 2e-9  # a whole round would reach it or pass
        else:
            assert after - before == pytest.approx(step)


@pytest.mark.parametrize(
    ("sparsity", "arguments", "faults"),
    [
        (
            40.0,
            {"levels": 2},
            (
                "sparsity is 40.0; expected a number in [0, 1). Percent are not used: write 0.4 "
                "for 40%.",
            ),
        ),
        (float("nan"), {"levels": 2}, ("sparsity is nan; expected a number in [0, 1).",)),
        (-0.1, {"levels": 2}, ("sparsity is -0.1; expected a number in [0, 1).",)),
        (0.4, {}, ("neither levels nor rate was given; give one.",)),
        (
            0.4,
            {"levels": 2, "rate": 0.2},
            ("levels and rate were both given; they exclude each other, give one.",),
        ),
        (0.4, {"levels": 0}, ("levels is 0; expected a whole number from 1 to 1,000.",)),
        (0.4, {"levels": 2.5}, ("levels is 2.5; expected a whole number from 1 to 1,000.",)),
        (0.4, {"rate": 1.0}, ("rate is 1.0; expected a number in (0, 1).",)),
        (0.4, {"rate": float("nan")}, ("rate is nan; expected a number in (0, 1).",)),
        (
            0.4,
            {"rate": 1e-6},
            (
                "rate 1e-06 needs 510,826 rounds to reach sparsity 0.4; expected at most 1,000, "
                "give a higher rate.",
            ),
        ),
        (
            1.0,
            {"levels": -1, "rate": 2.0, "rate_of": "remainder"},
            (
                "sparsity is 1.0; expected a number in [0, 1). Percent are not used: write 0.4 "
                "for 40%.",
                "levels and rate were both given; they exclude each other, give one.",
                "levels is -1; expected a whole number from 1 to 1,000.",
                "rate is 2.0; expected a number in (0, 1).",
                "unknown rate_of 'remainder'. Did you mean 'remaining'? Known: original, "
                "remaining.",
            ),
        ),
    ],
)
def test_every_fault_is_listed(
    sparsity: float, arguments: dict[str, float | str], faults: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        sparsity_levels(sparsity, **arguments)  # type: ignore[arg-type]
    assert caught.value.faults == faults
