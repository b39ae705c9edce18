"""Predictions as a study's records hold them: small, because records are committed.

    classes below 10         a string of digits
    maps of classes          "maps:" and base64 of xz: their sizes as JSON, a line end, their pixels
    boxes of images          "json:" and base64 of xz of their JSON
    anything else            as it is

What is unpacked scores as what was packed; of maps, the deflated text may differ, not its pixels.
"""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ticketry.config import canonical_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAPS, _JSON = "maps:", "json:"
_MOST_BYTES = 1 << 30


def pack(predictions: Sequence[Any]) -> Any:
    """Return a fine-tuning's predictions in the smallest form there is for their kind."""
    if predictions and all(type(p) is int and 0 <= p <= 9 for p in predictions):
        return "".join(map(str, predictions))
    if predictions and all(isinstance(p, list | tuple) for p in predictions):
        if any(isinstance(row, list | tuple) for p in predictions for row in p):
            return _JSON + _squeezed(canonical_json(predictions).encode())
    elif predictions and all(isinstance(p, str) for p in predictions):
        maps = _maps_of(predictions)
        if maps is not None:
            sizes = json.dumps([list(one.shape) for one in maps]).encode()
            pixels = b"".join(one.tobytes() for one in maps)
            return _MAPS + _squeezed(sizes + b"\n" + pixels)
    return predictions


def unpack(stored: Any) -> list[Any]:
    """Return what :func:`pack` was given.

    Raises:
        ValueError: it is nothing that it returns.
    """
    if not isinstance(stored, str):
        return list(stored)
    if stored.startswith(_JSON):
        found = json.loads(_plain(stored.removeprefix(_JSON)))
        if not isinstance(found, list):
            raise ValueError("not a list")
        return found
    if stored.startswith(_MAPS):
        return _texts(_plain(stored.removeprefix(_MAPS)))
    if not stored.isdecimal():
        raise ValueError("it is of no known form")
    return [int(digit) for digit in stored]


def _maps_of(texts: Sequence[str]) -> list[NDArray[np.uint8]] | None:
    from ticketry.errors import InputError
    from ticketry.metrics.maps import decode_map

    try:
        return [decode_map(text) for text in texts]
    except InputError:
        return None


def _texts(content: bytes) -> list[Any]:
    import numpy as np

    from ticketry.metrics.maps import encode_map

    head, _, pixels = content.partition(b"\n")
    found, start = [], 0
    for height, width in json.loads(head):
        end = start + height * width
        found.append(encode_map(np.frombuffer(pixels[start:end], np.uint8).reshape(height, width)))
        start = end
    if start != len(pixels):
        raise ValueError(f"{len(pixels)} pixels where {start} were expected")
    return found


def _squeezed(content: bytes) -> str:
    return base64.b64encode(lzma.compress(content, preset=9)).decode()


def _plain(text: str) -> bytes:
    reader = lzma.LZMADecompressor()
    try:
        # A bomb is not unpacked to see that it is too large.
        content = reader.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    except (ValueError, lzma.LZMAError) as error:
        raise ValueError(f"it is not base64 of xz: {error}") from error
    if not reader.eof:
        raise ValueError("it is cut short or too large")
    return content
