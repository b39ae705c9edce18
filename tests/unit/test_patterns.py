"""Patterns: N:M, blocks, heads and neurons; by hand, as properties, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ticketry.core import keys
from ticketry.core.mask import Mask
from ticketry.core.pattern import Part, Unit, check_units, matrix_shape
from ticketry.core.select import select
from ticketry.errors import ConfigError, MaskError, ScopeError, ScoreError

T, F = True, False
INF = math.inf


def one(rows: list[list[float]]) -> dict[str, Tensor]:
    return {"w": torch.tensor(rows, dtype=torch.float32)}


# --- N:M by hand --------------------------------------------------------------------------------


def test_two_of_every_four_inputs() -> None:
    weights = one([[1, -3, 2, 0, 5, 5, 5, 5], [0, 0, 0, 1, -9, 8, -7, 6]])
    mask = select(weights, 0.5, pattern="2:4")
    assert mask["w"].tolist() == [
        [F, T, T, F, T, T, F, F],  # ties go to the lower input
        [T, F, F, T, T, T, F, F],
    ]
    assert select(weights, None, pattern="1:4")["w"].int().tolist() == [
        [0, 1, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0, 0],
    ]


def test_groups_follow_the_inputs_however_they_are_stored() -> None:
    # Stored [in, out] = [4, 2]: each column is an output's inputs.
    stored = one([[1, 9], [2, 8], [3, 7], [4, 6]])
    assert select(stored, 0.5, pattern="2:4", input_axes={"w": 0})["w"].int().tolist() == [
        [0, 1],
        [0, 1],
        [1, 0],
        [1, 0],
    ]
    # A convolution [out, in, kh, kw] = [1, 2, 1, 2]: the inputs are in·kh·kw.
    kernel = {"w": torch.tensor([[[[1.0, 2.0]], [[4.0, 3.0]]]])}
    assert select(kernel, 0.5, pattern="2:4")["w"].tolist() == [[[[F, F]], [[T, T]]]]


def test_infinite_scores_are_kept_and_lost_like_others() -> None:
    statistics = {"movement": one([[-INF, -INF, -INF, -INF, INF, 1, -INF, 2]])}
    mask = select(one([[0.0] * 8]), 0.5, criterion="movement", statistics=statistics, pattern="2:4")
    assert mask["w"].int().tolist() == [[1, 1, 0, 0, 1, 0, 0, 1]]
    within = Mask({"w": torch.tensor([[F, F, T, T, F, T, T, T]])})
    mask = select(
        one([[0.0] * 8]),
        0.5,
        criterion="movement",
        statistics=statistics,
        pattern="2:4",
        within=within,
    )
    assert mask["w"].int().tolist() == [[0, 0, 1, 1, 0, 1, 0, 1]]


# --- blocks by hand -----------------------------------------------------------------------------


def test_the_blocks_of_the_highest_mean_stay() -> None:
    weights = one([[1, 1, 0, 9], [1, 2, 0, 0], [3, 0, 2, 2], [0, 0, 2, 2]])
    # means 5/4, 9/4, 3/4, 2
    mask = select(weights, 0.5, pattern="2x2")
    assert mask["w"].int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    mask = select(weights, 0.25, pattern="1x4")  # row sums 11, 3, 7, 4
    assert mask["w"].any(dim=1).tolist() == [T, F, F, F]
    mask = select(weights, 0.5, pattern="4x1")  # column sums 5, 3, 4, 13
    assert mask["w"].all(dim=0).tolist() == [T, F, F, T]


def test_rows_of_a_block_are_outputs_however_they_are_stored() -> None:
    weights = one([[1, 5], [2, 6], [3, 7], [4, 8]])  # [in, out]: outputs (1 2 3 4), (5 6 7 8)
    mask = select(weights, 0.5, pattern="1x4", input_axes={"w": 0})
    assert mask["w"].int().tolist() == [[0, 1]] * 4
    assert select(weights, 0.5, pattern="1x2")["w"].int().tolist() == [
        [0, 0],
        [0, 0],
        [1, 1],
        [1, 1],
    ]


def test_blocks_that_tie_go_in_row_order() -> None:
    mask = select({"w": torch.full((4, 4), 0.1), "v": torch.full((2, 2), 0.1)}, 0.6, pattern="2x2")
    assert mask["v"].all()  # 3 of 5, v before w
    assert mask["w"].int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_floor_counts_blocks() -> None:
    weights = {"large": torch.full((4, 2), 9.0), "small": torch.ones(4, 2)}
    assert select(weights, 0.5, pattern="2x2").empty_layers() == ("small",)
    mask = select(weights, 0.5, pattern="2x2", min_layer_density=0.3)  # ceil(0.6) block each
    assert [row.kept for row in mask.layers()] == [4, 4]


# --- heads and neurons by hand ------------------------------------------------------------------

HEADS = (
    Unit("0", (Part("q", 0, 0, 1), Part("o", 1, 0, 1))),
    Unit("1", (Part("q", 0, 1, 2), Part("o", 1, 1, 2))),
    Unit("2", (Part("q", 0, 2, 3), Part("o", 1, 2, 3))),
)
ATTENTION = {
    "q": torch.tensor([[1.0, 1.0], [0.0, 5.0], [2.0, -2.0]]),
    "o": torch.tensor([[1.0, 0.0, -2.0], [1.0, 0.0, 2.0]]),
}  # means of the heads: 1, 5/4, 2


def test_a_head_is_kept_in_all_its_tensors() -> None:
    mask = select(ATTENTION, 2 / 3, pattern="head", units=HEADS)
    assert mask["q"].int().tolist() == [[0, 0], [1, 1], [1, 1]]
    assert mask["o"].int().tolist() == [[0, 1, 1], [0, 1, 1]]
    mask = select(ATTENTION, 1 / 3, pattern="head", units=HEADS)
    assert mask["q"].any(dim=1).tolist() == [F, F, T]


def test_units_of_different_size_are_ranked_by_their_mean() -> None:
    units = (Unit("large", (Part("w", 0, 0, 3),)), Unit("small", (Part("w", 0, 3, 4),)))
    weights = {"w": torch.tensor([2.0, 2.0, 2.0, 3.0])}  # sums 6 and 3, means 2 and 3
    assert select(weights, 0.5, pattern="neuron", units=units)["w"].tolist() == [F, F, F, T]
    weights = {"w": torch.full((4,), 0.1)}  # the same mean exactly: the earlier unit
    assert select(weights, 0.5, pattern="neuron", units=units)["w"].tolist() == [T, T, T, F]


def test_weights_outside_every_unit_are_kept_as_far_as_within_keeps_them() -> None:
    weights = {**ATTENTION, "norm": torch.ones(2)}
    mask = select(weights, 0.0, pattern="head", units=HEADS[:2])
    assert mask["q"].int().tolist() == [[0, 0], [0, 0], [1, 1]]
    assert mask["norm"].tolist() == [T, T]
    within = Mask(
        {**{n: torch.ones_like(w) > 0 for n, w in weights.items()}, "norm": torch.tensor([T, F])}
    )
    mask = select(weights, 1 / 3, pattern="head", units=HEADS, within=within)
    assert mask["norm"].tolist() == [T, F]
    assert mask.is_subset_of(within)


def test_a_unit_that_within_keeps_in_part_is_pruned() -> None:
    within = Mask(
        {
            "q": torch.tensor([[T, T], [T, T], [T, F]]),  # not all of head 2
            "o": torch.tensor([[F, T, T], [T, T, T]]),  # not all of head 0
        }
    )
    mask = select(ATTENTION, 1 / 3, pattern="head", units=HEADS, within=within)
    assert mask["q"].any(dim=1).tolist() == mask["o"].any(dim=0).tolist() == [F, T, F]


def test_units_that_tie_go_in_their_own_order() -> None:
    units = [Unit(name, (Part(name, 0, 0, 2),)) for name in "bac"]
    weights = {name: torch.ones(2) for name in "abc"}
    assert select(weights, 1 / 3, pattern="neuron", units=units)["b"].all()


def test_uniform_units_are_shared_out_among_layers() -> None:
    units = [Unit(f"{t}{i}", (Part(t, 0, i, i + 1),)) for t in "ab" for i in range(4)]
    weights = {"a": torch.arange(4.0), "b": torch.arange(4.0) + 10}
    assert select(weights, 0.5, pattern="neuron", units=units)["a"].tolist() == [F] * 4
    mask = select(weights, 0.5, pattern="neuron", units=units, allocation="uniform")
    assert (mask["a"].tolist(), mask["b"].tolist()) == ([F, F, T, T], [F, F, T, T])
    mask = select(
        weights,
        None,
        pattern="neuron",
        units=units,
        allocation="given",
        layer_densities={"a": 0.75, "*": 0.25},
    )
    assert (mask["a"].tolist(), mask["b"].tolist()) == ([F, T, T, T], [F, F, F, T])


# --- properties ---------------------------------------------------------------------------------


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int) -> dict[str, Tensor]:
    """Up to three tensors of small whole numbers, so with many ties, that blocks fill."""
    weights = {}
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        down, across = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        seed = draw(st.integers(0, 1000))
        size = (down * rows, across * columns)
        values = torch.randint(-3, 4, size, generator=torch.Generator().manual_seed(seed))
        weights[name] = values.float()
    return weights


@settings(max_examples=120)
@given(st.data(), st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 5)]), st.booleans())
def test_every_group_keeps_its_best(
    data: st.DataObject, groups: tuple[int, int], turned: bool
) -> None:
    keep, size = groups
    weights = data.draw(matrices(1, size))
    axes = dict.fromkeys(weights, 0) if turned else None
    stored = {name: w.T.contiguous() for name, w in weights.items()} if turned else weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "CHUNK", data.draw(st.sampled_from([8, 32_768])))
        mask = select(stored, keep / size, pattern=f"{keep}:{size}", input_axes=axes)
        assert mask == select(stored, None, pattern=f"{keep}:{size}", input_axes=axes)
    for name, w in weights.items():
        kept = (mask[name].T if turned else mask[name]).reshape(-1, size)
        ranks = (-w.abs()).reshape(-1, size).numpy().argsort(axis=1, kind="stable")[:, :keep]
        expected = torch.zeros_like(kept)
        expected.scatter_(1, torch.from_numpy(ranks), True)
        assert torch.equal(kept, expected)
    allowed = {
        n: torch.from_numpy(np.random.default_rng(0).random(w.shape) < 0.9)
        for n, w in stored.items()
    }
    within = mask | Mask(allowed)  # at least N of each group
    other = {name: w.flip(0) for name, w in stored.items()}
    nested = select(other, None, pattern=f"{keep}:{size}", input_axes=axes, within=within)
    assert nested.is_subset_of(within)
    assert nested.kept == mask.kept


@settings(max_examples=120)
@given(st.data(), st.sampled_from([(2, 2), (1, 3), (4, 1)]), st.floats(0, 1), st.floats(0, 1))
def test_blocks_are_whole_exact_and_nested(
    data: st.DataObject, block: tuple[int, int], first: float, second: float
) -> None:
    rows, columns = block
    weights = data.draw(matrices(rows, columns))
    blocks = sum(w.numel() for w in weights.values()) // (rows * columns)
    high, low = max(first, second), min(first, second)
    pattern = f"{rows}x{columns}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "CHUNK", data.draw(st.sampled_from([8, 32_768])))
        mask = select(weights, high, pattern=pattern)
        moved = {name: w.flip(0) for name, w in weights.items()}
        nested = select(moved, low, pattern=pattern, within=mask)
    means: list[tuple[float, bool]] = []
    for found, count in ((mask, round(high * blocks)), (nested, round(low * blocks))):
        assert found.kept == count * rows * columns
    for name, w in weights.items():
        cells = mask[name].reshape(w.shape[0] // rows, rows, -1, columns)
        assert torch.equal(cells.all(dim=3).all(dim=1), cells.any(dim=3).any(dim=1))
        score = w.abs().double().reshape(cells.shape).mean(dim=(1, 3)).reshape(-1)
        means += list(zip(score.tolist(), cells[:, 0, :, 0].reshape(-1).tolist(), strict=True))
    kept, lost = [m for m, k in means if k], [m for m, k in means if not k]
    assert not kept or not lost or min(kept) >= max(lost)
    assert nested.is_subset_of(mask)


@settings(max_examples=100)
@given(st.integers(1, 6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000), st.booleans())
def test_units_are_whole_exact_and_nested(
    heads: int, first: float, second: float, seed: int, uniform: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights, units = {}, []
    for layer in "01":
        weights[f"{layer}.q"] = torch.randn(heads * 2, 3, generator=generator)
        weights[f"{layer}.o"] = torch.randn(3, heads * 2, generator=generator)
        for head in range(heads):
            rows = Part(f"{layer}.q", 0, 2 * head, 2 * head + 2)
            columns = Part(f"{layer}.o", 1, 2 * head, 2 * head + 2)
            units.append(Unit(f"{layer}.{head}", (rows, columns)))
    high, low = max(first, second), min(first, second)
    allocation = "uniform" if uniform else "global"
    mask = select(weights, high, pattern="head", units=units, allocation=allocation)
    assert mask == select(weights, high, pattern="head", units=units, allocation=allocation)
    whole = []
    for unit in units:
        parts = [mask[p.tensor].narrow(p.axis, p.start, p.stop - p.start) for p in unit.parts]
        whole.append(all(bool(part.all()) for part in parts))
        assert whole[-1] == any(bool(part.any()) for part in parts)
    assert sum(whole) == round(high * 2 * heads)
    if uniform:
        assert abs(sum(whole[:heads]) - sum(whole[heads:])) <= 1
    moved = {name: w.roll(1, 0) for name, w in weights.items()}
    nested = select(moved, low, pattern="head", units=units, allocation=allocation, within=mask)
    assert nested.is_subset_of(mask)
    assert nested.kept == round(low * 2 * heads) * 12


@pytest.mark.parametrize("pattern", ["2:4", "2x2", "head"])
def test_structured_random_masks_are_decided_by_the_generator(pattern: str) -> None:
    weights = {"w": torch.zeros(8, 8)}
    units = (
        [Unit(str(i), (Part("w", 0, i, i + 1),)) for i in range(8)] if pattern == "head" else None
    )

    def drawn(seed: int) -> Mask:
        generator = torch.Generator().manual_seed(seed)
        return select(
            weights, 0.5, criterion="random", pattern=pattern, units=units, generator=generator
        )

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1).kept == 32
    often = sum(drawn(seed)["w"].int() for seed in range(200))
    assert isinstance(often, Tensor)
    assert 60 < int(often.min()) <= int(often.max()) < 140  # binomial(200, 1/2): 100 ± 5.7 · 7.1


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "2x2"])
def test_the_lowest_key_that_can_be_drawn_is_not_taken_for_an_excluded_one(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = Mask({"w": torch.tensor([[F, F, T, T]] * 4)})
    monkeypatch.setattr(
        torch, "randint", lambda low, high, size, **_: torch.full(size, low, dtype=torch.int32)
    )
    mask = select(
        {"w": torch.zeros(4, 4)},
        0.5,
        criterion="random",
        pattern=pattern,
        within=within,
        generator=torch.Generator(),
    )
    assert mask == within


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("pattern", ["2:4", "2x2"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_tensors_without_weights(criterion: str, pattern: str, shape: tuple[int, int]) -> None:
    weights = {"none": torch.zeros(shape), "w": torch.eye(4)}
    generator = torch.Generator()
    mask = select(weights, 0.5, criterion=criterion, pattern=pattern, generator=generator)
    assert (mask.shape("none"), mask.kept) == (shape, 8)


def test_bands_of_a_matrix_taller_than_a_piece() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(96, 1200, generator=generator)}
    for pattern in ("2:4", "32x1"):
        small = select(weights, 0.5, pattern=pattern)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keys, "CHUNK", 10**9)
            assert select(weights, 0.5, pattern=pattern) == small


# --- what is refused ----------------------------------------------------------------------------

SQUARE = one([[1.0, 2.0, 3.0, 4.0]] * 4)
ROW = Unit("row", (Part("w", 0, 0, 1),))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"pattern": "2:4", "density": 0.6},
            ConfigError,
            "pattern 2:4 keeps 2 of every 4 weights, which is density 0.5 (sparsity 0.5); found "
            "density 0.6. Ask for that, or use another pattern.",
        ),
        (
            {"pattern": "2:3", "density": 2 / 3},
            ScopeError,
            "pattern 2:3 does not fit 1 tensor(s): w (4 outputs × 4 inputs); expected inputs "
            "divisible by 3. Leave them out of the scope, or use another pattern.",
        ),
        (
            {"pattern": "3x2"},
            ScopeError,
            "pattern 3x2 does not fit 1 tensor(s): w (4 outputs × 4 inputs); expected outputs "
            "divisible by 3 and inputs divisible by 2. Leave them out of the scope, or use another "
            "pattern.",
        ),
        (
            {"pattern": "2:4", "within": Mask({"w": torch.tensor([[T] * 4] * 3 + [[F, F, T, F]])})},
            MaskError,
            "pattern 2:4 keeps 2 weights of each group, but within keeps 1 of tensor 'w' at output "
            "3, inputs 0 to 3; expected a mask that leaves enough.",
        ),
        (
            {"pattern": "2x2", "within": Mask({"w": torch.tensor([[T, T, T, F]] * 4)})},
            None,
            "",
        ),
        (
            {
                "pattern": "2x2",
                "density": 0.75,
                "within": Mask({"w": torch.tensor([[T, T, T, F]] * 4)}),
            },
            MaskError,
            "density 0.75 asks for 3 of 4 blocks, but within keeps 2; expected at most density "
            "0.5.",
        ),
        (
            {
                "pattern": "head",
                "density": 1.0,
                "units": [ROW],
                "within": Mask({"w": torch.eye(4) > 0}),
            },
            MaskError,
            "density 1 asks for 1 of 1 units, but within keeps 0; expected at most density 0.",
        ),
        (
            {"pattern": "4:2"},
            ConfigError,
            "pattern '4:2' keeps 4 of every 2 weights; expected N:M with N from 1 and M above N, "
            "such as 2:4.",
        ),
        (
            {"pattern": "1x1"},
            ConfigError,
            "pattern '1x1' has blocks of 1 weights; expected ROWSxCOLUMNS of 2 weights and more, "
            "such as 4x4. Single weights are the pattern unstructured.",
        ),
        (
            {"pattern": "heads"},
            ConfigError,
            "unknown pattern 'heads'. Did you mean 'head'? Known: N:M, ROWSxCOLUMNS, head, neuron, "
            "unstructured.",
        ),
        (
            {"pattern": "head"},
            ConfigError,
            "pattern head needs units: the model's heads.",
        ),
        (
            {"pattern": "2:4", "units": [ROW]},
            ConfigError,
            "units go with the patterns head and neuron, not 2:4; drop them.",
        ),
        (
            {"density": None},
            ConfigError,
            "density is missing; only N:M patterns and allocation given imply one.",
        ),
        (
            {"pattern": "2:4", "input_axes": {"w": 2}},
            ScopeError,
            "tensor 'w' of shape (4, 4) has input axis 2; expected -1 or 1 where the outputs come "
            "first, or 0 of [in, out].",
        ),
    ],
)
def test_patterns_are_refused_with_the_reason(
    arguments: dict[str, object], kind: type[Exception] | None, message: str
) -> None:
    call = {"weights": SQUARE, "density": 0.5, **arguments}
    if kind is None:
        assert select(**call)["w"].int().tolist() == [[1, 1, 0, 0]] * 4  # type: ignore[arg-type]
        return
    with pytest.raises(kind) as caught:
        select(**call)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_short_group_is_named_where_it_lies() -> None:
    within = Mask({"w": torch.tensor([[T] * 8] * 3 + [[T] * 6 + [F, F]])})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "CHUNK", 8)
        with pytest.raises(MaskError, match="keeps 2 of tensor 'w' at output 3, inputs 4 to 7;"):
            select({"w": torch.ones(4, 8)}, None, pattern="3:4", within=within)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "no units were given; expected the model's heads or neurons."),
        ([Unit("a", ())], "unit 'a' has no parts; expected at least one."),
        ([ROW, ROW], "two units are called 'row'; expected a name each."),
        (
            [Unit("a", (Part("v", 0, 0, 1),))],
            "unit 'a' has a part in tensor 'v', which is not among the 1 given; expected units of "
            "these tensors. Use a scope that holds it.",
        ),
        *(
            (
                [Unit("a", (part,))],
                f"unit 'a' has the part [{part.start}, {part.stop}) along axis {part.axis} of "
                "tensor 'w', which has shape (4, 4); expected a range inside it.",
            )
            for part in (
                Part("w", 0, 3, 5),
                Part("w", 2, 0, 1),
                Part("w", -1, 0, 1),
                Part("w", 0, 1, 1),
                Part("w", 1, -1, 1),
            )
        ),
        *(
            (
                [Unit("a", (Part("w", 0, 0, 2),)), Unit("b", (part,))],
                "units 'a' and 'b' share weights of tensor 'w'; expected units that share none.",
            )
            for part in (Part("w", 0, 1, 3), Part("w", 1, 3, 4), Part("w", 0, 0, 2))
        ),
        (
            [Unit("a", (Part("w", 0, 0, 2), Part("w", 0, 1, 3)))],
            "units 'a' and 'a' share weights of tensor 'w'; expected units that share none.",
        ),
    ],
)
def test_units_are_refused_with_the_reason(units: list[Unit], message: str) -> None:
    with pytest.raises(ScopeError) as caught:
        select(SQUARE, 0.5, pattern="neuron", units=units)
    assert str(caught.value) == message


def test_units_side_by_side_are_fine_and_an_empty_tensor_has_nothing_to_share() -> None:
    check_units(
        [Unit("a", (Part("w", 0, 0, 2), Part("w", 0, 3, 4))), Unit("b", (Part("w", 0, 2, 3),))],
        {"w": (4, 4)},
    )
    check_units([Unit("a", (Part("e", 0, 0, 1),)), Unit("b", (Part("e", 0, 0, 1),))], {"e": (2, 0)})


def test_infinities_of_both_signs_have_no_mean() -> None:
    statistics = {"movement": one([[INF, -INF, 0.0, 0.0]] * 4)}
    call = {"criterion": "movement", "statistics": statistics}
    with pytest.raises(ScoreError) as caught:
        select(SQUARE, 0.5, pattern="2x2", **call)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "a block of tensor 'w' has infinite scores of both signs, which have no mean; expected "
        "finite scores. Weights or statistics this large come of a training that diverged."
    )
    with pytest.raises(ScoreError, match="unit 'row' has infinite scores of both signs"):
        select(SQUARE, 0.5, pattern="neuron", units=[ROW], **call)  # type: ignore[arg-type]


def test_matrices_of_one_dimension_and_none() -> None:
    assert matrix_shape("w", (7,)) == (1, 7)
    assert matrix_shape("w", ()) == (1, 1)
    assert matrix_shape("w", (2, 3, 4, 5)) == (2, 60)
    assert matrix_shape("w", (2, 3), 0) == (3, 2)
    with pytest.raises(ScopeError, match=r"'w' of shape \(2, 3, 4\) has input axis 0"):
        matrix_shape("w", (2, 3, 4), 0)
    assert select({"w": torch.tensor([3.0, 1.0])}, 0.5, pattern="1:2")["w"].tolist() == [T, F]
