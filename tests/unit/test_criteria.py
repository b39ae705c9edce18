"""Each criterion's formula, by hand; what statistics are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ticketry import combination
from ticketry.core import keys
from ticketry.core.score import CRITERIA, STATISTICS
from ticketry.core.select import select
from ticketry.errors import ConfigError, ScoreError

T, F = True, False
NAN = float("nan")

W = torch.tensor([1.0, -2.0, 3.0, -4.0])
S = torch.tensor([8.0, 3.0, -1.0, 0.25])


@pytest.mark.parametrize(
    ("criterion", "scores", "best_two"),
    [
        ("magnitude", [1.0, 2.0, 3.0, 4.0], [F, F, T, T]),
        ("snip", [8.0, 6.0, 3.0, 1.0], [T, T, F, F]),  # |w·g|
        ("grasp", [8.0, -6.0, -3.0, -1.0], [T, F, F, T]),  # w·(Hg), signed
        ("synflow", [8.0, 6.0, -3.0, 1.0], [T, T, F, F]),  # |w|·dR/d|w|
        ("taylor", [8.0, 12.0, -9.0, 4.0], [T, T, F, F]),  # w²·E[g²]
        ("movement", [8.0, 3.0, -1.0, 0.25], [T, T, F, F]),  # the statistic itself
    ],
)
def test_formulas_by_hand(criterion: str, scores: list[float], best_two: list[bool]) -> None:
    found = CRITERIA[criterion]
    needs = [S] * len(found.needs)
    assert found.formula is not None
    assert found.formula(W, *needs).tolist() == scores
    mask = select(
        {"w": W}, 0.5, criterion=criterion, statistics={name: {"w": S} for name in found.needs}
    )
    assert mask["w"].tolist() == best_two


def test_the_registry_is_whole() -> None:
    assert tuple(CRITERIA) == combination.CRITERIA
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert set(criterion.needs) <= set(STATISTICS)
        assert "arXiv" in criterion.source
    assert {need for c in CRITERIA.values() for need in c.needs} == set(STATISTICS)


# --- statistics of networks small enough to work out --------------------------------------------


def scores(criterion: str, weights: Tensor, *statistics: Tensor) -> list[float]:
    formula = CRITERIA[criterion].formula
    assert formula is not None
    return [round(float(score), 5) for score in formula(weights, *statistics)]


def test_snip_and_taylor_of_a_linear_neuron() -> None:
    # L = (w·x − y)²/2, so g = (w·x − y)·x. w = (2, 1).
    # x = (1, 0), y = 0: g = (2, 0). x = (1, 2), y = 3: g = (1, 2). Mean g = (1.5, 1).
    weights = torch.tensor([2.0, 1.0], requires_grad=True)
    rows = [(torch.tensor([1.0, 0.0]), 0.0), (torch.tensor([1.0, 2.0]), 3.0)]
    gradients = []
    for x, y in rows:
        (g,) = torch.autograd.grad((weights @ x - y).square() / 2, weights)
        gradients.append(g)
    stacked = torch.stack(gradients)
    assert stacked.tolist() == [[2.0, 0.0], [1.0, 2.0]]
    weights = weights.detach()
    assert scores("snip", weights, stacked.mean(0)) == [3.0, 1.0]
    # E[g²] = (2.5, 2): 4 · 2.5 and 1 · 2.
    assert scores("taylor", weights, stacked.square().mean(0)) == [10.0, 2.0]


def test_grasp_keeps_what_gradient_flow_would_lose() -> None:
    # L = wᵀAw/2 with A = diag(3, 1) and a shift: g = A(w − c), H = A. w = (1, 2), c = (0, 3):
    # g = (3, −1), Hg = (9, −1), scores (9, −2).
    a, c = torch.tensor([3.0, 1.0]), torch.tensor([0.0, 3.0])
    weights = torch.tensor([1.0, 2.0])
    g = a * (weights - c)
    assert g.tolist() == [3.0, -1.0]
    assert scores("grasp", weights, a * g) == [9.0, -2.0]

    def flow(w: Tensor) -> float:
        return float((a * (w - c)).square().sum())

    # Without the first weight ‖g‖² falls from 10 to 1; without the second it rises to 18.
    assert flow(weights) == 10.0
    assert [flow(torch.tensor([0.0, 2.0])), flow(torch.tensor([1.0, 0.0]))] == [1.0, 18.0]


def test_synflow_of_two_layers() -> None:
    # R = 1ᵀ|B||A|1 with A = [[1, −2]], B = [[3], [−1]]: |B||A|1 = (9, 3), R = 12.
    # dR/d|A| = (4, 4), dR/d|B| = (3, 3).
    a = torch.tensor([[1.0, 2.0]], requires_grad=True)
    b = torch.tensor([[3.0], [1.0]], requires_grad=True)
    flow = (b @ a @ torch.ones(2, 1)).sum()
    assert float(flow.detach()) == 12.0
    da, db = torch.autograd.grad(flow, (a, b))
    found_a = scores("synflow", torch.tensor([1.0, -2.0]), da.reshape(-1))
    found_b = scores("synflow", torch.tensor([3.0, -1.0]), db.reshape(-1))
    assert (found_a, found_b) == ([4.0, 8.0], [9.0, 3.0])
    # Each layer's scores add up to R: the paper's conservation law (§4, Theorem 2).
    assert sum(found_a) == sum(found_b) == 12.0


def test_movement_is_away_from_zero() -> None:
    # Two SGD steps: w = 1 then 1.5 under g = −1 and −2 (grows: 1 + 3 = 4); mirrored for −w;
    # w = 1 then 0.5 under g = 1 shrinks: −1 − 0.5.
    steps = [
        (torch.tensor([1.0, -1.0, 1.0]), torch.tensor([-1.0, 1.0, 1.0])),
        (torch.tensor([1.5, -1.5, 0.5]), torch.tensor([-2.0, 2.0, 1.0])),
    ]
    moved = -sum(w * g for w, g in steps)
    assert isinstance(moved, Tensor)
    assert scores("movement", steps[1][0], moved) == [4.0, 4.0, -1.5]


# --- random -------------------------------------------------------------------------------------


def test_random_draws_from_its_generator_alone() -> None:
    weights = {"w": torch.full((40,), NAN), "v": torch.ones(8, 5)}  # never looked at
    state = torch.get_rng_state()
    masks = [
        select(weights, 0.3, criterion="random", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert masks[0] == masks[1] != masks[2]
    assert [mask.kept for mask in masks] == [24, 24, 24]
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ConfigError) as caught:
        select(weights, 0.3, criterion="random")
    assert str(caught.value) == "criterion 'random' draws; expected a generator to draw from."


# --- bad statistics -----------------------------------------------------------------------------

BAD = torch.tensor([[1.0, 2.0], [NAN, 4.0]])


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (
            None,
            "criterion 'snip' needs the statistic 'gradient' (mean of dL/dw over calibration "
            "batches); found none.",
        ),
        (
            {"synflow": {}, "movement": {}},
            "criterion 'snip' needs the statistic 'gradient' (mean of dL/dw over calibration "
            "batches); found movement, synflow.",
        ),
        (
            {"gradient": {"v": torch.ones(2, 2)}},
            "statistic 'gradient' lacks tensor 'w'; expected one of shape (2, 2), as for every "
            "tensor that is selected from.",
        ),
        (
            {"gradient": {"w": torch.ones(4)}},
            "statistic 'gradient' of tensor 'w' has shape (4,); expected (2, 2), the shape of the "
            "weights.",
        ),
        (
            {"gradient": {"w": torch.ones(2, 2, dtype=torch.int64)}},
            "statistic 'gradient' of tensor 'w' has dtype int64; expected floating-point values.",
        ),
        (
            {"gradient": {"w": BAD}},
            "statistic 'gradient' of tensor 'w' is NaN (first at flat index 2); expected numbers. "
            "A loss that is not finite gives such statistics: look at the data and the weights it "
            "was computed with.",
        ),
        (
            {"gradient": {"w": torch.tensor([[1.0, math.inf], [0.0, 0.0]])}},  # 0 · inf
            "tensor 'w' has a score that is NaN (first at flat index 1); expected numbers. A "
            "training that diverged leaves such weights: lower its learning rate.",
        ),
    ],
)
@pytest.mark.parametrize("pattern", ["unstructured", "1:2", "2x1"])
def test_faults_of_statistics_are_named(
    statistics: dict[str, dict[str, Tensor]] | None, message: str, pattern: str
) -> None:
    weights = {"w": torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
    with pytest.raises(ScoreError) as caught:
        select(weights, 0.5, criterion="snip", statistics=statistics, pattern=pattern)
    assert str(caught.value) == message


def test_a_nan_is_found_where_the_tensor_is_stored_inputs_first() -> None:
    weights = {"w": torch.tensor([[1.0, 2.0, NAN], [1.0, 1.0, 1.0]])}
    with pytest.raises(ScoreError, match=r"'w' .* flat index 2"):
        select(weights, 0.5, pattern="1:2", input_axes={"w": 0})


@pytest.mark.parametrize("pattern", ["unstructured", "1:2", "2x1"])
@pytest.mark.parametrize("chunk", [8, 32_768])
def test_weights_and_statistics_are_cut_alike(
    pattern: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = {n: torch.randn(6, 14, generator=generator) for n in "ab"} | {"e": torch.zeros(0, 2)}
    # Stored the other way round: the same values, other strides.
    gradient = {n: torch.randn(w.T.shape, generator=generator).T for n, w in weights.items()}
    products = {n: w * gradient[n] for n, w in weights.items()}
    monkeypatch.setattr(keys, "CHUNK", chunk)
    found = select(
        weights, 0.5, criterion="snip", statistics={"gradient": gradient}, pattern=pattern
    )
    assert found == select(products, 0.5, pattern=pattern)


def test_statistics_of_another_dtype_and_ones_that_are_not_needed() -> None:
    statistics = {
        "gradient": {"w": S.double(), "other": torch.ones(3)},
        "movement": {"w": torch.ones(7)},
    }
    mask = select({"w": W.bfloat16()}, 0.5, criterion="snip", statistics=statistics)
    assert mask["w"].tolist() == [T, T, F, F]
