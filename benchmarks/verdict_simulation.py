"""How often does the verdict say yes? Simulated tickets whose true difference is known.

Run: python benchmarks/verdict_simulation.py [--simulations 1000]
Exits 1 when a truly worse ticket (by the margin or more) earns `yes` in more than 5% of the
simulations, beyond three standard errors of their number.

A test example is right when a normal variable stays above zero: the example's own ease, which both
arms share; the ticket's own taste in examples; a seed's own luck, which moves every example; and
noise of one seed on one example. The variance of the sum is known, so the population accuracy of
both arms, over seeds and over examples, is exact by the normal distribution.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ticketry.metrics import METRICS
from ticketry.records import Arm, Replicate
from ticketry.verdict import Verdict, judge

DENSE_ACCURACY = 0.85
MARGIN = 0.01


@dataclass(frozen=True)
class Noise:
    """Standard deviations beside that of an example's ease, which is 1.

    At 85% accuracy a seed's luck of 0.04 moves the accuracy by about 0.9 points.
    """

    name: str
    taste: float
    luck: float
    single: float


MIXES = (
    Noise("test examples only", taste=0.30, luck=0.0, single=0.0),
    Noise("seeds only", taste=0.0, luck=0.04, single=0.02),
    Noise("single seed on single example", taste=0.05, luck=0.0, single=0.40),
    Noise("seeds and test examples alike", taste=0.40, luck=0.033, single=0.05),
    Noise("all three", taste=0.25, luck=0.025, single=0.30),
    Noise("alike at 10 replicates", taste=0.40, luck=0.060, single=0.0),
)


def simulate(
    noise: Noise, difference: float, replicates: int, examples: int, rng: np.random.Generator
) -> Verdict:
    """Draw seeds and test examples, train nobody, and judge.

    Args:
        noise: where the scores' noise comes from.
        difference: true accuracy of the ticket less that of dense.
        replicates: seeds.
        examples: test examples.
        rng: of all draws.
    """
    ease = rng.standard_normal(examples)
    labels = (0,) * examples
    arms = {}
    for name, taste, accuracy in (
        ("dense", 0.0, DENSE_ACCURACY),
        ("ticket", noise.taste, DENSE_ACCURACY + difference),
    ):
        total = math.sqrt(1 + taste**2 + noise.luck**2 + noise.single**2)
        level = float(ndtri(accuracy)) * total
        own = level + ease + taste * rng.standard_normal(examples)
        luck = noise.luck * rng.standard_normal((replicates, 1))
        single = noise.single * rng.standard_normal((replicates, examples))
        wrong = (own + luck + single < 0).astype(int)
        arms[name] = Arm(
            name,
            tuple(
                Replicate(seed, 0.0, 1.0 - row.mean(), tuple(row.tolist()))
                for seed, row in enumerate(wrong)
            ),
        )
    return judge(
        dense=arms["dense"],
        ticket=arms["ticket"],
        controls={},
        labels=labels,
        metric=METRICS["accuracy"],
        margin=MARGIN,
        bootstrap_samples=2_000,
        seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True)
class Rates:
    """How often each answer came, and how often the two ends alone would have said yes."""

    simulations: int
    yes: float
    no: float
    two_ends: float

    @property
    def error(self) -> float:
        """Standard error of a rate of 5%."""
        return math.sqrt(0.05 * 0.95 / self.simulations)


def rates(
    noise: Noise, difference: float, replicates: int, examples: int, simulations: int, seed: int
) -> Rates:
    """Return the answers' rates over many simulations."""
    rng = np.random.default_rng(seed)
    answers = [simulate(noise, difference, replicates, examples, rng) for _ in range(simulations)]
    return Rates(
        simulations,
        yes=float(np.mean([v.noninferior == "yes" for v in answers])),
        no=float(np.mean([v.noninferior == "no" for v in answers])),
        two_ends=float(np.mean([min(v.seed_ci_low, v.example_ci_low) > -MARGIN for v in answers])),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1_000, help="of each cell")
    parser.add_argument("--examples", type=int, default=2_500, help="in the test split")
    parser.add_argument("--replicates", type=int, nargs="+", default=[3, 5, 10])
    options = parser.parse_args()
    started, missed = time.monotonic(), []
    print(
        f"{options.simulations} simulations a cell, {options.examples:,} test examples, dense "
        f"{DENSE_ACCURACY:.0%}, margin {100 * MARGIN:g} point, 95% ends"
    )
    print(f"{'noise':<30} {'replicates':>10} {'true difference':>16} {'yes':>7} "
          f"{'two ends':>9} {'no':>7}")  # fmt: skip
    for noise in MIXES:
        for replicates in options.replicates:
            for difference in (-2 * MARGIN, -MARGIN, 0.0, MARGIN):
                found = rates(
                    noise, difference, replicates, options.examples, options.simulations, seed=7
                )
                worse = difference <= -MARGIN
                bad = worse and found.yes > 0.05 + 3 * found.error
                missed += [noise.name] * bad
                print(
                    f"{noise.name:<30} {replicates:>10} {100 * difference:>9.1f} points "
                    f"{found.yes:>7.1%} {found.two_ends:>9.1%} {found.no:>7.1%}"
                    f"{'  MISSED' if bad else ''}",
                    flush=True,
                )
    print(
        "Rows at -2 and -1 points are truly worse tickets: their `yes` is false, at most 5% wanted "
        f"(3 standard errors: {300 * math.sqrt(0.05 * 0.95 / options.simulations):.1f} points). "
        "Rows at 0 and +1: `yes` is the power. `two ends`: yes without the overall interval."
    )
    print(f"{time.monotonic() - started:.0f} s; {'missed' if missed else 'goal reached'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
