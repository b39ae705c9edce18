"""Tickets that carry weights to start from: written, read, applied; what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ticketry.core.mask import Mask
from ticketry.errors import BaseMismatchError, TicketError
from ticketry.files import sha256_bytes
from ticketry.models.loading import (
    base_sha256,
    canonical_parameters,
    canonical_tensors,
    load_backbone,
    prunable,
    resolve,
    tensor_hashes,
)
from ticketry.ticket import CONFIG_FILE, REWIND_FILE, Base, Rewind, Ticket


@pytest.fixture(scope="module")
def ticket(tiny_model: Path) -> Ticket:
    backbone = load_backbone(resolve(str(tiny_model)))
    draw = torch.Generator().manual_seed(0)
    names = prunable(backbone, "encoder")
    parameters = canonical_parameters(backbone)
    mask = Mask({n: torch.rand(parameters[n].shape, generator=draw) < 0.5 for n in names})
    hashes = tensor_hashes(backbone)
    base = Base(str(tiny_model), None, base_sha256(hashes), hashes, "bert", 25_000)
    weights = {n: t + 1.0 for n, t in canonical_tensors(backbone).items()}
    return Ticket(mask, base, rewind=Rewind(weights, 7))


@pytest.fixture
def folder(ticket: Ticket, tmp_path: Path) -> Path:
    ticket.save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def replace_rewind(folder: Path, data: bytes, **changes: Any) -> None:
    """Put other bytes in the place of the weights, with the hash that fits them."""
    (folder / REWIND_FILE).write_bytes(data)
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text()) | changes
    config["files"][REWIND_FILE] = sha256_bytes(data)
    path.write_text(json.dumps(config))


def test_weights_come_back_bit_for_bit(ticket: Ticket, folder: Path) -> None:
    assert ticket.rewind is not None
    found = Ticket.from_pretrained(folder)
    assert found.rewind is not None
    assert found.rewind.step == 7
    assert found.rewind.weights.keys() == ticket.rewind.weights.keys()
    for name, tensor in ticket.rewind.weights.items():
        assert torch.equal(found.rewind.weights[name], tensor)
    assert found.files() == ticket.files()


def test_the_config_says_so_and_older_readers_are_told(ticket: Ticket, folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert (config["format_version"], config["rewind"], config["rewind_step"]) == (2, "step", 7)
    plain = dataclasses.replace(ticket, rewind=None).config()
    assert (plain["format_version"], plain["rewind"]) == (1, "pretrained")
    assert "rewind_step" not in plain
    assert ticket.rewind is not None
    trained = dataclasses.replace(ticket, rewind=Rewind(ticket.rewind.weights)).config()
    assert trained["rewind"] == "trained"


def test_apply_sets_all_weights_then_the_zeros(ticket: Ticket, tiny_model: Path) -> None:
    assert ticket.rewind is not None
    model = load_backbone(resolve(str(tiny_model)))
    ticket.apply_(model)
    for name, parameter in canonical_parameters(model).items():
        wanted = ticket.rewind.weights[name]
        if name in ticket.mask:
            wanted = wanted * ticket.mask[name]
        assert torch.equal(parameter, wanted), name
    with pytest.raises(BaseMismatchError):  # its weights are no longer the base's
        ticket.apply_(model)


def test_a_pickle_is_named_and_never_opened(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path(tmp_path / "gone-off").write_text, ("boom",)

    replace_rewind(folder, pickle.dumps(Bomb()))
    with pytest.raises(TicketError, match=r"ticket_rewind\.safetensors is a pickle"):
        Ticket.from_pretrained(folder)
    assert not (tmp_path / "gone-off").exists()


def hostile(ticket: Ticket) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    assert ticket.rewind is not None
    weights = dict(ticket.rewind.weights)
    masked = next(iter(ticket.mask))
    nan = {**weights, masked: torch.full_like(weights[masked], float("nan"))}
    return {
        "nan": (nan, "holds values that are not finite"),
        "strange": ({**weights, "nowhere": torch.ones(1)}, "holds tensors that the base lacks"),
        "lacking": ({n: t for n, t in weights.items() if n != masked}, "lacks masked tensors"),
        "shape": ({**weights, masked: torch.ones(2, 2)}, "or has other shapes"),
        "empty": ({}, "holds no tensors"),
    }


@pytest.mark.parametrize("kind", ["nan", "strange", "lacking", "shape", "empty"])
def test_weights_that_do_not_fit_are_refused(kind: str, ticket: Ticket, folder: Path) -> None:
    tensors, message = hostile(ticket)[kind]
    replace_rewind(folder, save(tensors))
    with pytest.raises(TicketError, match=message):
        Ticket.from_pretrained(folder)


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_truncations_are_refused(cut: int, folder: Path) -> None:
    replace_rewind(folder, (folder / REWIND_FILE).read_bytes()[:cut])
    with pytest.raises(TicketError, match="is damaged"):
        Ticket.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "of format version 1 names ticket_rewind.safetensors"),
        ({"rewind_step": -1}, "its rewind_step is -1"),
        ({"rewind_step": "7"}, "its rewind_step is 7"),
        ({"rewind_step": True}, "its rewind_step is True"),
    ],
)
def test_a_config_that_contradicts_itself(
    changes: dict[str, Any], message: str, folder: Path
) -> None:
    replace_rewind(folder, (folder / REWIND_FILE).read_bytes(), **changes)
    with pytest.raises(TicketError, match=message):
        Ticket.from_pretrained(folder)


def test_a_version_2_ticket_without_its_weights(folder: Path) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    del config["files"][REWIND_FILE]
    path.write_text(json.dumps(config))
    with pytest.raises(TicketError, match="of format version 2 lacks ticket_rewind"):
        Ticket.from_pretrained(folder)
