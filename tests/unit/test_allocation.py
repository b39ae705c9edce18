"""Allocations: by hand, as properties; and every criterion × pattern × allocation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ticketry.combination import (
    ALLOCATIONS,
    CRITERIA,
    Blocks,
    Groups,
    Units,
    check_combination,
    parse_pattern,
)
from ticketry.core.allocation import erk, uniform, whole
from ticketry.core.mask import Mask
from ticketry.core.pattern import Part, Unit
from ticketry.core.score import STATISTICS
from ticketry.core.select import random_global, select, select_global
from ticketry.errors import ConfigError, InputError, MaskError

T, F = True, False


def kept(mask: Mask) -> dict[str, int]:
    return {row.name: row.kept for row in mask.layers()}


def sized(**sizes: int) -> dict[str, Tensor]:
    return {name: torch.arange(1.0, size + 1) for name, size in sizes.items()}


# --- by hand ------------------------------------------------------------------------------------


def test_uniform_gives_the_rest_to_the_largest_remainders() -> None:
    weights = sized(a=5, b=3, c=2)
    # 6 of 10: shares 3, 1.8, 1.2
    mask = select(weights, 0.6, allocation="uniform")
    assert kept(mask) == {"a": 3, "b": 2, "c": 1}
    assert mask["a"].tolist() == [F, F, T, T, T]  # the best of each
    # 5 of 10: shares 2.5, 1.5, 1: one is left, a and b tie, the first name has it
    assert kept(select(weights, 0.5, allocation="uniform")) == {"a": 3, "b": 1, "c": 1}


def test_erk_by_hand() -> None:
    # [2, 2] has (2 + 2)/4 = 1, [2, 6] 8/12, [4, 16] 20/64; shares ε·4, ε·8, ε·20.
    shapes = {"a": (2, 2), "b": (2, 6), "c": (4, 16)}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert erk(shapes, sizes, 16) == {"a": 2, "b": 4, "c": 10}  # ε = 16/32
    # 40 of 80: ε = 40/32 would give a 5 of 4; it is dense, and 36/28 go on: b 10.3, c 25.7
    assert erk(shapes, sizes, 40) == {"a": 4, "b": Fraction(72, 7), "c": Fraction(180, 7)}
    # 52: b is over as well (48/28 · 8 = 13.7 of 12), c has the other 36
    assert erk(shapes, sizes, 52) == {"a": 4, "b": 12, "c": 36}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    assert kept(select(weights, 0.5, allocation="erk")) == {"a": 4, "b": 10, "c": 26}
    # A kernel [out, in, kh, kw] = [4, 2, 3, 3]: (4 + 2 + 3 + 3) / 72.
    assert erk({"k": (4, 2, 3, 3), "a": (2, 2)}, {"k": 72, "a": 4}, 8) == {"k": 6, "a": 2}


def test_given_takes_the_first_match() -> None:
    weights = sized(**{"0.query": 8, "0.value": 8, "1.query": 8})
    densities = {"0.q*": 0.25, "*.query": 1.0, "*": 0.5}
    mask = select(weights, None, allocation="given", layer_densities=densities)
    assert kept(mask) == {"0.query": 2, "0.value": 4, "1.query": 8}
    assert mask == select(weights, 14 / 24, allocation="given", layer_densities=densities)
    # 0.3 of 5 is a half as written, which goes to the even 2, and below it in floats.
    assert select(sized(w=5), None, allocation="given", layer_densities={"w": 0.3}).kept == 2


def test_given_meets_the_density_to_the_weight() -> None:
    # Shares 2.5 and 2.5: 5 in all, the first name has the odd one.
    mask = select(sized(a=5, b=5), None, allocation="given", layer_densities={"*": 0.5})
    assert kept(mask) == {"a": 3, "b": 2}
    # A density that is off by the rounding of a layer decides: round(0.44 · 10) = 4.
    mask = select(sized(a=5, b=5), 0.44, allocation="given", layer_densities={"*": 0.5})
    assert kept(mask) == {"a": 2, "b": 2}
    mask = select(sized(a=4, b=4), 0.75, allocation="given", layer_densities={"a": 0.5, "b": 0.75})
    assert kept(mask) == {"a": 3, "b": 3}  # 5 by the layers, 6 by the density
    mask = select(sized(a=4, b=4), 0.5, allocation="given", layer_densities={"a": 0.5, "b": 0.75})
    assert kept(mask) == {"a": 2, "b": 2}  # 5 by the layers, 4 by the density


def test_an_n_m_pattern_leaves_an_allocation_nothing_to_say() -> None:
    weights = {name: torch.randn(4, 8) for name in "ab"}
    every = [select(weights, 0.5, pattern="2:4", allocation=a) for a in ("global", "uniform")]
    assert every[0] == every[1]


# --- properties ---------------------------------------------------------------------------------

SHAPES = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    min_size=1,
)
DENSITIES = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


@settings(max_examples=200)
@given(SHAPES, DENSITIES, DENSITIES)
def test_erk_is_exact_capped_and_monotonic(
    shapes: dict[str, tuple[int, ...]], first: float, second: float
) -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    low, high = sorted(round(d * sum(sizes.values())) for d in (first, second))
    less, more = erk(shapes, sizes, low), erk(shapes, sizes, high)
    assert sum(more.values()) == high
    for name in shapes:
        assert 0 <= less[name] <= more[name] <= sizes[name]
    raw = {name: Fraction(sum(shape), sizes[name]) for name, shape in shapes.items()}
    for one, two in itertools.combinations(shapes, 2):
        if raw[one] >= raw[two]:
            assert more[one] / sizes[one] >= more[two] / sizes[two]
    counts = whole(more, sizes, high, "erk")
    assert sum(counts.values()) == high
    assert all(abs(counts[name] - more[name]) < 1 for name in shapes)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 30), min_size=1), DENSITIES)
def test_uniform_is_exact_and_even(sizes: dict[str, int], density: float) -> None:
    total = sum(sizes.values())
    count = round(density * total)
    counts = whole(uniform(sizes, count), sizes, count, "uniform")
    assert sum(counts.values()) == count
    for name, size in sizes.items():
        assert abs(counts[name] - Fraction(count * size, max(total, 1))) < 1


@settings(max_examples=100)
@given(SHAPES, st.lists(DENSITIES, min_size=2, max_size=4), st.sampled_from(["uniform", "erk"]))
def test_levels_of_one_allocation_nest(
    shapes: dict[str, tuple[int, ...]], densities: list[float], allocation: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    within = None
    for density in sorted(densities, reverse=True):
        weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        mask = select(weights, density, allocation=allocation, within=within)
        assert mask.kept == round(density * mask.prunable)
        assert within is None or mask.is_subset_of(within)
        assert mask == select(weights, density, allocation=allocation, within=within)
        within = mask


def test_a_level_that_rounds_up_where_the_one_before_rounded_down_still_nests() -> None:
    # Largest remainders are not monotonic in the total: 10 are shared 4.29, 4.29, 1.43 (4, 4, 2),
    # 11 are shared 4.71, 4.71, 1.57 (5, 5, 1). The third has no room for its second weight then.
    weights = sized(a=6, b=6, c=2)
    high = select(weights, 11 / 14, allocation="uniform")
    assert kept(high) == {"a": 5, "b": 5, "c": 1}
    assert kept(select(weights, 10 / 14, allocation="uniform")) == {"a": 4, "b": 4, "c": 2}
    low = select(weights, 10 / 14, allocation="uniform", within=high)
    assert kept(low) == {"a": 5, "b": 4, "c": 1}


def test_unstructured_global_is_select_global_and_random_is_random_global() -> None:
    weights = {name: torch.randn(40, 50) for name in "ab"}
    assert select(weights, 0.3) == select_global(weights, 0.3)
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    drawn = select(weights, 0.3, criterion="random", generator=torch.Generator().manual_seed(5))
    assert drawn == random_global(shapes, 0.3, torch.Generator().manual_seed(5))


# --- every combination --------------------------------------------------------------------------

PATTERNS = ("unstructured", "2:4", "1:4", "4x4", "2x1", "head", "neuron")
TOY = {
    "0.q": (8, 8),
    "0.o": (8, 8),
    "0.up": (16, 8),
    "0.down": (8, 16),
    "1.q": (8, 8),
    "1.o": (8, 8),
    "1.up": (16, 8),
    "1.down": (8, 16),
}
GIVEN = {"0.*": 0.75, "1.*": 0.25}


def toy_units(kind: str) -> list[Unit]:
    first, second, width = ("q", "o", 2) if kind == "head" else ("up", "down", 1)
    count = 4 if kind == "head" else 16
    return [
        Unit(
            f"{layer}.{index}",
            (
                Part(f"{layer}.{first}", 0, index * width, (index + 1) * width),
                Part(f"{layer}.{second}", 1, index * width, (index + 1) * width),
            ),
        )
        for layer in "01"
        for index in range(count)
    ]


def toy_tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in TOY.items()}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_combination_works_or_is_refused_with_its_reason(
    criterion: str, pattern: str, allocation: str
) -> None:
    kind = parse_pattern(pattern)
    density = kind.density if isinstance(kind, Groups) else 0.5
    units = toy_units(pattern) if isinstance(kind, Units) else None
    weights = toy_tensors(0)
    if isinstance(kind, Units):  # the tensors of the units alone, as the scope of such a search
        names = {part.tensor for unit in units or () for part in unit.parts}
        weights = {name: tensor for name, tensor in weights.items() if name in names}

    def found() -> Mask:
        return select(
            weights,
            density,
            criterion=criterion,
            statistics={name: toy_tensors(1 + i) for i, name in enumerate(STATISTICS)},
            pattern=pattern,
            units=units,
            allocation=allocation,
            layer_densities=GIVEN if allocation == "given" else None,
            generator=torch.Generator().manual_seed(9),
        )

    reason = check_combination(criterion, pattern, allocation)
    if reason is not None:
        with pytest.raises(ConfigError) as caught:
            found()
        assert str(caught.value) == reason
        return
    mask = found()
    assert mask == found()
    assert mask.kept == round(density * mask.prunable)  # blocks and units are of one size each
    if allocation == "uniform" or isinstance(kind, Groups):
        assert all(abs(row.density - density) < 1e-9 for row in mask.layers())
    elif allocation == "given":
        assert all(row.density == GIVEN[f"{row.name[0]}.*"] for row in mask.layers())
    elif allocation == "erk":
        size = kind.rows * kind.columns if isinstance(kind, Blocks) else 1
        for row in mask.layers():  # (8 + 8 of 160) or (8 + 16 of 160) of what is kept in all
            share = mask.kept / size * sum(row.shape) / 160
            assert abs(row.kept / size - share) < 1
    for name in mask:
        if isinstance(kind, Groups):
            groups = mask[name].reshape(-1, kind.size).sum(dim=1)
            assert groups.eq(kind.keep).all()
        if isinstance(kind, Blocks):
            cells = mask[name].unfold(0, kind.rows, kind.rows)
            cells = cells.unfold(1, kind.columns, kind.columns).flatten(2)
            assert torch.equal(cells.all(dim=2), cells.any(dim=2))
    for unit in units or ():
        parts = [mask[p.tensor].narrow(p.axis, p.start, p.stop - p.start) for p in unit.parts]
        assert len({bool(bit) for part in parts for bit in part.reshape(-1)}) == 1


def test_which_combinations_are_refused() -> None:
    refused = {
        (pattern, allocation)
        for criterion, pattern, allocation in itertools.product(CRITERIA, PATTERNS, ALLOCATIONS)
        if check_combination(criterion, pattern, allocation) is not None
    }
    assert refused == {
        *itertools.product(("2:4", "1:4"), ("erk", "given")),
        ("head", "erk"),
        ("neuron", "erk"),
    }


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (
            ("magnitude", "2:4", "erk"),
            "pattern 2:4 keeps 2 of every 4 weights, so every tensor has density 0.5; allocation "
            "erk gives tensors densities of their own. Use global or uniform, which change nothing "
            "here.",
        ),
        (
            ("snip", "head", "erk"),
            "a head lies in several tensors and is kept or pruned in all of them; allocation erk "
            "gives each tensor a density of its own. Use global, uniform or given.",
        ),
        (
            ("magnitude", "unstructured", "erk", 0.1),
            "min_layer_density 0.1 is a floor for tensors that compete for weights or blocks; with "
            "pattern unstructured and allocation erk they do not. Drop it, or use allocation "
            "global with unstructured or block patterns.",
        ),
        (
            ("magnitud", "unstructured", "global"),
            "unknown criterion 'magnitud'. Did you mean 'magnitude'? Known: grasp, magnitude, "
            "movement, random, snip, synflow, taylor.",
        ),
        (
            ("snip", "2;4", "global"),
            "unknown pattern '2;4'. Known: N:M, ROWSxCOLUMNS, head, neuron, unstructured.",
        ),
        (
            ("snip", "2:4", "ekr"),
            "unknown allocation 'ekr'. Did you mean 'erk'? Known: erk, given, global, uniform.",
        ),
    ],
)
def test_reasons_in_words(choice: tuple[str, str, str], reason: str) -> None:
    assert check_combination(*choice) == reason


# --- what is refused ----------------------------------------------------------------------------

PAIR = sized(a=4, b=4)
UNEVEN = Mask({"a": torch.tensor([T, T, T, T]), "b": torch.tensor([T, F, F, F])})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"layer_densities": {"a": 0.5}},
            ConfigError,
            "layer_densities matches none of 1 tensor(s): b; expected each tensor to match a "
            "pattern. A last pattern '*' takes the others.",
        ),
        (
            {"layer_densities": {"*": 0.5, "a": 1.5, "c": 0.1}},
            ConfigError,
            "3 faults in the configuration:\n"
            "  - layer_densities gives 'a' density 1.5; expected a number in [0, 1].\n"
            "  - layer_densities pattern 'a' decides no tensor: none matches it, or an earlier "
            "pattern takes them. Drop it, or move it up.\n"
            "  - layer_densities pattern 'c' decides no tensor: none matches it, or an earlier "
            "pattern takes them. Drop it, or move it up.",
        ),
        (
            {"layer_densities": {"*": 0.5}, "density": 0.9},
            ConfigError,
            "layer_densities add up to density 0.5, but density is 0.9; expected the same. Give "
            "the one, or leave density out.",
        ),
        (
            {},
            ConfigError,
            "allocation given needs layer_densities: pattern -> density.",
        ),
        (
            {"allocation": "erk", "layer_densities": {"*": 0.5}},
            ConfigError,
            "layer_densities go with allocation given, not erk; drop them.",
        ),
        (
            {
                "layer_densities": {"a": 0.5, "b": 0.25},
                "density": None,
                "pattern": "neuron",
                "units": [Unit("n", (Part("a", 0, 0, 1), Part("b", 0, 0, 1)))],
            },
            ConfigError,
            "layer_densities gives a, b the densities 0.25, 0.5; expected one: units lie in all "
            "of them.",
        ),
        (
            {"allocation": "uniform", "within": UNEVEN},
            MaskError,
            "allocation uniform keeps 2 of tensor 'b', but within keeps 1 there; expected a mask "
            "of the same allocation.",
        ),
        (
            {"allocation": "uniform", "density": 0.75, "within": UNEVEN},
            MaskError,
            "density 0.75 asks for 6 of 8 weights, but within keeps 5; expected at most density "
            "0.625.",
        ),
    ],
)
def test_allocations_are_refused_with_the_reason(
    arguments: dict[str, object], kind: type[InputError], message: str
) -> None:
    call = {"weights": PAIR, "density": 0.5, "allocation": "given", **arguments}
    with pytest.raises(kind) as caught:
        select(**call)  # type: ignore[arg-type]
    assert str(caught.value) == message
