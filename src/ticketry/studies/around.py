"""What a record was measured with."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from ticketry import __version__


def machine_of(node: str) -> str:
    """Return what tells machines apart without naming one."""
    from ticketry.config import fingerprint

    return fingerprint([node, platform.machine(), os.cpu_count(), *_processor()])[:12]


@functools.cache
def _processor() -> tuple[str, ...]:
    """Return what decides how this machine rounds: a node's name may come with another processor.

    torch chooses its kernels by what the processor can do.
    """
    import torch

    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    known = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")
    return (torch.backends.cpu.get_cpu_capability(), *(told.get(name, "") for name in known))


@functools.cache
def environment() -> dict[str, Any]:
    """Return what a record was measured with."""
    return {
        "ticketry": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "transformers")},
        "cores": os.cpu_count(),
        "machine": machine_of(platform.node()),
    }


def _commit() -> str | None:
    """Return the commit of ticketry's own source, ``+`` behind it if it was changed since."""
    source = Path(__file__).parent
    try:
        run = functools.partial(
            subprocess.run, cwd=source, capture_output=True, text=True, check=True, timeout=10
        )
        head = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "--", str(source.parent)]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")
