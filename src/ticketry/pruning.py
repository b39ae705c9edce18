"""From a model to a mask: statistics where a criterion needs them, then selection."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.config import derive_seed
from ticketry.parallel import team
from ticketry.searchspec import CALIBRATED, PASSES, SYNFLOW_EXAMPLES, SYNFLOW_ROUNDS, SearchSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ticketry.bench import Bench
    from ticketry.core.mask import Mask
    from ticketry.core.pattern import Unit
    from ticketry.sensitivity import Statistics


@dataclass(frozen=True)
class Rule:
    """What decides a selection beside weights and density; JSON values, part of a step's key."""

    criterion: str = "magnitude"
    pattern: str = "unstructured"
    allocation: str = "global"
    layer_densities: tuple[tuple[str, float], ...] = ()
    min_layer_density: float = 0.0
    calibration_batches: int = 0

    @classmethod
    def of(cls, search: SearchSpec) -> Rule:
        """Return a search's rule; what its criterion does not use is left out."""
        return cls(
            criterion=search.criterion,
            pattern=search.pattern,
            allocation=search.allocation,
            layer_densities=search.layer_densities,
            min_layer_density=search.min_layer_density,
            calibration_batches=search.calibration_batches if search.criterion in CALIBRATED else 0,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        pairs = [list(pair) for pair in self.layer_densities]
        return {**dataclasses.asdict(self), "layer_densities": pairs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rule:
        """Rebuild a rule from :meth:`to_json`."""
        pairs = tuple((str(name), float(density)) for name, density in data["layer_densities"])
        return cls(**{**data, "layer_densities": pairs})


def check_rule(
    rule: Rule,
    shapes: Mapping[str, tuple[int, ...]],
    density: float,
    units: Sequence[Unit] | None,
    input_axes: Mapping[str, int] | None,
) -> None:
    """Refuse what no selection could do with these tensors, before anything is spent.

    Raises:
        ConfigError: densities that do not add up, or a floor above them.
        ScopeError: tensors that the pattern does not fit.
    """
    import torch

    from ticketry.core.allocation import layer_floors
    from ticketry.core.select import select

    if (rule.pattern, rule.allocation) == ("unstructured", "global"):
        total = sum(math.prod(shape) for shape in shapes.values())
        layer_floors(shapes, round(density * total), rule.min_layer_density)
        return
    select(
        {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()},
        density,
        criterion="random",
        pattern=rule.pattern,
        units=units,
        input_axes=input_axes,
        allocation=rule.allocation,
        layer_densities=dict(rule.layer_densities) or None,
        min_layer_density=rule.min_layer_density,
        generator=torch.Generator(),
    )


@dataclass(frozen=True)
class Chosen:
    """A mask, and the examples seen forward and backward to score its weights."""

    mask: Mask
    calibration_examples: int = 0


def choose(
    rule: Rule,
    bench: Bench,
    weights: Mapping[str, Tensor],
    density: float,
    *,
    within: Mask | None,
    seed: int,
    statistics: Statistics | None = None,
) -> Mask:
    """Select what to keep of ``weights``.

    Args:
        rule: criterion, pattern and allocation.
        bench: knows the model's heads, neurons and input axes.
        weights: of the tensors in scope, on the CPU.
        density: kept / prunable.
        within: keep only weights of this mask.
        seed: of the search; decides a random choice.
        statistics: that the criterion needs.
    """
    import torch

    from ticketry.core.select import select

    purpose = f"random-mask/{0 if within is None else within.kept}"
    return team().choose_mask(
        lambda: select(
            weights,
            density,
            criterion=rule.criterion,
            statistics=statistics,
            pattern=rule.pattern,
            units=bench.units(rule.pattern),
            input_axes=bench.input_axes(rule.pattern),
            allocation=rule.allocation,
            layer_densities=dict(rule.layer_densities) or None,
            within=within,
            min_layer_density=rule.min_layer_density,
            generator=torch.Generator().manual_seed(derive_seed(seed, purpose)),
        )
    )


def score_and_choose(
    rule: Rule,
    bench: Bench,
    model: nn.Module,
    density: float,
    *,
    within: Mask | None,
    seed: int,
    movement: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None],
) -> Chosen:
    """Score the weights that a model stands at, and select.

    Args:
        rule: criterion, pattern and allocation.
        bench: the workload, for calibration, and the model's structure.
        model: a task model; masked weights are zero; it stays as it is.
        density: kept / prunable.
        within: keep only weights of this mask.
        seed: of the search; decides calibration batches and a random choice.
        movement: the statistic that a training summed.
        progress: called with (parts done, parts) where scoring takes long.
    """
    from ticketry import sensitivity
    from ticketry.models.loading import canonical_parameters

    names = bench.context.scope
    parameters = canonical_parameters(model)
    weights = {name: parameters[name].detach().cpu() for name in names}
    statistics: Statistics | None = None
    examples = 0
    if rule.criterion == "movement":
        assert movement is not None
        statistics = {"movement": {name: tensor.cpu() for name, tensor in movement.items()}}
    elif rule.calibration_batches:
        workload = bench.workload
        batches = workload.batches(derive_seed(seed, "calibration"), bench.recipe)
        batches = batches[: rule.calibration_batches]
        if rule.criterion == "synflow":
            few = {name: tensor[:SYNFLOW_EXAMPLES] for name, tensor in batches[0].items()}

            def choose_next(
                kept: Mapping[str, Tensor],
                share: float,
                mask: Mask | None,
                flow: Statistics,
            ) -> Mask:
                return choose(rule, bench, kept, share, within=mask, seed=seed, statistics=flow)

            mask = sensitivity.synflow_mask(
                model, few, names, density, choose_next, within=within, progress=progress
            )
            return Chosen(mask, SYNFLOW_ROUNDS * workload.count(few)[0])
        examples = PASSES[rule.criterion] * sum(workload.count(batch)[0] for batch in batches)
        if rule.criterion == "grasp":
            statistics = sensitivity.hessian_gradients(workload, model, batches, names)
        else:
            statistics = sensitivity.gradients(workload, model, batches, names)
    mask = choose(rule, bench, weights, density, within=within, seed=seed, statistics=statistics)
    return Chosen(mask, examples)
