"""Perturbed masks and shuffled weights: exact counts, the generator alone decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ticketry.core.mask import Mask
from ticketry.core.perturb import complement_random, flip, shuffle_within
from ticketry.errors import ConfigError

T, F = True, False


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- by hand ------------------------------------------------------------------------------------


def test_a_half_kept_layer_has_one_complement() -> None:
    mask = Mask({"half": torch.tensor([[T, F], [F, T]]), "all": torch.tensor([T, T, T])})
    other = complement_random(mask, seeded())
    assert other["half"].tolist() == [[F, T], [T, F]]
    assert other["all"].tolist() == [T, T, T]  # nothing is pruned, so it shares 3 − 0


def test_a_complement_of_few_and_of_many() -> None:
    mask = Mask({"few": torch.tensor([T, F, F, F]), "many": torch.tensor([T, T, T, F])})
    found = [complement_random(mask, seeded(seed)) for seed in range(40)]
    few = {tuple(other["few"].tolist()) for other in found}
    many = {tuple(other["many"].tolist()) for other in found}
    assert few == {(F, T, F, F), (F, F, T, F), (F, F, F, T)}
    assert many == {(T, T, F, T), (T, F, T, T), (F, T, T, T)}  # the pruned one, and 2 of 3


def test_a_flip_swaps_one_for_one() -> None:
    mask = Mask({"w": torch.tensor([T, T, F, F])})
    found = {tuple(flip(mask, 0.5, seeded(seed))["w"].tolist()) for seed in range(60)}
    assert found == {(T, F, T, F), (T, F, F, T), (F, T, T, F), (F, T, F, T)}
    assert flip(mask, 0.0, seeded()) == mask
    assert flip(mask, 1.0, seeded()) == ~mask
    assert flip(mask, 0.25, seeded()) == mask  # round(0.5) = 0
    full = Mask({"w": torch.tensor([T, T, T, F])})
    assert (flip(full, 1.0, seeded()) & full).kept == 2  # one is pruned: one is swapped


def test_a_shuffle_is_another_order_of_the_same_values() -> None:
    tensor = torch.tensor([[1.0, 2.0], [3.0, 3.0]], dtype=torch.bfloat16)
    found = [shuffle_within(tensor, seeded(seed)) for seed in range(100)]
    assert all(sorted(one.reshape(-1).tolist()) == [1.0, 2.0, 3.0, 3.0] for one in found)
    assert len({tuple(one.reshape(-1).tolist()) for one in found}) == 12  # 4! / 2!
    assert {(one.shape, one.dtype) for one in found} == {(tensor.shape, tensor.dtype)}
    assert tensor.tolist() == [[1.0, 2.0], [3.0, 3.0]]


# --- properties ---------------------------------------------------------------------------------


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    layers = draw(
        st.dictionaries(st.sampled_from("abc"), st.lists(st.booleans(), max_size=40), min_size=1)
    )
    return Mask({name: torch.tensor(row, dtype=torch.bool) for name, row in layers.items()})


@settings(max_examples=100)
@given(masks(), st.integers(0, 2**31))
def test_a_complement_has_the_counts_and_shares_the_least(mask: Mask, seed: int) -> None:
    other = complement_random(mask, seeded(seed))
    for row in mask.layers():
        assert other.kept_in(row.name) == row.kept
        shared = int((mask[row.name] & other[row.name]).sum())
        assert shared == max(0, 2 * row.kept - row.prunable)
    assert other == complement_random(mask, seeded(seed))


@settings(max_examples=100)
@given(masks(), st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1), st.integers(0, 2**31))
def test_a_flip_has_the_counts_and_swaps_its_share(mask: Mask, fraction: float, seed: int) -> None:
    other = flip(mask, fraction, seeded(seed))
    for row in mask.layers():
        assert other.kept_in(row.name) == row.kept
        swapped = int((mask[row.name] & ~other[row.name]).sum())
        assert swapped == min(round(fraction * row.kept), row.prunable - row.kept)
    assert other == flip(mask, fraction, seeded(seed))


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    mask = Mask({"w": torch.arange(50) % 3 == 0})
    generator = seeded()
    assert complement_random(mask, generator) != complement_random(mask, generator)
    assert flip(mask, 0.5, generator) != flip(mask, 0.5, generator)
    shuffle_within(torch.arange(9.0), generator)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_outside_its_range(fraction: float) -> None:
    with pytest.raises(ConfigError) as caught:
        flip(Mask({"w": torch.tensor([T])}), fraction, seeded())
    assert str(caught.value) == f"fraction is {fraction}; expected a number in [0, 1]."
