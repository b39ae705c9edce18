"""Sparse models for other runtimes, one file a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ticketry.errors import unknown_name

if TYPE_CHECKING:
    from ticketry.export.source import Source
    from ticketry.export.written import Export


def _onnx(source: Source, out: Path) -> Export:
    from ticketry.export.onnx import write_onnx

    return write_onnx(source, out)


TARGETS: Mapping[str, Callable[[Source, Path], Export]] = {"onnx": _onnx}
"""Name -> what writes a model's folder."""


def export(
    model_or_ticket: str | Path,
    out: str | Path,
    *,
    to: str = "onnx",
    revision: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Export:
    """Write a sparse model for another runtime, and check there that its outputs are the same.

    Args:
        model_or_ticket: a folder as ``ticketry train`` or ``pack`` writes it, a packaged model or
            hub id; or a ticket's folder or hub id, which gives its base, masked.
        out: the folder to write; an older export in it is replaced, anything else refused.
        to: a key of :data:`TARGETS`.
        revision: of a hub id.
        say: given a line about what takes long.
    Returns:
        What was written: sizes, and the largest difference of the outputs.

    Raises:
        UnknownNameError: there is no such target; shows the nearest.
        ExportError: a library is missing, the model cannot be exported, or its outputs differ
            there; nothing was written.
        InputError: the model or ticket cannot be loaded.
    """
    if to not in TARGETS:
        raise unknown_name("target", to, TARGETS)
    from ticketry.export.source import load_source
    from ticketry.export.written import check_out

    check_out(Path(out))
    if to == "onnx":
        from ticketry.export.onnx import check_libraries

        check_libraries()
    return TARGETS[to](load_source(str(model_or_ticket), revision, say), Path(out))
