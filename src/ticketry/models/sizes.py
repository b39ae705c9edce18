"""Sizes in a stranger's ``config.json``, held against its weights before anything is built.

A model is built before its weights are read, so a file of a few bytes could ask for any memory (a
table of positions) or any time (a billion layers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ticketry.errors import ModelError

ALWAYS_ALLOWED = 1 << 24
"""Sizes below this need no weights to go with them: rotary positions, window lengths, seeds."""
LAYERS_ALWAYS_ALLOWED = 1024
_LAYERS = re.compile(r"(^|_)(num_|n_)?(hidden_|encoder_|decoder_)?(layers?|depths?|blocks)$")


def check_sizes(name: str, config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a configuration of sizes that the folder's weights cannot have.

    Args:
        name: of the model, for the message.
        config: its ``config.json``.
        folder: holds its weights as safetensors.

    Raises:
        ModelError: names the size.
    """
    # A weight takes half a byte at least, so no axis is longer than twice the files' bytes.
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())
    most = max(ALWAYS_ALLOWED, 2 * size)
    for key, value in _numbers(config):
        limit = LAYERS_ALWAYS_ALLOWED if _LAYERS.search(key) else most
        if abs(value) > limit:
            raise ModelError(
                f"config.json of {name!r} has {key[:60]!r} = {value:.4g}; expected sizes that its "
                f"weights can have ({size:,} bytes), at most {limit:,}. Nothing was loaded."
            )


def _numbers(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield key, value
    elif depth < 8 and isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, str(name), depth + 1)
    elif depth < 8 and isinstance(value, list):
        for item in value:
            yield from _numbers(item, key, depth + 1)
