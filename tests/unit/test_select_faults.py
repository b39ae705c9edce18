"""What selection refuses, and in which words."""

from __future__ import annotations

import pytest
import torch

from ticketry.core import score
from ticketry.core.mask import Mask
from ticketry.core.select import select_global
from ticketry.errors import ConfigError, MaskError, ScoreError, UnknownNameError

T, F = True, False
NAN = float("nan")

QUIET, SIGNALLING, NEGATIVE = 0x7FC00000, 0x7F800001, 0xFFC00000


@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bits", [QUIET, SIGNALLING, NEGATIVE], ids=hex)
def test_nan_is_an_error_that_names_the_tensor(bits: int, density: float) -> None:
    values = torch.zeros(40_000, dtype=torch.int32)
    values[39_999] = bits - 2**32 if bits >= 2**31 else bits
    weights = {"fine": torch.ones(3), "bad": values.view(torch.float32)}
    with pytest.raises(ScoreError) as caught:
        select_global(weights, density)
    assert str(caught.value) == (
        "tensor 'bad' has a score that is NaN (first at flat index 39999); expected numbers. A "
        "training that diverged leaves such weights: lower its learning rate."
    )


def test_nan_is_an_error_even_where_within_prunes() -> None:
    weights = {"w": torch.tensor([NAN, 1.0]).bfloat16()}
    with pytest.raises(ScoreError, match="'w' has a score that is NaN"):
        select_global(weights, 0.5, within=Mask({"w": torch.tensor([F, T])}))


def test_nan_of_a_signed_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = score.Criterion("signed", lambda weights: weights, (), "w", "")
    monkeypatch.setattr(score, "CRITERIA", {"signed": signed})
    with pytest.raises(ScoreError, match="first at flat index 9"):
        select_global({"w": torch.tensor([-1.0] * 9 + [-NAN])}, 0.5, criterion="signed")


ONE = {"w": torch.ones(4)}
HALF = Mask({"w": torch.tensor([T, T, F, F])})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"weights": {}, "density": 0.5},
            ScoreError,
            "no tensors were given to select from; expected at least one.",
        ),
        (
            {"weights": {"w": torch.ones(2, dtype=torch.int64)}, "density": 0.5},
            ScoreError,
            "tensor 'w' has dtype int64; expected floating-point weights. Leave it out of the "
            "scope.",
        ),
        (
            {"weights": ONE, "density": 1.5, "min_layer_density": NAN},
            ConfigError,
            "2 faults in the configuration:\n"
            "  - density is 1.5; expected a number in [0, 1].\n"
            "  - min_layer_density is nan; expected a number in [0, 1].",
        ),
        (
            {"weights": ONE, "density": 0.5, "criterion": "magnitud"},
            UnknownNameError,
            "unknown criterion 'magnitud'. Did you mean 'magnitude'? Known: grasp, magnitude, "
            "movement, random, snip, synflow, taylor.",
        ),
        (
            {"weights": ONE, "density": 0.75, "within": HALF},
            MaskError,
            "density 0.75 asks for 3 of 4 weights, but within keeps 2; expected at most density "
            "0.5.",
        ),
        (
            {"weights": ONE, "density": 0.5, "within": Mask.full({"v": (4,)})},
            MaskError,
            "within lacks 1 tensor(s): w; expected within and the weights to be of the same "
            "tensors. Use one scope for both.",
        ),
        (
            {"weights": ONE, "density": 0.5, "within": Mask.full({"w": (2, 2)})},
            MaskError,
            "tensor 'w' has shape (2, 2) in within and (4,) in the weights; expected the same "
            "base model in both.",
        ),
        (
            {"weights": ONE, "density": 0.5, "min_layer_density": 0.75},
            ConfigError,
            "min_layer_density 0.75 needs 3 weights, but only 2 are kept in all; expected a floor "
            "below the density.",
        ),
        (
            {
                "weights": {"v": torch.ones(4), "w": torch.ones(4)},
                "density": 0.5,
                "within": Mask({"v": torch.tensor([T, T, T, T]), "w": torch.tensor([T, F, F, F])}),
                "min_layer_density": 0.5,
            },
            MaskError,
            "min_layer_density 0.5 needs 2 weights of tensor 'w', but within keeps 1 there; "
            "expected the same floor when within was selected.",
        ),
    ],
)
def test_faults_are_named(
    arguments: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        select_global(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_criterion_that_changes_shape_or_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    formulas = {"sum": lambda w: w.sum(), "double": lambda w: w.double()}
    criteria = {n: score.Criterion(n, f, (), "odd", "") for n, f in formulas.items()}
    monkeypatch.setattr(score, "CRITERIA", criteria)
    with pytest.raises(ScoreError) as caught:
        select_global(ONE, 0.5, criterion="sum")
    assert str(caught.value) == (
        "the criterion gave scores of shape () and dtype torch.float32 for a piece of tensor 'w'; "
        "expected (4,) and torch.float32."
    )
    with pytest.raises(ScoreError, match=r"shape \(4,\) and dtype torch\.float64"):
        select_global(ONE, 0.5, criterion="double")
