"""Tickets of earlier versions still load: a folder a version, never edited once it is released."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ticketry.models.loading import tensor_hashes
from ticketry.ticket import CARD_FILE, Ticket

FOLDER = Path(__file__).parent
VERSIONS = sorted(p.parent.name for p in FOLDER.glob("v*/ticket_config.json"))


def test_there_is_a_ticket_of_each_format() -> None:
    assert {"v1", "v2"} <= set(VERSIONS)  # v2 carries weights to start from


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_of_an_earlier_version_loads_to_the_same_mask(version: str) -> None:
    ticket = Ticket.from_pretrained(FOLDER / version)
    expected = json.loads((FOLDER / f"{version}.expected.json").read_text())
    assert ticket.mask.digest() == expected["digest"]
    assert {name: ticket.mask.kept_in(name) for name in ticket.mask} == expected["kept"]
    first = ticket.mask[expected["first"]["name"]].reshape(-1)[:16]
    assert first.to(torch.int).tolist() == expected["first"]["bits"]
    assert ticket.verdict is not None
    assert ticket.verdict.noninferior == expected["noninferior"]
    assert (ticket.rewind is not None) == ("rewind" in expected)
    if ticket.rewind is not None:
        assert ticket.rewind.step == expected["rewind"]["step"]
        name = expected["first"]["name"]
        assert tensor_hashes(ticket.rewind.weights)[name] == expected["rewind"]["sha256"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_is_written_as_it_was_read(version: str) -> None:
    """Without what is new, nothing of the format changed: the files that are hashed are equal."""
    files = Ticket.from_pretrained(FOLDER / version).files()
    for file in (FOLDER / version).iterdir():
        if file.name != CARD_FILE:  # free text, which may say more in a later version
            assert files[file.name] == file.read_bytes(), file.name
