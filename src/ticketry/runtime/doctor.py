"""What this machine can use for sparse execution, and why: one row a fact."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ticketry.errors import InputError
from ticketry.runtime import native


@dataclass(frozen=True)
class Fact:
    """One row.

    Attributes:
        what: is looked at.
        good: False where it keeps sparse layers from running.
        found: in words, with the reason.
    """

    what: str
    good: bool
    found: str

    def to_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)


def facts() -> list[Fact]:
    """Return what this machine can use."""
    library = native.library()
    rows = [
        Fact("processor", True, f"{_processor()} ({platform.machine()})"),
        Fact("kernel library", not library.missing, library.missing or str(library.path)),
    ]
    for name in reversed(native.ISAS):
        has = name in library.isas
        why = "can be used" if has else "not in this build, or not in this machine"
        rows.append(Fact(f"instruction set {name}", has, why))
    wanted = os.environ.get(native.ISA_VARIABLE)
    how = f"{native.ISA_VARIABLE} says so" if wanted else "the best of them"
    try:
        isa = native.isa()
        found = f"{isa}: {how}" if isa else "none: sparse layers run as dense ones"
        rows.append(Fact("in use", isa is not None, found))
    except InputError as error:
        rows.append(Fact("in use", False, str(error)))
    threads = torch.get_num_threads()
    cores = os.cpu_count() or 1
    rows += [
        Fact("threads", True, f"{threads} of {cores} processors, as torch.set_num_threads says"),
        Fact("torch", True, f"{torch.__version__}, dense products by {_dense()}"),
    ]
    return rows


def lines(rows: list[Fact]) -> list[str]:
    """Say the facts in lines for people."""
    width = max(len(row.what) for row in rows)
    return [f"{'yes' if row.good else 'no ':<4}{row.what:<{width}}  {row.found}" for row in rows]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor() or "unknown"


def _dense() -> str:
    if torch.backends.mkl.is_available():
        return "MKL" + (" and oneDNN" if torch.backends.mkldnn.is_available() else "")
    return "oneDNN" if torch.backends.mkldnn.is_available() else "torch's own code"
