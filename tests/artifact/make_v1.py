"""Write the v1 artifact from a run on the tiny BERT: python tests/artifact/make_v1.py RUN."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from ticketry.ticket import Ticket


def main(run: Path) -> None:
    """Copy a run's ticket and note what it must load to."""
    here = Path(__file__).parent
    shutil.copytree(run / "ticket", here / "v1")
    ticket = Ticket.from_pretrained(here / "v1")
    name = next(iter(ticket.mask))
    assert ticket.verdict is not None
    expected = {
        "digest": ticket.mask.digest(),
        "kept": {name: ticket.mask.kept_in(name) for name in ticket.mask},
        "first": {
            "name": name,
            "bits": ticket.mask[name].reshape(-1)[:16].to(torch.int).tolist(),
        },
        "noninferior": ticket.verdict.noninferior,
    }
    (here / "v1.expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
