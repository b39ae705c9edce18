"""Likeness of two masks: by hand, by listing every mask, by drawing them, and for any masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ticketry.core.likeness import MEASURES, Shared, likeness, measures, shared
from ticketry.core.mask import Mask
from ticketry.core.select import random_global, random_layerwise
from ticketry.errors import MaskError

Sizes = Sequence[tuple[int, int, int]]
steady = settings(deadline=None)  # a loaded machine is no fault


def mask(**tensors: Sequence[int]) -> Mask:
    return Mask({name: torch.tensor(bits, dtype=torch.bool) for name, bits in tensors.items()})


def with_counts(counts: Mapping[str, tuple[int, int]]) -> Mask:
    """Return a mask that keeps the first k of n weights of each tensor."""
    return Mask({name: torch.arange(n) < k for name, (n, k) in counts.items()})


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """Two masks over the same 1 to 3 tensors of 0 to 12 weights."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=3))
    found = []
    for _ in range(2):
        bits = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in sizes]
        found.append(Mask({f"t{i}": torch.tensor(b, dtype=torch.bool) for i, b in enumerate(bits)}))
    return found[0], found[1]


def test_two_layers_by_hand() -> None:
    # u: A keeps 0-5, B keeps 2-7 of eight: both 4. v: A keeps 0, B keeps 0 of four: both 1.
    one = mask(u=[1, 1, 1, 1, 1, 1, 0, 0], v=[1, 0, 0, 0])
    two = mask(u=[0, 0, 1, 1, 1, 1, 1, 1], v=[1, 0, 0, 0])
    found = likeness(one, two, {"all of u": ["u"]})
    # In all 12 weights: a = b = 7, x = 5, neither 3.
    assert (found["weights"], found["first"], found["second"], found["both"]) == (12, 7, 7, 5)
    assert found["kept"] == pytest.approx(5 / 9)
    assert found["pruned"] == pytest.approx(3 / 7)
    assert found["kept_cosine"] == pytest.approx(5 / 7)
    assert found["pruned_cosine"] == pytest.approx(3 / 5)
    assert found["agreement"] == pytest.approx(8 / 12)
    # By density: 7·7/12 = 49/12; variance 7·7·5·5 / (144·11).
    density, layers = found["chance"]["density"], found["chance"]["layers"]
    assert density["both"] == pytest.approx(49 / 12)
    assert density["both_spread"] == pytest.approx(math.sqrt(1225 / 1584))
    assert density["z"] == pytest.approx((5 - 49 / 12) / math.sqrt(1225 / 1584))
    assert density["kept"] == pytest.approx((49 / 12) / (14 - 49 / 12))
    assert density["agreement"] == pytest.approx((12 - 14 + 49 / 6) / 12)
    # By layer: u 6·6/8 = 4.5, variance 6·6·2·2 / (64·7) = 9/28; v 1·1/4, variance 9/48.
    assert layers["both"] == pytest.approx(4.75)
    assert layers["both_spread"] == pytest.approx(math.sqrt(9 / 28 + 9 / 48))
    assert layers["pruned"] == pytest.approx((12 - 14 + 4.75) / (12 - 4.75))
    assert layers["agreement_spread"] == pytest.approx(2 / 12 * math.sqrt(9 / 28 + 9 / 48))
    assert layers["kept_spread"] == pytest.approx(14 / 9.25**2 * math.sqrt(9 / 28 + 9 / 48))
    # Shared beyond chance: 5 − 49/12 = 11/12; the layer densities give 4.75 − 49/12 = 8/12.
    assert found["by_layers"] == pytest.approx(8 / 11)
    u, v = found["tensors"]
    assert (u["name"], u["kept"], v["kept"], v["pruned"]) == ("u", 4 / 8, 1, 1)
    assert u["by_layers"] is None  # fewer than chance
    assert v["by_layers"] == pytest.approx(0)  # one tensor has no layers to explain it
    (group,) = found["groups"]
    assert group == {**u, "name": "all of u"}


@steady
@given(pairs())
def test_the_order_of_two_masks_does_not_matter(pair: tuple[Mask, Mask]) -> None:
    one, two = likeness(*pair), likeness(*reversed(pair))
    for name in (*MEASURES, "both", "by_layers"):
        assert one[name] == pytest.approx(two[name])
    for kind in ("density", "layers"):
        assert one["chance"][kind] == pytest.approx(two["chance"][kind])


@steady
@given(pairs())
def test_kept_and_pruned_change_places_in_the_complements(pair: tuple[Mask, Mask]) -> None:
    one, two = likeness(*pair), likeness(~pair[0], ~pair[1])
    assert one["agreement"] == pytest.approx(two["agreement"])
    assert one["by_layers"] == pytest.approx(two["by_layers"])
    for kept, pruned in (("kept", "pruned"), ("kept_cosine", "pruned_cosine")):
        assert one[kept] == pytest.approx(two[pruned])
        for kind in ("density", "layers"):
            here, there = one["chance"][kind], two["chance"][kind]
            assert here[kept] == pytest.approx(there[pruned])
            assert here[f"{kept}_spread"] == pytest.approx(there[f"{pruned}_spread"])
            assert here["kept_gap"] == pytest.approx(there["pruned_gap"])


@steady
@given(pairs())
def test_a_mask_is_wholly_like_itself(pair: tuple[Mask, Mask]) -> None:
    found = likeness(pair[0], pair[0])
    assert [found[name] for name in MEASURES] == pytest.approx([1.0] * 5)
    assert found["both"] == pair[0].kept
    if found["by_layers"] is not None:
        # What layer densities explain of a mask is a share of its variance.
        assert -1e-9 <= found["by_layers"] <= 1 + 1e-9


@steady
@given(pairs())
def test_what_must_hold_for_any_two_masks(pair: tuple[Mask, Mask]) -> None:
    one, two = pair
    found = likeness(one, two)
    overlap = one.overlap(two)
    assert found["kept"] == pytest.approx(overlap.kept_iou)
    assert found["pruned"] == pytest.approx(overlap.pruned_iou)
    assert found["chance"]["layers"]["kept"] == pytest.approx(overlap.kept_expected)
    assert found["chance"]["layers"]["pruned"] == pytest.approx(overlap.pruned_expected)
    assert found["both"] == sum(tensor["both"] for tensor in found["tensors"])
    for tensor in found["tensors"]:
        # One tensor has one density: both kinds of chance are the same.
        assert tensor["chance"]["density"] == pytest.approx(tensor["chance"]["layers"])
    values = [found[name] for name in MEASURES]
    for chance in found["chance"].values():
        values += [chance[name] for name in MEASURES]
        assert all(chance[f"{name}_spread"] >= 0 for name in MEASURES)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in values)


def every_mask(sizes: Sizes) -> list[list[int]]:
    """Return x of the first mask with every second one that has these counts (n, a, b)."""
    per_layer = [
        [sum(index < a for index in kept) for kept in itertools.combinations(range(n), b)]
        for n, a, b in sizes
    ]
    return [list(shared) for shared in itertools.product(*per_layer)]


@st.composite
def small_counts(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """(n, a, b) of one or two tensors, few enough to list every mask."""
    rows = []
    for _ in range(draw(st.integers(1, 2))):
        n = draw(st.integers(1, 6))
        rows.append((n, draw(st.integers(0, n)), draw(st.integers(0, n))))
    return rows


@settings(max_examples=60, deadline=None)
@given(small_counts())
def test_chance_is_that_of_every_mask_listed(sizes: list[tuple[int, int, int]]) -> None:
    one = with_counts({f"t{i}": (n, a) for i, (n, a, _) in enumerate(sizes)})
    two = with_counts({f"t{i}": (n, b) for i, (n, _, b) in enumerate(sizes)})
    found = likeness(one, two)
    together = (
        sum(n for n, _, _ in sizes), sum(a for _, a, _ in sizes), sum(b for _, _, b in sizes)
    )  # fmt: skip
    for kind, listed in (("layers", sizes), ("density", [together])):
        chance = found["chance"][kind]
        drawn = [sum(row) for row in every_mask(listed)]
        _check_moments(found, chance, drawn, shared_of(one, two))


def shared_of(one: Mask, two: Mask) -> Shared:
    rows = shared(one, two).values()
    return Shared(
        sum(r.weights for r in rows), sum(r.first for r in rows), sum(r.second for r in rows), 0
    )


def _check_moments(found: Any, chance: Any, drawn: list[int], counts: Any) -> None:
    mean = sum(drawn) / len(drawn)
    variance = sum((x - mean) ** 2 for x in drawn) / len(drawn)
    assert chance["both"] == pytest.approx(mean)
    assert chance["both_spread"] == pytest.approx(math.sqrt(variance), abs=1e-7)
    values = [measures(counts, x) for x in drawn]
    for name in ("kept_cosine", "pruned_cosine", "agreement"):
        column = [row[name] for row in values]
        exact = sum(column) / len(column)
        spread = math.sqrt(sum((v - exact) ** 2 for v in column) / len(column))
        assert chance[name] == pytest.approx(exact)
        assert chance[f"{name}_spread"] == pytest.approx(spread, abs=1e-7)
    for name in ("kept", "pruned"):
        exact = sum(row[name] for row in values) / len(values)
        assert chance[name] - 1e-9 <= exact <= chance[name] + chance[f"{name}_gap"] + 1e-9


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(50, 4000), st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
             min_size=1, max_size=3),
    st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_random_masks_share_what_chance_gives(
    layers: list[tuple[int, float, float]], seed: int
) -> None:
    """Hoeffding: |x − E X| < √(b·ln(2/δ)/2) but for δ; it holds for drawing without return."""
    draw = torch.Generator().manual_seed(seed)
    one = with_counts({f"t{i}": (n, round(d * n)) for i, (n, d, _) in enumerate(layers)})
    two = with_counts({f"t{i}": (n, round(d * n)) for i, (n, _, d) in enumerate(layers)})
    bound = math.sqrt(two.kept * math.log(2 / 1e-12) / 2)
    found = likeness(one, random_layerwise(two, draw))
    assert abs(found["both"] - found["chance"]["layers"]["both"]) < bound
    shapes = {name: two.shape(name) for name in two}
    found = likeness(one, random_global(shapes, two.density, draw))
    assert abs(found["both"] - found["chance"]["density"]["both"]) < bound


def test_layer_densities_alone_explain_what_random_layerwise_masks_share() -> None:
    # Two layers of 20,000 weights, 90% and 10% kept: by density a quarter is shared, 20,000·20,000/
    # 40,000; by layer 20,000·(0.81 + 0.01) = 16,400 instead of 10,000.
    like = with_counts({"a": (20_000, 18_000), "b": (20_000, 2_000)})
    draw = torch.Generator().manual_seed(3)
    found = likeness(random_layerwise(like, draw), random_layerwise(like, draw))
    assert found["chance"]["density"]["both"] == 10_000
    assert found["chance"]["layers"]["both"] == pytest.approx(16_400)
    assert found["by_layers"] == pytest.approx(1, abs=0.03)
    assert abs(found["chance"]["layers"]["z"]) < 5
    assert found["chance"]["density"]["z"] > 50


@steady
@given(pairs())
def test_masks_that_share_less_than_chance_have_no_excess_to_explain(
    pair: tuple[Mask, Mask],
) -> None:
    found = likeness(pair[0], ~pair[0])
    assume(0 < pair[0].kept < pair[0].prunable)
    assert found["kept"] == found["pruned"] == found["agreement"] == 0
    assert found["by_layers"] is None


def test_masks_of_other_tensors_and_unknown_groups_are_refused() -> None:
    one = mask(a=[1, 0])
    with pytest.raises(MaskError, match=r"lacks 1 tensor\(s\): a"):
        likeness(one, mask(b=[1, 0]))
    with pytest.raises(MaskError, match=r"tensor 'a' has shape \(3,\) in the other mask"):
        likeness(one, mask(a=[1, 0, 1]))
    with pytest.raises(MaskError, match=r"the groups name 1 tensor\(s\) that the masks lack: c"):
        likeness(one, one, {"kind": ["a", "c"]})


def test_counts_of_bert_size_do_not_overflow() -> None:
    """Products of four counts have 32 digits; they are Python's whole numbers."""
    half = Shared(84_934_656, 42_467_328, 42_467_328, 42_467_328)
    assert half.expected == 84_934_656 / 4
    assert half.variance == pytest.approx(84_934_656 / 16, rel=1e-7)
    assert measures(half, half.expected)["kept"] == pytest.approx(1 / 3)
