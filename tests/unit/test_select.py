"""Selection against a stable sort, its tie rule, its memory."""

from __future__ import annotations

import dataclasses
import importlib
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ticketry.core import keys, score
from ticketry.core.mask import Mask
from ticketry.core.select import select_global
from ticketry.errors import ConfigError

T, F = True, False


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- by hand ------------------------------------------------------------------------------------

WEIGHTS = {"b": torch.tensor([2.0, -2.0]), "a": torch.tensor([[1.0, -4.0], [3.0, 0.0]])}


@pytest.mark.parametrize(
    ("density", "a", "b"),
    [
        (0.0, [[F, F], [F, F]], [F, F]),
        (1 / 6, [[F, T], [F, F]], [F, F]),
        (2 / 6, [[F, T], [T, F]], [F, F]),
        (3 / 6, [[F, T], [T, F]], [T, F]),  # 2 and −2 tie: the lower index
        (4 / 6, [[F, T], [T, F]], [T, T]),
        (5 / 6, [[T, T], [T, F]], [T, T]),
        (1.0, [[T, T], [T, T]], [T, T]),
    ],
)
def test_the_largest_magnitudes_of_all_tensors_stay(
    density: float, a: list[list[bool]], b: list[bool]
) -> None:
    mask = select_global(WEIGHTS, density)
    assert mask["a"].tolist() == a
    assert mask["b"].tolist() == b


def test_ties_go_to_the_lower_flat_index_of_the_first_name() -> None:
    ties = {"b": torch.ones(2, 2), "a": -torch.ones(2, 2)}
    assert select_global(ties, 3 / 8)["a"].tolist() == [[T, T], [T, F]]
    assert select_global(ties, 6 / 8)["b"].tolist() == [[T, T], [F, F]]
    turned = {"a": torch.tensor([[1.0, 0.0], [1.0, 0.0]]).T}  # flat: 1, 1, 0, 0
    assert select_global(turned, 1 / 4)["a"].tolist() == [[T, F], [F, F]]


@pytest.mark.parametrize(("size", "kept"), [(5, 2), (7, 4), (3, 2), (1, 0)])
def test_halves_are_rounded_to_the_even_number(size: int, kept: int) -> None:
    assert select_global({"w": torch.arange(float(size))}, 0.5).kept == kept  # 2.5, 3.5, 1.5, 0.5


def test_within_takes_the_best_of_what_is_kept() -> None:
    within = Mask({"a": torch.tensor([[T, F], [T, T]]), "b": torch.tensor([F, T])})
    mask = select_global(WEIGHTS, 2 / 6, within=within)  # 3 and −2; −4 and 2 are not allowed
    assert mask["a"].tolist() == [[F, F], [T, F]]
    assert mask["b"].tolist() == [F, T]


def test_a_floor_keeps_the_best_of_every_layer_first() -> None:
    weights = {"large": torch.tensor([9.0, 8.0, 7.0, 6.0]), "small": torch.tensor([1.0, 3.0, 2.0])}
    assert select_global(weights, 4 / 7).empty_layers() == ("small",)
    mask = select_global(weights, 4 / 7, min_layer_density=0.5)  # 2 of 4 and 2 of 3
    assert mask["large"].tolist() == [T, T, F, F]
    assert mask["small"].tolist() == [F, T, T]
    mask = select_global(weights, 4 / 7, min_layer_density=0.25)  # 1 of 4, 1 of 3, then 8 and 7
    assert mask["large"].tolist() == [T, T, T, F]
    assert mask["small"].tolist() == [F, T, F]


def test_a_floor_is_counted_in_decimal() -> None:
    # 0.07 · 100 is above 7 in floats; its ceiling would ask for 8 of the 7 that are kept.
    assert select_global({"w": torch.arange(100.0)}, 0.07, min_layer_density=0.07).kept == 7


def test_infinite_weights_are_the_largest() -> None:
    weights = {"w": torch.tensor([3.4e38, math.inf, -math.inf, 1.0])}
    assert select_global(weights, 0.25)["w"].tolist() == [F, T, F, F]
    assert select_global(weights, 0.5)["w"].tolist() == [F, T, T, F]
    assert select_global(weights, 0.75)["w"].tolist() == [T, T, T, F]


def test_denormals_are_told_apart_where_the_caller_flushes_them() -> None:
    tiny = struct.unpack("<4f", struct.pack("<4I", 3, 1, 0, 2))
    weights = {"w": torch.tensor(tiny)}
    flushes = torch.set_flush_denormal(True)
    try:
        kept = [select_global(weights, k / 4)["w"].tolist() for k in (1, 2, 3)]
    finally:
        torch.set_flush_denormal(False)
    assert kept == [[T, F, F, F], [T, F, F, T], [T, T, F, T]]
    assert flushes or sys.platform != "linux"


def test_weights_are_read_only_and_may_require_gradients() -> None:
    weights = {"w": torch.nn.Parameter(torch.randn(4, 4))}
    before = weights["w"].detach().clone()
    select_global(weights, 0.5, within=Mask.full({"w": (4, 4)}))
    assert torch.equal(weights["w"], before)


def test_empty_tensors_and_scalars() -> None:
    weights = {"none": torch.zeros(0, 3), "scalar": torch.tensor(2.0), "w": torch.tensor([1.0])}
    mask = select_global(weights, 0.5)
    assert mask["scalar"].tolist() is True
    assert mask["none"].shape == (0, 3)
    assert mask["w"].tolist() == [F]


# --- against a stable sort ----------------------------------------------------------------------

EDGES = [0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.17549435e-38, 1.0, -1.0, 1.0000001, 3.4e38]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def flat_scores(weights: Mapping[str, Tensor], criterion: str) -> np.ndarray:
    flat = torch.cat([weights[name].reshape(-1).float() for name in sorted(weights)]).numpy()
    return np.abs(flat) if criterion == "magnitude" else flat


def by_sorting(
    weights: Mapping[str, Tensor],
    count: int,
    allowed: np.ndarray | None = None,
    floors: Mapping[str, int] | None = None,
    criterion: str = "magnitude",
) -> np.ndarray:
    """The reference: all scores in one array, a stable sort, the first of each floor, the rest."""
    scores = flat_scores(weights, criterion)
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    if allowed is not None:
        order = order[allowed[order]]
    kept = np.zeros(len(scores), dtype=bool)
    start = 0
    for name in sorted(floors or {}):
        end = start + weights[name].numel()
        kept[order[(order >= start) & (order < end)][: (floors or {})[name]]] = True
        start = end
    rest = order[~kept[order]]
    kept[rest[: count - int(kept.sum())]] = True
    return kept


def flat(mask: Mask) -> np.ndarray:
    return torch.cat([mask[name].reshape(-1) for name in mask]).numpy()


@st.composite
def models(draw: st.DrawFn) -> dict[str, Tensor]:
    """Up to three tensors of several dtypes, full of ties and edge values."""
    special = draw(st.booleans())
    values = st.sampled_from([*EDGES, math.inf, -math.inf])
    if not special:
        values = values | st.floats(width=32, allow_nan=False)
    weights = {}
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        row = draw(st.lists(values, max_size=40))
        weights[name] = torch.tensor(row, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))
    return weights


densities = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)


@dataclasses.dataclass
class SmallPieces:
    """Selection in pieces of 8 or 16 weights, so that small tensors have several."""

    size: int

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(keys, "CHUNK", self.size)
        self.patch.setattr(
            score,
            "CRITERIA",
            {**score.CRITERIA, "signed": score.Criterion("signed", lambda w: w, (), "w", "")},
        )

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@settings(max_examples=300)
@given(
    models(), densities, st.sampled_from([8, 16, 32_768]), st.sampled_from(["magnitude", "signed"])
)
def test_selection_is_that_of_a_stable_sort(
    weights: dict[str, Tensor], density: float, chunk: int, criterion: str
) -> None:
    before = {name: tensor.clone() for name, tensor in weights.items()}
    total = sum(tensor.numel() for tensor in weights.values())
    with SmallPieces(chunk):
        mask = select_global(weights, density, criterion=criterion)
    expected = by_sorting(weights, round(density * total), criterion=criterion)
    assert np.array_equal(flat(mask), expected)
    assert mask.kept == round(density * total)
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@settings(max_examples=200)
@given(models(), densities, st.data())
def test_selection_within_a_mask_is_that_of_a_stable_sort(
    weights: dict[str, Tensor], density: float, data: st.DataObject
) -> None:
    allowed = np.array(
        data.draw(st.lists(st.booleans(), min_size=(n := total(weights)), max_size=n)), dtype=bool
    )
    within = split(allowed, weights)
    density *= within.density
    count = round(density * n)
    with SmallPieces(data.draw(st.sampled_from([8, 16]))):
        mask = select_global(weights, density, within=within)
    assert np.array_equal(flat(mask), by_sorting(weights, count, allowed))
    assert mask.is_subset_of(within)


@settings(max_examples=200)
@given(models(), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_selection_with_a_floor_is_that_of_a_stable_sort(
    weights: dict[str, Tensor], density: float, share: float, nested: bool
) -> None:
    floor = round(density * share, 3)
    floors = {name: math.ceil(round(floor * w.numel(), 6)) for name, w in weights.items()}
    count = round(density * total(weights))
    within = None
    allowed = None
    if sum(floors.values()) > count:
        with pytest.raises(ConfigError, match="expected a floor below the density"):
            select_global(weights, density, min_layer_density=floor)
        return
    with SmallPieces(8):
        if nested:
            # Of other weights, as a training moves them: not simply the best of these.
            others = {name: w.flip(0) for name, w in weights.items()}
            within = select_global(others, (1 + density) / 2, min_layer_density=floor)
            allowed = flat(within)
        mask = select_global(weights, density, within=within, min_layer_density=floor)
    assert np.array_equal(flat(mask), by_sorting(weights, count, allowed, floors))
    assert all(row.kept >= floors[row.name] for row in mask.layers())


def total(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def split(kept: np.ndarray, weights: Mapping[str, Tensor]) -> Mask:
    names = sorted(weights)
    parts = torch.from_numpy(kept).split([weights[name].numel() for name in names])
    return Mask({n: p.reshape(weights[n].shape) for n, p in zip(names, parts, strict=True)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("density", [0.1, 0.6, 0.99])
def test_tensors_of_many_pieces(dtype: torch.dtype, density: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(size, generator=generator).to(dtype)
        for name, size in {"x": 100_003, "y": 65_536, "z": 7}.items()
    }
    weights["x"][::3] = 0.0  # as after a round of pruning
    mask = select_global(weights, density)
    assert np.array_equal(flat(mask), by_sorting(weights, round(density * 165_546)))


def test_a_search_stays_nested_when_weights_move() -> None:
    generator = torch.Generator().manual_seed(2)
    within = None
    for sparsity in (0.2, 0.36, 0.488, 0.6):
        weights = {n: torch.randn(60, 70, generator=generator).bfloat16() for n in "abc"}
        if within is not None:
            weights = {n: w * within[n] for n, w in weights.items()}
        mask = select_global(weights, 1 - sparsity, within=within)
        assert mask.kept == round((1 - sparsity) * 12_600)
        assert within is None or mask.is_subset_of(within)
        within = mask


# --- memory and the peer ------------------------------------------------------------------------


def test_selection_takes_little_memory_and_agrees_with_the_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    selection = importlib.import_module("selection")
    modules = selection.encoder(2)  # 54 MiB
    theirs = {name: module.weight for name, module in modules.items()}
    # The least of several: what libraries load at first use, and what the allocator of a process
    # with hundreds of tests behind it takes along, is not selection's; a copy would be in each.
    runs = [selection.peak_of(lambda: selection.run_ticketry(modules, 0.4)) for _ in range(4)]
    peak, how, mask = min(runs, key=lambda run: run[0])
    copied, _, copies = selection.peak_of(lambda: torch.cat([w.view(-1) for w in theirs.values()]))
    if how == "VmHWM":
        # The mask's 3.1%, tables, pieces, and what a long-lived heap gives away; the benchmark has
        # the number of a process of its own.
        assert peak < 0.25 * copies.nbytes
        assert copied > 0.9 * copies.nbytes  # the measurement sees a concatenated copy
    selection.run_peer(modules, 0.4)
    theirs = {name: module.weight_mask.bool() for name, module in modules.items()}
    selection.undo_peer(modules)
    assert selection.agreement(modules, mask, theirs)
    theirs[min(theirs)][0, 0] ^= True
    assert not selection.agreement(modules, mask, theirs)
