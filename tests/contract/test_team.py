"""Two real processes over gloo: what one team method does on both ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from ticketry import parallel
from ticketry.errors import ConfigError
from ticketry.parallel import Team

CODE = """
import json, os, torch
from torch import nn
from ticketry import parallel
from ticketry.core.mask import Mask
from ticketry.enforce import zero_pruned_
from ticketry.errors import TrainingError

team = parallel.join()
rank = team.rank
found = {"rank": rank, "size": team.size, "alone": team.alone, "leads": team.leads}

found["heard"] = team.hear() if rank else team.say({"do": "θ0", "n": [1, None]})

draw = torch.Generator().manual_seed(rank)
shapes = {"b": (3, 5), "a": (7, 2)}
own = Mask({name: torch.rand(shape, generator=draw) > 0.5 for name, shape in shapes.items()})
asked = []
mask = team.choose_mask(lambda: (asked.append(rank), own)[1])
found["asked"], found["digest"] = asked, mask.digest()
found["own"] = own.digest()

def fault(call):
    try:
        call()
    except TrainingError as error:
        return str(error)

team.check_mask(mask)
found["mask_fault"] = fault(lambda: team.check_mask(own))
found["dense_fault"] = fault(lambda: team.check_mask(None if rank else mask))
found["weight_fault"] = fault(lambda: team.check_weights({"w": "same", "x": f"hash of {rank}"}))

# One linear layer of a tiny BERT stands for a model; the loss is a mean over rows.
torch.manual_seed(0)
model, alone = nn.Linear(4, 3), nn.Linear(4, 3)
alone.load_state_dict(model.state_dict())
batch = {"x": torch.randn(5, 4), "y": torch.randn(5, 3)}
rows, part = team.share(batch)
found["rows"], found["part"] = len(rows["x"]), part
keep = torch.rand(3, 4) > 0.4
for m, (b, p) in ((model, (rows, part)), (alone, (batch, 1.0))):
    bits = keep.to(torch.int8).neg_()
    m.weight.register_post_accumulate_grad_hook(lambda w: zero_pruned_(w.grad, bits))
    loss = (m(b["x"]) - b["y"]).square().mean() * p
    loss.backward()
    if m is model:
        team.sum_gradients(m.parameters())
        total = team.total(float(loss.detach()))
found["loss"] = [total, float(loss.detach())]
pairs = zip(model.parameters(), alone.parameters())
found["off"] = max(float((p.grad - q.grad).abs().max()) for p, q in pairs)
found["pruned"] = float(model.weight.grad[~keep].abs().max())
found["gradient"] = model.weight.grad.flatten().tolist()

team.seed_step(3, 7)
found["drawn"] = torch.rand(1).item()
team.seed_step(3, 7)
found["again"] = torch.rand(1).item()
team.seed_step(3, 8)
found["next"] = torch.rand(1).item()
print(json.dumps(found))
parallel.leave()
"""


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CODE],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ends = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


def test_who_leads(ranks: list[dict[str, Any]]) -> None:
    assert [(r["rank"], r["size"], r["alone"], r["leads"]) for r in ranks] == [
        (0, 2, False, True),
        (1, 2, False, False),
    ]
    assert ranks[1]["heard"] == {"do": "θ0", "n": [1, None]}


def test_a_mask_is_chosen_once_and_the_same_everywhere(ranks: list[dict[str, Any]]) -> None:
    assert [r["asked"] for r in ranks] == [[0], []]
    assert ranks[0]["digest"] == ranks[1]["digest"] == ranks[0]["own"] != ranks[1]["own"]


def test_a_mismatch_is_an_error_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for r in ranks:
        assert r["mask_fault"] == (
            f"the mask of rank 1 is not that of rank 0 (here, on rank {r['rank']}: "
            f"{r['own'][:12]}); expected the same on all 2 processes. Do all run the same versions "
            "on the same files? If so, start the same command again to continue; what was finished "
            "is kept."
        )
        assert r["dense_fault"] is not None
        assert "the tensor x after training of rank 1" in r["weight_fault"]


def test_gradients_and_losses_add_up_to_one_process(ranks: list[dict[str, Any]]) -> None:
    assert sorted(r["rows"] for r in ranks) == [2, 3]
    assert sum(r["part"] for r in ranks) == pytest.approx(1.0)
    for r in ranks:
        assert r["loss"][0] == pytest.approx(r["loss"][1], rel=1e-6)
        assert r["off"] < 1e-6
        assert r["pruned"] == 0.0
    assert ranks[0]["gradient"] == ranks[1]["gradient"]


def test_each_rank_draws_its_own_numbers_at_each_step(ranks: list[dict[str, Any]]) -> None:
    for r in ranks:
        assert r["drawn"] == r["again"] != r["next"]
    assert ranks[0]["drawn"] != ranks[1]["drawn"]


def test_a_team_of_one_does_nothing() -> None:
    alone = Team()
    assert (alone.alone, alone.leads, alone.total(2.5)) == (True, True, 2.5)
    alone.say({"do": "nothing"})
    alone.check_mask(None)
    alone.check_batch(1)
    alone.sum_gradients([])


def test_more_processes_than_rows_are_refused() -> None:
    Team(0, 3).check_batch(3)
    with pytest.raises(ConfigError, match=r"batches of 2 examples cannot be shared over 3 proc"):
        Team(0, 3).check_batch(2)


def test_launches_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert parallel.launched() == 1
    parallel.check_launch("cuda")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert parallel.launched() == 1
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ConfigError, match=r"--cpu` starts one process, whatever --num_processes"):
        parallel.launched()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parallel.launched() == 2
    with pytest.raises(ConfigError, match=r"this is one of 2 launched processes, and each of them"):
        parallel.check_launch("cpu")
    monkeypatch.setattr(parallel, "_team", Team(1, 2))
    parallel.check_launch("cpu")
    with pytest.raises(ConfigError, match=r"2 processes were launched for --device cuda"):
        parallel.check_launch("cuda")
