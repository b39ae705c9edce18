"""Selection: which weights to keep. Exact, streaming, with a stated tie rule.

What is ranked are items: weights, or the blocks or units of a pattern. An allocation says how many
of them each tensor keeps, the radix selection of ``keys.py`` which ones, and the pattern turns them
into a mask of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ticketry.combination import (
    Blocks,
    Groups,
    Pattern,
    Units,
    check_pattern,
    parse_pattern,
)
from ticketry.core import keys as keying
from ticketry.core import structured
from ticketry.core.items import Items, Shares, block_items, choose, select_units, weight_keys
from ticketry.core.keys import keep_highest
from ticketry.core.mask import Mask, check_shapes
from ticketry.core.pattern import Shapes, Unit, check_divides
from ticketry.core.score import criterion_named
from ticketry.core.scoring import Statistics, scores_of
from ticketry.errors import ConfigError, ScoreError

GROUP_ROUNDING = 1e-6
"""A density this close to N / M is taken for it: 1 − 0.6667 is not 1/3 in floats."""


def select(
    weights: Mapping[str, Tensor],
    density: float | None,
    *,
    criterion: str = "magnitude",
    statistics: Statistics | None = None,
    pattern: str = "unstructured",
    units: Sequence[Unit] | None = None,
    allocation: str = "global",
    layer_densities: Mapping[str, float] | None = None,
    input_axes: Mapping[str, int] | None = None,
    within: Mask | None = None,
    min_layer_density: float = 0.0,
    generator: torch.Generator | None = None,
) -> Mask:
    """Keep the highest-ranking weights, blocks or units.

    What is kept exactly, n being the number of all, ``round`` Python's (halves to the even number):

    - ``unstructured``: round(density · n) weights.
    - ``N:M``: N of every M consecutive inputs of every output, so N/M of each tensor.
    - ``ROWSxCOLUMNS``: round(density · n) of the n blocks; a block's score is the mean of its
      members'. Blocks tile the outputs × inputs of each tensor.
    - ``head``, ``neuron``: round(density · n) of the n units; a unit's score is the mean of its
      members', so that units of different size compare. Weights outside every unit are kept (as
      far as ``within`` keeps them), so the mask's density is above the one asked for.

    How they are shared out: ``global``, by rank among all; ``uniform``, the same density in each
    tensor; ``erk`` and ``given``, a density for each tensor (see ``allocation.py``). The total is
    exact in each. Units are shared out among the groups that lie in the same tensors, such as the
    heads of a layer. An N:M pattern leaves an allocation nothing to say.

    Args:
        weights: name -> floating-point tensor of any shape and device; scored in float32.
        density: kept / all, in [0, 1]; None: N/M, or what ``layer_densities`` add up to.
        criterion: a name of :data:`ticketry.core.score.CRITERIA`.
        statistics: what the criterion needs beside the weights: statistic -> name -> tensor.
        pattern: as above.
        units: the model's heads or neurons; only with those patterns.
        allocation: as above.
        layer_densities: glob on tensor names -> density, the first match decides; only with
            ``given``.
        input_axes: name -> 0 where a tensor is stored [in, out]; the others have their outputs
            first ([out, in], or [out, in, kh, kw] with in·kh·kw inputs).
        within: keep only weights that this mask keeps; the result is nested in it. Of blocks and
            units, those that it keeps entirely.
        min_layer_density: as in :func:`select_global`, of weights or blocks.
        generator: what ``random`` draws from; on the CPU.
    Returns:
        Mask. Ties go to the lower flat index, tensors in name order; of blocks in row order; of
        units to the earlier one. −0 equals 0.

    Raises:
        ScoreError: no tensors, a tensor or statistic that cannot be scored, a NaN (all named).
        ConfigError: a density outside [0, 1], or one that pattern, allocation or floor exclude; a
            combination that cannot be; an argument that is missing or has no use.
        ScopeError: tensors or units that the pattern does not fit.
        MaskError: ``within`` is of other tensors, or keeps less than is asked for.
        UnknownNameError: an unknown criterion.

    Source: Han et al. 2015, arXiv 1506.02626, §3 (ranking); Mishra et al. 2021, arXiv 2104.08378
        (2:4); Michel et al. 2019, arXiv 1905.10650 (heads). Differs: the last two rank by any
        criterion, and heads by the mean score of their weights instead of a gate's gradient.
    """
    ranking = criterion_named(criterion)
    kind = parse_pattern(pattern)
    _check_density(density, kind, pattern, allocation, min_layer_density)
    if (reason := check_pattern(pattern, allocation, min_layer_density)) is not None:
        raise ConfigError(reason)
    _check_choice(kind, pattern, allocation, units, layer_densities)
    shapes = _weight_shapes(weights)
    if within is not None:
        check_shapes({name: within.shape(name) for name in within}, shapes, "within", "the weights")
    scores = scores_of(ranking, weights, statistics) or generator
    if scores is None:
        raise ConfigError(f"criterion {criterion!r} draws; expected a generator to draw from.")
    matrices = structured.Matrices(shapes, input_axes)
    if isinstance(kind, Groups):
        check_divides(pattern, matrices.sizes, 1, kind.size)
        return structured.keep_groups(scores, matrices, list(shapes), kind, within)
    alone = {name: (name,) for name in shapes}
    shares = Shares(allocation, layer_densities or {}, shapes, alone)
    if isinstance(kind, Units):
        return select_units(scores, units or (), density, shares, within)
    if isinstance(kind, Blocks):
        items = block_items(scores, matrices, kind, within)
        mask = choose(items, density, shares, min_layer_density)
        return structured.spread_blocks(mask, matrices, kind)
    items = Items("weights", shapes, weight_keys(scores), within)
    return choose(items, density, shares, min_layer_density)


def select_global(
    weights: Mapping[str, Tensor],
    density: float,
    *,
    within: Mask | None = None,
    criterion: str = "magnitude",
    min_layer_density: float = 0.0,
) -> Mask:
    """Keep the highest-scoring weights of all tensors together.

    Args:
        weights: name -> floating-point tensor of any shape and device; scored in float32.
        density: kept / prunable over all tensors, in [0, 1].
        within: keep only weights that this mask keeps; the result is nested in it.
        criterion: a name of :data:`ticketry.core.score.CRITERIA`.
        min_layer_density: of each tensor, the ceil(this · size) best weights are kept, whatever
            their rank among all; the rest of the total goes to the best of the others. In [0, 1].
    Returns:
        Mask with exactly round(density · n) kept (Python's ``round`` of the float product: halves
        go to the even number). Ties go to the lower flat index, tensors in name order; −0 equals 0.

    Raises:
        ScoreError: no tensors, a tensor that is not floating-point, or a score that is NaN (named).
        ConfigError: a density outside [0, 1], or a floor that the total cannot hold.
        MaskError: ``within`` is of other tensors, or keeps fewer weights than are asked for.
        UnknownNameError: an unknown criterion.

    Source: Han et al. 2015, arXiv 1506.02626, §3. Differs: global instead of per layer.
    """
    return select(
        weights, density, within=within, criterion=criterion, min_layer_density=min_layer_density
    )


def random_global(shapes: Shapes, density: float, generator: torch.Generator) -> Mask:
    """Keep a random choice among all weights.

    Args:
        shapes: name -> shape.
        density: kept / prunable over all tensors, in [0, 1].
        generator: on the CPU; advanced by one draw per weight.
    Returns:
        Mask with exactly round(density · n) kept. Every choice of that many is equally likely, up
        to ties of random 32-bit keys at the threshold (n / 2**32 weights are expected in one).

    Raises:
        ConfigError: a density outside [0, 1].
        MaskError: no tensors.
    """
    _check_fractions(density=density)
    shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
    total = sum(math.prod(shape) for shape in shapes.values())
    return keep_highest(keying.drawn(shapes, generator), shapes, round(density * total))


def random_layerwise(like: Mask, generator: torch.Generator) -> Mask:
    """Keep a random choice within each tensor, as many as ``like`` keeps there.

    Args:
        like: whose count per tensor is taken over.
        generator: on the CPU; advanced by one draw per weight.
    """
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name in like:
        shapes = {name: like.shape(name)}
        chosen = keep_highest(keying.drawn(shapes, generator), shapes, like.kept_in(name))
        packed[name] = (like.shape(name), chosen.packed(name))
    return Mask.from_packed(packed)


# --- checks -------------------------------------------------------------------------------------


def _check_choice(
    kind: Pattern,
    pattern: str,
    allocation: str,
    units: Sequence[Unit] | None,
    layer_densities: Mapping[str, float] | None,
) -> None:
    faults = []
    if isinstance(kind, Units) and units is None:
        faults.append(f"pattern {pattern} needs units: the model's {pattern}s.")
    if not isinstance(kind, Units) and units is not None:
        faults.append(f"units go with the patterns head and neuron, not {pattern}; drop them.")
    if allocation == "given" and not layer_densities:
        faults.append("allocation given needs layer_densities: pattern -> density.")
    if allocation != "given" and layer_densities:
        faults.append(f"layer_densities go with allocation given, not {allocation}; drop them.")
    if faults:
        raise ConfigError(faults)


def _check_density(
    density: float | None, kind: Pattern, pattern: str, allocation: str, min_layer_density: float
) -> None:
    if density is not None:
        _check_fractions(density=density, min_layer_density=min_layer_density)
    elif isinstance(kind, Groups) or allocation == "given":
        _check_fractions(min_layer_density=min_layer_density)
    else:
        raise ConfigError("density is missing; only N:M patterns and allocation given imply one.")
    if (
        isinstance(kind, Groups)
        and density is not None
        and abs(density - kind.density) > GROUP_ROUNDING
    ):
        raise ConfigError(
            f"pattern {pattern} keeps {kind.keep} of every {kind.size} weights, which is density "
            f"{kind.density:g} (sparsity {1 - kind.density:g}); found density {density:g}. Ask for "
            "that, or use another pattern."
        )


def _weight_shapes(weights: Mapping[str, Tensor]) -> Shapes:
    if not weights:
        raise ScoreError("no tensors were given to select from; expected at least one.")
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise ScoreError(
                f"tensor {name!r} has dtype {str(tensor.dtype).removeprefix('torch.')}; expected "
                "floating-point weights. Leave it out of the scope."
            )
    return {name: tuple(weights[name].shape) for name in sorted(weights)}


def _check_fractions(**fractions: float) -> None:
    faults = [
        f"{name} is {value}; expected a number in [0, 1]."
        for name, value in fractions.items()
        if not 0 <= value <= 1  # also catches NaN
    ]
    if faults:
        raise ConfigError(faults)
