"""What the benchmarks share: blocks of a document that are measured, quartiles, resident bytes."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """Return what stands before and after a block in a document."""
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"


def read_block(page: Path, name: str) -> str:
    """Return what stands between a block's marks."""
    begin, end = marks(name)
    return page.read_text(encoding="utf-8").split(begin, 1)[1].split(end, 1)[0]


def write_block(page: Path, name: str, lines: Iterable[str]) -> None:
    """Put lines into a document, between a block's marks."""
    begin, end = marks(name)
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


def quartiles(values: list[float]) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")


def resident_bytes() -> int:
    """Return what of this process lies in memory, shared libraries among it."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    found = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
