"""Statistics by gradients: each against numbers that a person can work out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel

from small_task import small_task
from ticketry.core.mask import Mask
from ticketry.core.select import select
from ticketry.errors import ScoreError
from ticketry.models.loading import canonical_parameters, prunable, resolve
from ticketry.recipes import Recipe
from ticketry.sensitivity import gradients, hessian_gradients, synflow, synflow_mask
from ticketry.tasks.classification import SequenceClassification

RECIPE = Recipe(epochs=1, batch_size=8, max_length_tokens=16)


class TwoLayers(PreTrainedModel):
    """y = B·(A·x), two inputs, two hidden, one output; no biases, no activation."""

    config_class = PretrainedConfig

    def __init__(self) -> None:
        super().__init__(PretrainedConfig())
        self.a = nn.Linear(2, 2, bias=False)
        self.b = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
            self.b.weight.copy_(torch.tensor([[2.0, -1.0]]))

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.b(self.a(x)))


class Squares:
    """A workload whose loss is half the mean squared output."""

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * model(batch["x"]).logits.square().mean()


NAMES = ("a.weight", "b.weight")
FIRST = {"x": torch.tensor([[1.0, 1.0]])}
SECOND = {"x": torch.tensor([[1.0, 0.0]])}


def test_gradients_by_hand() -> None:
    # x = (1, 1): h = (−1, 3.5), y = −5.5.   dL/dB = y·h = (5.5, −19.25)
    #   dL/dA = y·Bᵀxᵀ = −5.5·(2, −1)ᵀ(1, 1) = ((−11, −11), (5.5, 5.5))
    # x = (1, 0): h = (1, 3), y = −1.   dL/dB = (−1, −3);  dL/dA = ((−2, 0), (1, 0))
    found = gradients(Squares(), TwoLayers(), [FIRST, SECOND], NAMES)  # type: ignore[arg-type]
    assert torch.allclose(found["gradient"]["b.weight"], torch.tensor([[2.25, -11.125]]))
    wanted = torch.tensor([[-6.5, -5.5], [3.25, 2.75]])
    assert torch.allclose(found["gradient"]["a.weight"], wanted)
    squared = torch.tensor([[(121 + 4) / 2, 121 / 2], [(30.25 + 1) / 2, 30.25 / 2]])
    assert torch.allclose(found["squared_gradient"]["a.weight"], squared)


def test_hessian_gradient_by_hand() -> None:
    # For B alone L = ½(B·h)², so H = h·hᵀ and g = y·h: H·g = y·‖h‖²·h. With x = (1, 1):
    # h = (−1, 3.5), ‖h‖² = 13.25, y = −5.5.
    found = hessian_gradients(Squares(), TwoLayers(), [FIRST], ("b.weight",))  # type: ignore[arg-type]
    wanted = -5.5 * 13.25 * torch.tensor([[-1.0, 3.5]])
    assert torch.allclose(found["hessian_gradient"]["b.weight"], wanted)


def test_hessian_gradient_agrees_with_differences_of_gradients() -> None:
    model, batches, step = TwoLayers().double(), [FIRST, SECOND], 1e-4
    batches = [{"x": batch["x"].double()} for batch in batches]
    product = hessian_gradients(Squares(), model, batches, NAMES)["hessian_gradient"]  # type: ignore[arg-type]
    direction = gradients(Squares(), model, batches, NAMES)["gradient"]  # type: ignore[arg-type]
    ends = []
    for sign in (1, -1):
        moved = TwoLayers().double()
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += sign * step * direction[name]
        ends.append(gradients(Squares(), moved, batches, NAMES)["gradient"])  # type: ignore[arg-type]
    for name in NAMES:
        difference = (ends[0][name] - ends[1][name]) / (2 * step)
        assert torch.allclose(product[name], difference, rtol=1e-5)


def test_synflow_by_hand() -> None:
    # |A| = ((1, 2), (3, 0.5)), |B| = (2, 1), x = (1, 1): R = |B|·|A|·x.
    # dR/dB = |A|·x = (3, 3.5);  dR/dA = |B|ᵀ·xᵀ = ((2, 2), (1, 1))
    model = TwoLayers()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = synflow(model, FIRST, NAMES)["synflow"]
    assert torch.allclose(found["b.weight"], torch.tensor([[3.0, 3.5]]))
    assert torch.allclose(found["a.weight"], torch.tensor([[2.0, 2.0], [1.0, 1.0]]))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model.a.weight.dtype == torch.float32


def test_synflow_in_rounds_leaves_the_strongest_path() -> None:
    # Scores |w|·dR/d|w| at first: A's 2, 4, 3, 0.5, B's 6 and 3.5. A path is worth the product of
    # its weights: 2·1, 2·2, 1·3, 1·0.5. The two weights of the path worth 4 are left.
    def keep(
        weights: Mapping[str, Tensor], density: float, within: Mask | None, statistics: Any
    ) -> Mask:
        return select(weights, density, criterion="synflow", statistics=statistics, within=within)

    model = TwoLayers()
    mask = synflow_mask(
        model, FIRST, NAMES, 2 / 6, keep, within=None, progress=lambda done, of: None, rounds=6
    )
    assert mask["a.weight"].tolist() == [[False, True], [False, False]]
    assert mask["b.weight"].tolist() == [[True, False]]
    assert torch.equal(model.a.weight, TwoLayers().a.weight)


@pytest.fixture(scope="module")
def workload(tiny_model: Path) -> SequenceClassification:
    torch.set_num_threads(1)
    return SequenceClassification(resolve(str(tiny_model)), small_task(), RECIPE)


def test_a_real_model_stays_as_it_is(workload: SequenceClassification) -> None:
    model = workload.build(0)
    names = prunable(model, "encoder")
    batches = workload.batches(0)[:2]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.train()
    statistics = {
        **gradients(workload, model, batches, names),
        **hessian_gradients(workload, model, batches, names),
        **synflow(model, batches[0], names),
    }
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    shapes = {name: canonical_parameters(model)[name].shape for name in names}
    for tensors in statistics.values():
        assert {name: t.shape for name, t in tensors.items()} == shapes
        assert all(float(t.abs().max()) > 0 for t in tensors.values())


def test_statistics_that_are_not_finite_name_the_tensor(workload: SequenceClassification) -> None:
    model = workload.build(0)
    names = prunable(model, "encoder")
    with torch.no_grad():
        canonical_parameters(model)["encoder.layer.1.output.dense.weight"].fill_(float("inf"))
    with pytest.raises(ScoreError, match="the statistic gradient of tensor 'encoder"):
        gradients(workload, model, workload.batches(0)[:1], names)


def test_frozen_embeddings_are_no_obstacle(tiny_model: Path) -> None:
    model = BertModel(BertConfig.from_pretrained(tiny_model))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names = prunable(model, "encoder")

    class Norm:
        def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
            return model(**batch).last_hidden_state.square().mean()

    batch = {"input_ids": torch.tensor([[2, 7, 9, 3]])}
    found = gradients(Norm(), model, [batch], names)  # type: ignore[arg-type]
    assert len(found["gradient"]) == 12
    assert not any(parameter.requires_grad for parameter in model.parameters())
