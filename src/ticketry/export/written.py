"""What an export wrote, and where it may write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ticketry.errors import ExportError

RECORD_FILE = "ticketry_export.json"
"""In every export's folder: what was exported, and how it was checked."""


@dataclass(frozen=True)
class Export:
    """What an export came to.

    Attributes:
        target: such as ``"onnx"``.
        source: model or ticket, as it was given.
        file_bytes: of the exported files that hold weights.
        dense_bytes: of the weights as a dense checkpoint holds them.
        packed_bytes: of the same weights packed by ``ticketry pack``; None if nothing is pruned.
        zeros: share of zeros in the pruned matrices (of a model without a mask: in all matrices).
        largest_difference: of any output to torch's, over all inputs that were compared.
        largest_output: of torch's outputs, for scale.
        compared: shapes of the inputs that were compared.
        inputs: their names.
        outputs: likewise.
        versions: of the libraries.
    """

    target: str
    source: str
    file_bytes: int
    dense_bytes: int
    packed_bytes: int | None
    zeros: float
    largest_difference: float
    largest_output: float
    compared: tuple[tuple[int, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "versions": dict(self.versions)}


def check_out(out: Path) -> None:
    """Refuse a folder that holds something else than an export.

    Raises:
        ExportError: nothing was written.
    """
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file; nothing was written. Choose a new folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD_FILE).is_file():
        raise ExportError(
            f"{out} is not empty and holds no export of ticketry; nothing was written. Choose a "
            "new folder."
        )
