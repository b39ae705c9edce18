"""Tickets on disk: what is written, and how damaged or hostile folders are refused."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ticketry.core.codec import entropy_bytes
from ticketry.core.mask import Mask
from ticketry.errors import TicketError
from ticketry.maskfile import dump_mask, load_mask
from ticketry.ticket import CARD_FILE, CONFIG_FILE, EVIDENCE_FILE, MASK_FILE, Base, Ticket


def random_mask(sizes: dict[str, tuple[int, ...]], density: float, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(s, generator=generator) < density for n, s in sizes.items()})


@pytest.fixture
def ticket() -> Ticket:
    mask = random_mask({"encoder.a.weight": (8, 5), "encoder.b.weight": (3,)}, 0.5)
    base = Base("user/base", "abc", "0" * 64, {"encoder.a.weight": "1" * 64}, "bert", 43)
    return Ticket(mask, base, {"sparsity": 0.5})


@pytest.fixture
def folder(ticket: Ticket, tmp_path: Path) -> Path:
    ticket.save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


def test_a_ticket_comes_back_as_it_was(ticket: Ticket, folder: Path) -> None:
    found = Ticket.from_pretrained(folder)
    assert found == ticket
    assert found.mask == ticket.mask
    assert found.verdict is None  # a candidate
    assert sorted(p.name for p in folder.iterdir()) == sorted([CARD_FILE, CONFIG_FILE, MASK_FILE])
    assert not (folder / EVIDENCE_FILE).exists()
    assert Ticket.from_pretrained(folder.parent, subfolder="ticket") == ticket


def test_equal_tickets_give_equal_bytes(ticket: Ticket) -> None:
    assert ticket.files() == ticket.files()
    assert dump_mask(ticket.mask) == dump_mask(ticket.mask)


@pytest.mark.parametrize("density", [0.1, 0.25, 0.5, 0.6, 0.75, 0.9])
def test_a_mask_of_a_million_weights_is_near_its_entropy(density: float) -> None:
    n = 1_000_000
    mask = random_mask({"w": (1000, 1000)}, density)
    bits = -(density * math.log2(density) + (1 - density) * math.log2(1 - density))
    assert entropy_bytes(n, density) == pytest.approx(n * bits / 8)
    assert len(dump_mask(mask)) <= 1.05 * n * bits / 8


def test_saving_over_something_else_is_refused(ticket: Ticket, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TicketError, match="is not empty and holds no ticket; nothing was written"):
        ticket.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_saving_over_a_ticket_replaces_it(ticket: Ticket, folder: Path) -> None:
    other = Ticket(random_mask({"encoder.a.weight": (8, 5)}, 0.2), ticket.base)
    other.save_pretrained(folder)
    assert Ticket.from_pretrained(folder) == other


@pytest.mark.parametrize("name", [CONFIG_FILE, MASK_FILE])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TicketError, match=r"a ticket is a folder with ticket_config.json"):
        Ticket.from_pretrained(folder)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(TicketError, match="no ticket at 'no/where': it is not a folder here"):
        Ticket.from_pretrained("no/where", local_files_only=True)


def test_an_edited_mask_file_is_noticed(folder: Path) -> None:
    path = folder / MASK_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(TicketError, match="is damaged or was edited: its SHA-256"):
        Ticket.from_pretrained(folder)


def test_every_single_bit_flip_of_a_mask_file_is_refused_or_harmless(ticket: Ticket) -> None:
    data = dump_mask(ticket.mask)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        try:
            found = load_mask(bytes(broken))
        except TicketError:
            continue
        assert found == ticket.mask, at  # metadata that does not matter, such as padding


def test_every_truncation_of_a_mask_file_is_refused(ticket: Ticket) -> None:
    data = dump_mask(ticket.mask)
    for length in range(len(data)):
        with pytest.raises(TicketError):
            load_mask(data[:length])


class Bomb:
    """Unpickling this would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_a_pickle_is_named_and_never_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / MASK_FILE).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(
        TicketError, match="is a pickle or zip archive, not safetensors; it was not"
    ):
        Ticket.from_pretrained(folder)
    torch.save({"w": torch.ones(2)}, tmp_path / "zip.pt")
    with pytest.raises(TicketError, match="is a pickle or zip archive"):
        load_mask((tmp_path / "zip.pt").read_bytes())
    assert not (tmp_path / "unpickled").exists()


def test_a_header_length_that_looks_like_a_pickle_is_none() -> None:
    # The first byte of a safetensors file is the low byte of its header's length: 0x80 happens.
    seen = set()
    for length in range(1, 200):
        mask = random_mask({"w" * length: (8,)}, 0.5)
        data = dump_mask(mask)
        seen.add(data[0])
        assert load_mask(data) == mask
    assert 0x80 in seen


def test_safetensors_that_is_no_mask(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(TicketError, match="a safetensors file, but not a ticketry mask"):
        load_mask((tmp_path / "w.safetensors").read_bytes())


def test_wrong_versions(folder: Path) -> None:
    edit_config(folder, format_version=99)
    with pytest.raises(
        TicketError, match="has format version 99; this ticketry reads versions 1 and 2"
    ):
        Ticket.from_pretrained(folder)
    edit_config(folder, format="something")
    with pytest.raises(TicketError, match="is not a ticket's: its format is 'something'"):
        Ticket.from_pretrained(folder)


def test_a_mask_of_another_version(ticket: Ticket) -> None:
    data = dump_mask(ticket.mask).replace(b'"version":"1"', b'"version":"7"')
    with pytest.raises(
        TicketError, match="has mask version '7'; this ticketry reads versions 1 and 2"
    ):
        load_mask(data)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_path_that_climbs_out(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")
    edit_config(folder, files={name: "0" * 64})
    with pytest.raises(TicketError, match="climbs out of the folder; nothing was read"):
        Ticket.from_pretrained(folder)


def test_a_subfolder_that_climbs_out(folder: Path) -> None:
    with pytest.raises(TicketError, match="climbs out of the ticket's folder"):
        Ticket.from_pretrained(folder, subfolder="../other")


def test_a_link_that_climbs_out(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / MASK_FILE, tmp_path / "elsewhere")
    (folder / MASK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TicketError, match="is a link that climbs out of the ticket's folder"):
        Ticket.from_pretrained(folder)


def test_a_config_with_wrong_types_lists_them_all(folder: Path) -> None:
    edit_config(folder, base_sha256=3, spec=[])
    with pytest.raises(TicketError, match="'base_sha256' is 3; expected text; 'spec' is a list"):
        Ticket.from_pretrained(folder)
    (folder / CONFIG_FILE).write_text("[" * 100_000)
    with pytest.raises(TicketError, match="is not JSON"):
        Ticket.from_pretrained(folder)


def test_another_mask_than_the_config_says(folder: Path) -> None:
    edit_config(folder, mask_digest="0" * 64)
    with pytest.raises(TicketError, match=r"holds another mask than ticket_config.json says"):
        Ticket.from_pretrained(folder)


@pytest.mark.parametrize(
    "shape", [[-1, 8], [2.5], "8", [], [1 << 62, 1 << 62], [True], [8, 5, 1, 1, 1, 1, 1, 1, 1]]
)
def test_hostile_shapes_are_refused_before_anything_is_allocated(
    ticket: Ticket, shape: Any
) -> None:
    data = dump_mask(ticket.mask)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    shapes = json.loads(header["__metadata__"]["shapes"])
    shapes["encoder.a.weight"] = shape
    header["__metadata__"]["shapes"] = json.dumps(shapes)
    text = json.dumps(header).encode()
    hostile = len(text).to_bytes(8, "little") + text + data[8 + length :]
    with pytest.raises(TicketError):
        load_mask(hostile)


def test_many_whole_tensors_may_not_claim_a_huge_size_together() -> None:
    data = dump_mask(Mask({f"w{i}": torch.ones(8, dtype=torch.bool) for i in range(4)}))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["shapes"] = json.dumps({f"w{i}": [1 << 30] for i in range(4)})
    text = json.dumps(header).encode()
    with pytest.raises(TicketError, match="claims 536,870,912 bytes of mask in a file of"):
        load_mask(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_constant_tensor_may_not_claim_a_huge_size() -> None:
    mask = Mask({"w": torch.ones(8, dtype=torch.bool)})
    data = dump_mask(mask)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["shapes"] = json.dumps({"w": [1 << 39]})
    text = json.dumps(header).encode()
    with pytest.raises(TicketError):
        load_mask(len(text).to_bytes(8, "little") + text + data[8 + length :])
