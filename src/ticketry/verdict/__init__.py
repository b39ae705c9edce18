"""Records in, a verdict out: is the ticket as good as the dense model, and does that mean anything?

The rules are those of statistics.md, with additions that can only turn a ``yes`` or a ``no`` into
``inconclusive``:

- Each of the two intervals sees one source of noise: replicates are few, and test examples are few.
  Where both are of one size, simulated tickets exactly a margin worse pass both ends 7 to 9% of the
  time with 5 or 10 replicates, not 5% (``benchmarks/verdict_simulation.py``, column "two ends").
  So ``yes`` also needs the end of an interval over both sources, the *overall* one, which is never
  narrower than either; with it the rate is 5%.
- Arms that agree on a small test set prove little: the bootstrap draws from the test examples and
  one imaginary example that was lost (:func:`ticketry.metrics.resample`).
- When all seeds give the same difference, the interval by seeds has no width; it then cannot say
  ``no``, and the interval over test examples alone guards a ``yes``.
"""

from __future__ import annotations

from ticketry.verdict.judging import CHANCE, judge
from ticketry.verdict.reading import Answer, Comparison, ControlReading, Verdict

__all__ = ["CHANCE", "Answer", "Comparison", "ControlReading", "Verdict", "judge"]
