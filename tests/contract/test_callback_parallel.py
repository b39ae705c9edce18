"""``TicketCallback`` under ``torchrun``: two gloo processes that end alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from ticketry.core.mask import Mask
from ticketry.models.loading import (
    base_sha256,
    canonical_parameters,
    load_backbone,
    prunable,
    resolve,
    tensor_hashes,
)
from ticketry.ticket import Base, Ticket

SCRIPT = Path(__file__).parents[1] / "callback_rank.py"


def test_zeros_stay_and_the_processes_agree(tiny_model: Path, tmp_path: Path) -> None:
    backbone = load_backbone(resolve(str(tiny_model)))
    hashes, parameters = tensor_hashes(backbone), canonical_parameters(backbone)
    draw = torch.Generator().manual_seed(0)
    mask = Mask(
        {
            name: torch.rand(parameters[name].shape, generator=draw) < 0.5
            for name in prunable(backbone, "encoder")
        }
    )
    base = Base("tiny", None, base_sha256(hashes), hashes, "bert", 20_192)
    Ticket(mask, base).save_pretrained(tmp_path / "ticket")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
            *(str(SCRIPT), str(tiny_model), str(tmp_path / "ticket"), str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / "out" / f"rank{n}.json").read_text()) for n in (0, 1))
    assert one == two
    assert one["wrapped"] == "DistributedDataParallel"
    assert one["steps"] == 4
    assert one["revived"] == 0
    assert one["kept"] == mask.kept
