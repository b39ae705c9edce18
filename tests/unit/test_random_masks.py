"""Random masks: exact counts, one generator, every weight as likely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ticketry.core.mask import Mask
from ticketry.core.select import random_global, random_layerwise
from ticketry.errors import ConfigError, MaskError


def flat(mask: Mask) -> np.ndarray:
    return torch.cat([mask[name].reshape(-1) for name in mask]).numpy()


densities = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SHAPES = {"b": (50, 7), "a": (41,), "none": (0,)}


@given(densities, st.integers(0, 2**32))
def test_random_masks_keep_the_exact_number(density: float, seed: int) -> None:
    mask = random_global(SHAPES, density, seeded(seed))
    assert mask.kept == round(density * 391)
    again = random_layerwise(mask, seeded(seed + 1))
    assert [row.kept for row in again.layers()] == [row.kept for row in mask.layers()]


def test_random_masks_are_decided_by_the_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    generator = seeded(3)
    one, two = (random_global(SHAPES, 0.5, generator) for _ in range(2))
    assert one != two  # the generator moved on
    assert one == random_global(dict(reversed(SHAPES.items())), 0.5, seeded(3))
    layerwise = random_layerwise(one, seeded(4))
    assert layerwise == random_layerwise(one, seeded(4))
    assert layerwise != random_layerwise(one, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_random_masks_keep_every_weight_equally_often() -> None:
    generator = seeded(6)
    like = Mask({"a": torch.arange(40) < 10, "b": torch.arange(40) < 30})
    drawn = np.array([flat(random_global({"w": (80,)}, 0.25, generator)) for _ in range(1000)])
    # A count is binomial(1000, 1/4): std 13.7; 5 of them over 80 weights: chance 5e-5.
    assert np.abs(drawn.sum(axis=0) - 250).max() < 5 * 13.7
    drawn = np.array([flat(random_layerwise(like, generator)) for _ in range(1000)])
    assert np.abs(drawn[:, :40].sum(axis=0) - 250).max() < 5 * 13.7
    assert np.abs(drawn[:, 40:].sum(axis=0) - 750).max() < 5 * 13.7
    # Two weights of a layer: both are kept with 10/40 · 9/39; std of the count below 7.4.
    assert abs(int((drawn[:, 0] & drawn[:, 39]).sum()) - 1000 * 90 / 1560) < 5 * 7.4


def test_random_faults() -> None:
    with pytest.raises(ConfigError, match=r"density is -0\.5; expected a number in \[0, 1\]\."):
        random_global(SHAPES, -0.5, seeded(0))
    with pytest.raises(MaskError, match="a mask of no tensors was asked for"):
        random_global({}, 0.5, seeded(0))
