"""Records in, a verdict out: is the ticket as good as the dense model, and does that mean anything?

The rules are those of statistics.md, with one addition that can only turn a ``yes`` into
``inconclusive``. Each of the two intervals sees one source of noise: replicates are few, and test
examples are few. Where both are of one size, each end alone can lie above -margin by luck of the
other: simulated with tickets exactly a margin worse, the two ends together then pass 6% of the time
with 3 replicates and 10% with 10, not 5% (``benchmarks/verdict_simulation.py``). So ``yes`` also
needs the end of an interval over both sources, the *overall* one, which is never narrower than
either.
"""

from __future__ import annotations

from ticketry.verdict.judging import CHANCE, judge
from ticketry.verdict.reading import Answer, Comparison, ControlReading, Verdict

__all__ = ["CHANCE", "Answer", "Comparison", "ControlReading", "Verdict", "judge"]
