"""Every criterion × pattern × allocation × architecture: exact counts, or refused with the reason.

Weights are the models' own, statistics drawn: what gradients are is tested in
tests/unit/test_sensitivity.py, and whole runs in tests/e2e/test_methods.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from architectures import ARCHITECTURES
from ticketry.combination import ALLOCATIONS, check_combination
from ticketry.core.mask import Mask
from ticketry.core.pattern import Unit
from ticketry.core.score import CRITERIA
from ticketry.core.select import select
from ticketry.errors import ConfigError, ScopeError
from ticketry.models.loading import canonical_parameters, prunable
from ticketry.models.structures import input_axes, units

PATTERNS = ("unstructured", "2:4", "4x4", "head", "neuron")
DENSITY = 0.5


class Model:
    """A tiny model's prunable tensors, its structure, and statistics that are drawn."""

    def __init__(self, name: str, scope: str) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModel.from_config(ARCHITECTURES[name].build_config())
        self.names = prunable(model, scope)
        parameters = canonical_parameters(model)
        self.weights = {n: parameters[n].detach().clone() for n in self.names}
        self.axes = input_axes(model, self.names)
        self.units: dict[str, tuple[Unit, ...] | str] = {}
        for kind in ("head", "neuron"):
            try:
                self.units[kind] = units(model, kind, self.names)
            except ScopeError as reason:
                self.units[kind] = str(reason)
        draw = torch.Generator().manual_seed(1)
        needs = sorted({need for criterion in CRITERIA.values() for need in criterion.needs})
        self.statistics = {
            need: {n: torch.randn(w.shape, generator=draw) for n, w in self.weights.items()}
            for need in needs
        }


EVERY = [*((name, "encoder") for name in sorted(ARCHITECTURES)), ("t5", "encoder-decoder")]


@pytest.fixture(scope="module", params=EVERY, ids=" ".join)
def model(request: pytest.FixtureRequest) -> Model:
    return Model(*request.param)


def scoped(model: Model, pattern: str) -> tuple[Mapping[str, Tensor], tuple[Unit, ...] | None]:
    """Narrow the scope to the tensors that a pattern's units lie in, as a run does."""
    if pattern not in model.units:
        return model.weights, None
    found = model.units[pattern]
    assert not isinstance(found, str)
    lie_in = {part.tensor for unit in found for part in unit.parts}
    return {n: w for n, w in model.weights.items() if n in lie_in}, found


def chosen(model: Model, criterion: str, pattern: str, allocation: str) -> Mask:
    weights, found = scoped(model, pattern)
    statistics = {
        need: {n: model.statistics[need][n] for n in weights} for need in CRITERIA[criterion].needs
    }
    return select(
        weights,
        DENSITY,
        criterion=criterion,
        statistics=statistics or None,
        pattern=pattern,
        units=found,
        input_axes={n: axis for n, axis in model.axes.items() if n in weights},
        allocation=allocation,
        layer_densities={"*": DENSITY} if allocation == "given" else None,
        generator=torch.Generator().manual_seed(2),
    )


COMBINATIONS = list(itertools.product(sorted(CRITERIA), PATTERNS, ALLOCATIONS))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_works_exactly_or_is_refused_with_its_reason(model: Model, pattern: str) -> None:
    worked = refused = 0
    for criterion, allocation in itertools.product(sorted(CRITERIA), ALLOCATIONS):
        found = model.units.get(pattern)
        if isinstance(found, str):
            assert "or they have none" in found
            refused += 1
            continue
        reason = check_combination(criterion, pattern, allocation)
        if reason is not None:
            assert len(reason) > 40
            with pytest.raises(ConfigError) as caught:
                chosen(model, criterion, pattern, allocation)
            assert reason in str(caught.value)
            refused += 1
            continue
        if odd := unfit(model, pattern):
            with pytest.raises(ScopeError, match=f"pattern {pattern} does not fit") as unfitting:
                chosen(model, criterion, pattern, allocation)
            assert odd in str(unfitting.value)
            refused += 1
            continue
        mask = chosen(model, criterion, pattern, allocation)
        assert_counts(model, mask, pattern)
        worked += 1
    assert worked + refused == len(CRITERIA) * len(ALLOCATIONS)
    assert worked >= len(CRITERIA) * 2 or not worked


def unfit(model: Model, pattern: str) -> str | None:
    """Name a tensor that a pattern's groups or blocks leave a rest of."""
    rows, columns = {"2:4": (1, 4), "4x4": (4, 4)}.get(pattern, (1, 1))
    for name, weights in model.weights.items():
        if weights.shape[0] % rows or math.prod(weights.shape[1:]) % columns:
            return name
    return None


def assert_counts(model: Model, mask: Mask, pattern: str) -> None:
    weights, found = scoped(model, pattern)
    total = sum(math.prod(w.shape) for w in weights.values())
    if found is not None:
        states = [
            {
                bool(v)
                for part in unit.parts
                for v in mask[part.tensor]
                .narrow(part.axis, part.start, part.stop - part.start)
                .unique()
            }
            for unit in found
        ]
        assert all(len(state) == 1 for state in states)
        assert sum(True in state for state in states) == round(DENSITY * len(found))
        return
    assert mask.kept == round(DENSITY * total)
    if pattern == "2:4":
        for name in mask:
            matrix = mask[name].T if model.axes.get(name) == 0 else mask[name]
            groups = matrix.reshape(matrix.shape[0], -1, 4)
            assert (groups.sum(-1) == 2).all()


def test_the_matrix_of_the_closing_note() -> None:
    """What is refused, whatever the architecture: 4 of 20 pattern × allocation pairs."""
    pairs = {
        (pattern, allocation)
        for criterion, pattern, allocation in COMBINATIONS
        if check_combination(criterion, pattern, allocation) is not None
    }
    assert pairs == {("2:4", "erk"), ("2:4", "given"), ("head", "erk"), ("neuron", "erk")}
