"""How a mask is searched for: the spec, what it may combine, and every fault it can have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ticketry.combination import combination_faults
from ticketry.errors import unknown_name_message

METHODS = ("imp", "one-shot", "gradual")
SOURCES = ("theta0", "trained")
RATES_OF = ("remaining", "original")
REWINDS: Mapping[str, str] = {
    "pretrained": "every round starts from the pre-trained weights",
    "step": "every round but the first starts from the weights at --rewind-step of the first",
    "lr": "weights go on, the learning rate starts anew each round",
    "none": "weights go on, and one learning-rate schedule spans all rounds",
}
STARTS = ("pretrained", "rewound")
NEEDS_TRAINING = ("movement",)
"""Criteria whose statistic is gathered in a training."""
CALIBRATED = ("snip", "grasp", "synflow", "taylor")
"""Criteria whose statistic is gathered by passes over calibration batches."""
PASSES: Mapping[str, int] = {"snip": 1, "taylor": 1, "grasp": 3}
"""What a calibration batch costs, in forward and backward passes: GraSP takes one for g, and for
H·g another that is differentiated again."""
SYNFLOW_ROUNDS = 100
SYNFLOW_EXAMPLES = 8
"""Examples whose tokens or pixels SynFlow's flow passes through, the same in each round."""
UNIT_PATTERNS = ("head", "neuron")
"""Patterns whose parts lie where the model family says."""
IN_TRAINING = ("magnitude", "movement")
"""Criteria that gradual pruning can use in mid-training."""
N_OF_M = re.compile(r"([1-9]\d*):([1-9]\d*)\Z")


@dataclass(frozen=True)
class SearchSpec:
    """How the mask is found.

    Attributes:
        sparsity: pruned / prunable at the end, in [0, 1).
        method: ``imp`` (rounds of training and pruning), ``one-shot``, or ``gradual`` (pruned
            within one training).
        source: whose weights one-shot scores: ``theta0`` or ``trained``.
        rewind: a key of :data:`REWINDS`; gradual knows ``pretrained`` and ``none``.
        rewind_step: optimizer steps, for ``rewind="step"``.
        start: weights that the ticket starts from: ``pretrained``, or ``rewound`` ones that it
            carries; by default ``pretrained``, but ``rewound`` for ``step`` and ``lr``, and for
            gradual without rewinding.
        levels: rounds of IMP, each keeping the same share.
        rate: removed each round, of the ``rate_of`` weights.
        grid: the sparsity after each round, instead of levels and rate.
        criterion: a key of :data:`ticketry.core.score.CRITERIA`.
        pattern: unstructured, N:M, RxC blocks, head, neuron.
        allocation: global, uniform, erk, given.
        layer_densities: name pattern and density, in order; for allocation ``given``.
        min_layer_density: kept of each tensor at least; for global unstructured selection.
        calibration_batches: over which gradients of a criterion are taken.
        gradual_start: share of the steps after which gradual pruning begins.
        gradual_end: share of the steps after which it is done.
        gradual_updates: how many times the mask shrinks.
    """

    sparsity: float = 0.4
    method: str = "imp"
    source: str = "trained"
    rewind: str = "pretrained"
    rewind_step: int | None = None
    start: str | None = None
    levels: int | None = None
    rate: float | None = None
    rate_of: str = "remaining"
    grid: tuple[float, ...] | None = None
    criterion: str = "magnitude"
    pattern: str = "unstructured"
    allocation: str = "global"
    layer_densities: tuple[tuple[str, float], ...] = ()
    min_layer_density: float = 0.0
    calibration_batches: int = 16
    gradual_start: float = 0.1
    gradual_end: float = 0.7
    gradual_updates: int = 30

    @property
    def starts_rewound(self) -> bool:
        """Whether the ticket carries weights of its own to start from."""
        if self.start is not None:
            return self.start == "rewound"
        return self.rewind in ("step", "lr") or (self.method, self.rewind) == ("gradual", "none")

    @property
    def trains(self) -> bool:
        """Whether the search trains at all."""
        return not (self.method == "one-shot" and self.source == "theta0")


def check_search(search: SearchSpec) -> list[str]:
    """Return every fault of a search that can be seen without the model, one sentence each."""
    return [
        *_numbers(search),
        *_names(search),
        *_rounds(search),
        *_rewinding(search),
        *_criterion(search),
        *_structure(search),
    ]


def _names(search: SearchSpec) -> list[str]:
    known = {
        "--method": (search.method, METHODS),
        "--from": (search.source, SOURCES),
        "--rewind": (search.rewind, REWINDS),
        "--rate-of": (search.rate_of, RATES_OF),
    }
    faults = [
        unknown_name_message(option, value, names)
        for option, (value, names) in known.items()
        if value not in names
    ]
    if search.start is not None and search.start not in STARTS:
        faults.append(unknown_name_message("--start", search.start, STARTS))
    return faults


def _numbers(search: SearchSpec) -> list[str]:
    faults = []
    if not 0 <= search.sparsity < 1:  # also catches NaN
        hint = " Percent are not used: write 0.4 for 40%." if search.sparsity >= 1 else ""
        faults.append(f"--sparsity is {search.sparsity}; expected a number in [0, 1).{hint}")
    if not 0 <= search.min_layer_density <= 1:
        faults.append(
            f"--min-layer-density is {search.min_layer_density}; expected a number in [0, 1]."
        )
    elif 0 <= search.sparsity < 1 and search.min_layer_density > 1 - search.sparsity:
        faults.append(
            f"--min-layer-density {search.min_layer_density} cannot be kept in every layer at "
            f"sparsity {search.sparsity}; expected at most {1 - search.sparsity:g}."
        )
    if search.calibration_batches < 1:
        faults.append(
            f"--calibration-batches is {search.calibration_batches}; expected at least 1."
        )
    if not 0 <= search.gradual_start < search.gradual_end <= 1:
        faults.append(
            f"--gradual-start {search.gradual_start} and --gradual-end {search.gradual_end} are "
            "shares of the steps; expected 0 ≤ start < end ≤ 1."
        )
    if search.gradual_updates < 1:
        faults.append(f"--gradual-updates is {search.gradual_updates}; expected at least 1.")
    return faults


def _rounds(search: SearchSpec) -> list[str]:
    faults = []
    given = [
        option
        for option, value in (
            ("--levels", search.levels),
            ("--rate", search.rate),
            ("--grid", search.grid),
        )
        if value is not None
    ]
    if len(given) > 1:
        both = "both" if len(given) == 2 else "all"
        faults.append(
            f"{' and '.join(given)} were {both} given; they exclude each other, give one."
        )
    if search.levels is not None and search.levels < 1:
        faults.append(f"--levels is {search.levels}; expected at least 1.")
    if search.rate is not None and not 0 < search.rate < 1:
        faults.append(f"--rate is {search.rate}; expected a number in (0, 1).")
    if search.grid is not None:
        faults += _grid(search.grid, search.sparsity)
    single = search.levels in (None, 1) and search.rate is None and search.grid is None
    if search.method in ("one-shot", "gradual") and not single:
        faults.append(
            f"--levels, --rate and --grid shape IMP; --method {search.method} has one level, "
            "drop them."
        )
    return faults


def _grid(grid: tuple[float, ...], sparsity: float) -> list[str]:
    levels = grid
    if not levels or not all(a < b for a, b in pairwise((0.0, *levels, 1.0))):
        return [
            f"--grid is {', '.join(f'{level:g}' for level in levels) or 'empty'}; expected "
            "sparsities in (0, 1), each above the one before, because masks are nested."
        ]
    if levels[-1] != sparsity:
        return [
            f"--grid ends at sparsity {levels[-1]:g} and --sparsity is {sparsity:g}; expected "
            "the same, or leave --sparsity out."
        ]
    return []


def _rewinding(search: SearchSpec) -> list[str]:
    faults = []
    if search.rewind == "step":
        if search.rewind_step is None or search.rewind_step < 1:
            found = (
                "none was given" if search.rewind_step is None else f"found {search.rewind_step}"
            )
            faults.append(
                f"--rewind step needs --rewind-step, optimizer steps from 1 on; {found}. Step 0 is "
                "--rewind pretrained."
            )
    elif search.rewind_step is not None:
        faults.append(f"--rewind-step goes with --rewind step; --rewind is {search.rewind}.")
    if not search.trains and search.rewind != "pretrained":
        faults.append(
            f"--rewind {search.rewind} needs a training to rewind; one-shot --from theta0 has none."
        )
    elif search.method == "gradual" and search.rewind not in ("pretrained", "none"):
        faults.append(
            f"--rewind {search.rewind} needs rounds; --method gradual is one training: pretrained "
            "(its mask on θ0) or none (the ticket carries the trained weights)."
        )
    elif search.method == "one-shot" and search.rewind == "none":
        faults.append(
            "--rewind none spans several rounds; --method one-shot has one. Use lr to go on from "
            "the trained weights."
        )
    if search.start == "rewound" and search.rewind == "pretrained":
        faults.append(
            "--start rewound needs weights to start from; with --rewind pretrained there are none. "
            "Choose --rewind step, lr or none."
        )
    if search.start == "pretrained" and search.rewind == "step":
        faults.append(
            "--start pretrained with --rewind step would verify another ticket than was searched "
            "for; drop one."
        )
    if search.method == "imp" and search.source == "theta0":
        faults.append(
            "--from theta0 scores the pre-trained weights without training, which is one-shot; "
            "use --method one-shot, or --from trained with imp."
        )
    elif search.method == "gradual" and search.source == "theta0":
        faults.append("--from theta0 is of --method one-shot; gradual prunes while it trains.")
    return faults


def _criterion(search: SearchSpec) -> list[str]:
    faults = []
    if search.criterion in NEEDS_TRAINING and not search.trains:
        faults.append(
            f"--criterion {search.criterion} sums over a training; one-shot --from theta0 has "
            "none. Use --from trained."
        )
    if search.method == "gradual" and search.criterion not in IN_TRAINING:
        faults.append(
            f"--criterion {search.criterion} cannot be used in mid-training; --method gradual "
            f"knows {' and '.join(IN_TRAINING)}."
        )
    return faults


def _structure(search: SearchSpec) -> list[str]:
    faults = combination_faults(
        search.criterion, search.pattern, search.allocation, search.min_layer_density
    )
    group = N_OF_M.match(search.pattern)
    if group and (density := int(group[1]) / int(group[2])) < 1:
        if abs(search.sparsity - (1 - density)) > 1e-9:
            faults.append(
                f"--pattern {search.pattern} has sparsity {1 - density:g} by itself and "
                f"--sparsity is {search.sparsity:g}; give that one."
            )
        if search.method != "one-shot":
            faults.append(
                f"--pattern {search.pattern} has one sparsity, so there is nothing to approach "
                "step by step; use --method one-shot."
            )
    if search.allocation == "given":
        if not search.layer_densities:
            faults.append(
                "--allocation given needs --layer-densities: name patterns and their densities."
            )
        if search.method != "one-shot":
            faults.append(
                "--allocation given states the densities of one mask; use --method one-shot."
            )
        faults += [
            f"--layer-densities gives {name!r} {density}; expected a number in [0, 1]."
            for name, density in search.layer_densities
            if not 0 <= density <= 1
        ]
    elif search.layer_densities:
        faults.append(
            f"--layer-densities go with --allocation given; --allocation is {search.allocation}."
        )
    return faults
