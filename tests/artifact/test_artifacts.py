"""Tickets of earlier versions still load: a folder a version, never edited once it is released."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ticketry.ticket import Ticket

FOLDER = Path(__file__).parent
VERSIONS = sorted(p.parent.name for p in FOLDER.glob("v*/ticket_config.json"))


def test_there_is_a_ticket_of_this_format() -> None:
    assert "v1" in VERSIONS


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
