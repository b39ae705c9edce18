"""Mutations of bytes and of JSON values."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

EDGES = [0, 1, -1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63, 2**64, 10**30, 10**400, -(2**63)]
FLOATS = [0.0, -0.0, 1e-320, 1e16, 1e308, float("inf"), float("-inf"), float("nan"), 0.5, -1.5]
TEXTS = ["", "\x00", "\x1b[2J", "\ud800", "..", "../../etc/passwd", "/dev/zero", "a" * 3000,
         "<script>alert(1)</script>", "\u202e", "encoder", "yes", "9" * 50, "__class__",
         "{{7*7}}", "%s%n"]  # fmt: skip


def nested(depth: int) -> Any:
    """A list in a list in a list …"""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def odd_value(draw: random.Random) -> Any:
    """A JSON value that a reader may not expect."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(EDGES)
    if kind == 1:
        return draw.choice(FLOATS)
    if kind == 2:
        return draw.choice(TEXTS)
    if kind == 3:
        return draw.choice([None, True, False])
    if kind == 4:
        return draw.choice([[], {}, [[]], {"": {}}, [None], {"a": 1}])
    if kind == 5:
        return [draw.randrange(9)] * draw.randrange(1, 50)
    if kind == 6:
        return nested(draw.choice([5, 90, 900]))
    return draw.randrange(-5, 100)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a JSON value."""
    found = [at] if at else []
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        found += places(child, (*at, key))
    return found


def mutate_json(value: Any, ways: list[tuple[Any, ...]], draw: random.Random) -> Any:
    """A copy with one to three values replaced, removed, renamed, doubled or swapped."""
    changed = json.loads(json.dumps(value))  # five times as fast as deepcopy
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        way = draw.choice(ways)
        try:
            parent = changed
            for key in way[:-1]:
                parent = parent[key]
            _change(parent, way[-1], changed, ways, draw)
        except (KeyError, IndexError, TypeError, AttributeError, RecursionError):
            continue  # an earlier change took that place away
    return changed


def _change(parent: Any, key: Any, whole: Any, ways: Any, draw: random.Random) -> None:
    kind = draw.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == 1:
        parent[draw.choice(TEXTS)] = parent.pop(key)
    elif kind == 2:
        other = whole
        for step in draw.choice(ways):
            other = other[step]
        parent[key] = copy.deepcopy(other)
    elif kind == 3 and isinstance(parent[key], int | float):
        parent[key] = draw.choice([parent[key] + 1, -parent[key], parent[key] * 2**40])
    else:
        parent[key] = odd_value(draw)


def dump(value: Any) -> bytes | None:
    """JSON bytes with NaN and lone surrogates as they come; None where it cannot be written."""
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return None


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip, cut, splice, double or overwrite some bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        size = len(changed)
        if not size:
            break
        at, kind = draw.randrange(size), draw.randrange(8)
        length = min(size - at, draw.choice([1, 2, 8, 64, size]))
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at] = draw.randrange(256)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif kind == 5:
            other = draw.randrange(size)
            changed[other : other + length] = changed[at : at + length]
        elif kind == 6:
            number = draw.choice([0, 1, 2**31, 2**63, 2**64 - 1, 2**40])
            changed[at : at + 8] = number.to_bytes(8, "little")
        else:
            changed[at:at] = draw.randbytes(draw.choice([1, 8, 100]))
    return bytes(changed)


def mutate_numbers(text: str, draw: random.Random) -> str:
    """Replace one of the numbers in a text, such as a length, an offset or a count."""
    import re

    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return text
    found = draw.choice(numbers)
    new = draw.choice([*EDGES, int(found[0][:300]) + 1, int(found[0][:300]) * 8, "1e999", '"x"'])
    return text[: found.start()] + str(new) + text[found.end() :]


def mutate_header(data: bytes, draw: random.Random) -> bytes:
    """Edit a safetensors header and set its length right, so that what stands in it is read."""
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].decode()
    for _ in range(draw.choice([1, 1, 2])):
        if draw.random() < 0.6:
            text = mutate_numbers(text, draw)
        else:
            at = draw.randrange(len(text) or 1)
            text = (
                text[:at]
                + draw.choice(['"', "{", "}", ",", ":", "\\u0000", "9", ""])
                + (text[at + draw.choice([0, 1]) :])
            )
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]
