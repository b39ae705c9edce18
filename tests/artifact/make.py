"""Write an artifact from a run on the tiny BERT: python tests/artifact/make.py RUN v2."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from ticketry.models.loading import tensor_hashes
from ticketry.ticket import Ticket


def main(run: Path, version: str) -> None:
    """Copy a run's ticket and note what it must load to."""
    here = Path(__file__).parent
    shutil.copytree(run / "ticket", here / version)
    ticket = Ticket.from_pretrained(here / version)
    name = next(iter(ticket.mask))
    assert ticket.verdict is not None
    expected: dict[str, Any] = {
        "digest": ticket.mask.digest(),
        "kept": {name: ticket.mask.kept_in(name) for name in ticket.mask},
        "first": {
            "name": name,
            "bits": ticket.mask[name].reshape(-1)[:16].to(torch.int).tolist(),
        },
        "noninferior": ticket.verdict.noninferior,
    }
    if ticket.rewind is not None:
        hashes = tensor_hashes(ticket.rewind.weights)
        expected["rewind"] = {"step": ticket.rewind.step, "sha256": hashes[name]}
    (here / f"{version}.expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
