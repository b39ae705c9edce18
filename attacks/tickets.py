"""Hostile tickets."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from harness import HARMLESS, OPEN, REFUSED, Place, attack, edit_json, evil_pickle, markup_in, seal

MASK, EVIDENCE = "ticket_mask.safetensors", "ticket_evidence.json"
CONFIG = "ticket_config.json"


def mask_file(shapes: Any, blobs: dict[str, bytes], header: str | None = None) -> bytes:
    """A mask file of any content, with a header of its own or the right one."""
    at, entries = 0, {}
    for name, blob in blobs.items():
        entries[name] = {
            "dtype": "U8",
            "shape": [len(blob)],
            "data_offsets": [at, at + len(blob)],
        }
        at += len(blob)
    metadata = {
        "format": "ticketry-mask",
        "version": "1",
        "shapes": json.dumps(shapes),
        "digest": "0" * 64,
    }
    text = header or json.dumps({"__metadata__": metadata, **entries})
    data = text.encode()
    return len(data).to_bytes(8, "little") + data + b"".join(blobs.values())


def with_mask(place: Place, data: bytes) -> list[str]:
    """Put a mask file into a ticket, with its right hash."""
    ticket = place.ticket
    (ticket / MASK).write_bytes(data)
    return ["inspect", str(seal(ticket))]


@attack(REFUSED, "is a pickle or zip archive, not safetensors; it was not opened")
def pickled_mask(place: Place) -> list[str]:
    """A pickle that runs a command, named as the mask, with its right hash."""
    return with_mask(place, evil_pickle(place.canary))


@attack(REFUSED, "is a pickle or zip archive, not safetensors; it was not opened")
def pickled_weights(place: Place) -> list[str]:
    """A pickle named as the weights to start from."""
    ticket = place.ticket
    (ticket / "ticket_rewind.safetensors").write_bytes(evil_pickle(place.canary))
    edit_json(ticket / CONFIG, lambda c: c["files"].update({"ticket_rewind.safetensors": ""}))
    return ["inspect", str(seal(ticket, format_version=2))]


@attack(REFUSED, "that is refused")
def claims_2_60_weights(place: Place) -> list[str]:
    """A mask of one byte that claims 2^60 kept weights."""
    return with_mask(place, mask_file({"w": [2**30, 2**30]}, {"w": b"\x03"}))


@attack(REFUSED, "that is refused")
def overflowing_counts(place: Place) -> list[str]:
    """Shapes whose product wraps around to 0 in 64 bits."""
    return with_mask(place, mask_file({"w": [2**32, 2**32]}, {"w": b"\x02"}))


@attack(REFUSED, "claims 2,199,023,255,552 bytes of mask in a file of 67,109,127; that is refused")
def padded_claims(place: Place) -> list[str]:
    """A file padded to 64 MiB that claims 2 TiB."""
    shapes = {"w": [2**22, 2**22]}
    return with_mask(place, mask_file(shapes, {"w": b"\x03" + bytes(64 << 20)}))


@attack(REFUSED, "it unpacks to more than the 1 bytes expected")
def deflate_bomb(place: Place) -> list[str]:
    """A deflate stream of 1 GiB of zeros for a tensor of 8 weights."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join([*(deflate.compress(bytes(1 << 20)) for _ in range(1024)), deflate.flush()])
    return with_mask(place, mask_file({"w": [8]}, {"w": b"\x01" + packed}))


@attack(REFUSED, "its header is longer than the file")
def header_length_2_63(place: Place) -> list[str]:
    """A safetensors header that says it has 2^63 bytes."""
    return with_mask(place, (2**63).to_bytes(8, "little") + b"{}")


@attack(REFUSED, "is damaged")
def duplicate_keys(place: Place) -> list[str]:
    """The same tensor twice in a header: readers that differ would see two masks."""
    one = '"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    two = '"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}'
    shapes = '"shapes":"{\\"w\\":[8]}"'
    meta = f'"__metadata__":{{"format":"ticketry-mask","version":"1","digest":"0",{shapes}}}'
    return with_mask(place, mask_file({}, {"a": b"\x02", "b": b"\x03"}, f"{{{meta},{one},{two}}}"))


@attack(REFUSED, "is not JSON")
def deep_json(place: Place) -> list[str]:
    """A configuration of a million brackets."""
    ticket = place.ticket
    (ticket / CONFIG).write_text("[" * 1_000_000)
    return ["inspect", str(ticket)]


@attack(REFUSED, "'total_parameters' is nan; expected a whole number")
def numbers_that_are_none(place: Place) -> list[str]:
    """NaN and Infinity where JSON has no such numbers."""
    return ["inspect", str(seal(place.ticket, total_parameters=float("nan")))]


@attack(REFUSED, "is not JSON")
def long_number(place: Place) -> list[str]:
    """A number of a million digits, slow to read and to print."""
    ticket = place.ticket
    text = (ticket / CONFIG).read_text()
    (ticket / CONFIG).write_text(text.replace('"kept": 9830', f'"kept": {"9" * 1_000_000}'))
    return ["inspect", str(ticket)]


@attack(REFUSED, "climbs out of the folder; nothing was read")
def climbing_name(place: Place) -> list[str]:
    """A file list that names ../victim.txt."""
    ticket = place.ticket
    edit_json(ticket / CONFIG, lambda c: c["files"].update({"../victim.txt": "0" * 64}))
    return ["inspect", str(ticket)]


@attack(REFUSED, "is a link that climbs out of the ticket's folder; it was not opened")
def link_outside(place: Place) -> list[str]:
    """The evidence is a link to a private file."""
    ticket = place.ticket
    (ticket / EVIDENCE).unlink()
    (ticket / EVIDENCE).symlink_to(place.victim)
    return ["inspect", str(ticket)]


@attack(REFUSED, "is a link that climbs out of the ticket's folder; it was not opened")
def link_to_a_device(place: Place) -> list[str]:
    """The mask is a link to /dev/zero, which never ends."""
    ticket = place.ticket
    (ticket / MASK).unlink()
    (ticket / MASK).symlink_to("/dev/zero")
    return ["inspect", str(ticket)]


@attack(REFUSED, "it is no regular file")
def pipe(place: Place) -> list[str]:
    """The evidence is a named pipe, whose opening waits for ever."""
    ticket = place.ticket
    (ticket / EVIDENCE).unlink()
    os.mkfifo(ticket / EVIDENCE)
    return ["inspect", str(ticket)]


@attack(REFUSED, "was not opened: it has")
def sparse_file(place: Place) -> list[str]:
    """A mask of 60 GiB that takes no room on the disk."""
    ticket = place.ticket
    with (ticket / MASK).open("wb") as file:
        file.truncate(60 << 30)
    return ["inspect", str(ticket)]


def edit_evidence(place: Place, change: Any) -> Path:
    """Edit a ticket's evidence and make its hash right."""
    ticket = place.ticket
    edit_json(ticket / EVIDENCE, change)
    return seal(ticket)


@attack(HARMLESS, "on \N{REPLACEMENT CHARACTER}[2Jowned")
def terminal_escapes(place: Place) -> list[str]:
    """Names that clear the screen, write over lines and turn text around."""
    ticket = edit_evidence(place, lambda e: e.update(task="\x1b[2Jowned\r\u202e"))
    return ["inspect", str(seal(ticket, base_model_name_or_path="bert\x1b]0;title\x07\x9b31m"))]


@attack(REFUSED, "there is no folder")
def escapes_in_an_error(place: Place) -> list[str]:
    """A path with escape sequences in a message about it."""
    return ["list", "./\x1b[2J\x1b[31mno such folder\r"]


@attack(HARMLESS, "ticket for b\u0435rt\N{REPLACEMENT CHARACTER}")
def confusing_letters(place: Place) -> list[str]:
    """A base named with a Cyrillic letter and one of no width: shown, the latter as a mark."""
    return ["inspect", str(seal(place.ticket, base_model_name_or_path="b\u0435rt\u200b"))]


@attack(REFUSED, "is damaged")
def lone_surrogates(place: Place) -> list[str]:
    """A tensor named by half a character, which no terminal can print."""
    shapes = '"shapes":"{\\"\\\\ud800\\":[8]}"'
    meta = f'"__metadata__":{{"format":"ticketry-mask","version":"1","digest":"0",{shapes}}}'
    entry = '"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    return with_mask(place, mask_file({}, {"a": b"\x02"}, f"{{{meta},{entry}}}"))


def _script_in_card(place: Place, said: str) -> str | None:
    return markup_in(place.folder / "copy/README.md")


@attack(HARMLESS, "", _script_in_card)
def markup_in_the_card(place: Place) -> Any:
    """Scripts and Markdown in the task, labels, warnings and notes of a ticket whose card is
    written again."""

    def change(evidence: Any) -> None:
        evil = "<script>alert(1)</script><img src=x onerror=alert(1)> [x](javascript:alert(1))"
        evidence |= {"task": evil, "warnings": [evil], "command": "```\n" + evil}
        evidence["data"] |= {"labels": [evil, "pos"], "notes": [evil], "source": evil}

    ticket = edit_evidence(place, change)

    def door() -> None:
        from ticketry import Ticket

        Ticket.from_pretrained(ticket).save_pretrained(place.folder / "copy")

    return door


@attack(REFUSED, "is damaged or was edited: its SHA-256 is not the one in ticket_config.json")
def edited_verdict(place: Place) -> list[str]:
    """The verdict was edited to "yes", its hash was not."""
    ticket = place.ticket
    edit_json(ticket / EVIDENCE, lambda e: e["verdict"].update(noninferior="yes", winning=True))
    return ["inspect", str(ticket)]


@attack(OPEN, "winning: yes")
def forged_verdict(place: Place) -> list[str]:
    """The verdict was edited to "yes", and every hash was made right: a ticket is not signed, and
    loading it computes no verdict again."""
    change = {"noninferior": "yes", "winning": True}
    return ["inspect", str(edit_evidence(place, lambda e: e["verdict"].update(change)))]


@attack(REFUSED, "says sparsity 0.9, but its mask has")
def lying_sparsity(place: Place) -> list[str]:
    """A configuration that states more sparsity than its mask has."""
    return ["inspect", str(seal(place.ticket, sparsity=0.9))]
