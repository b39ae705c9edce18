"""The public names and their signatures are frozen: a change shows here before users meet it.

After a wanted change: ``python tests/unit/test_public_api.py`` writes the file anew.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import ticketry

FROZEN = Path(__file__).parent / "public_api.txt"


def public_api() -> str:
    """Return a line for each public name, and for each public method of a class."""
    lines = []
    for name in sorted(ticketry.__all__):
        value = getattr(ticketry, name)
        if inspect.isclass(value):
            lines.append(f"class {name}{_signature(value)}")
            for attribute in sorted(vars(value)):
                if not attribute.startswith("_"):
                    lines.append(f"    {_member(attribute, vars(value)[attribute])}")
        elif callable(value):
            lines.append(f"def {name}{_signature(value)}")
        else:
            lines.append(f"{name}: {type(value).__name__}")
    return "\n".join(lines) + "\n"


def _member(name: str, value: Any) -> str:
    if isinstance(value, property):
        return f"property {name}"
    if isinstance(value, classmethod | staticmethod):
        return f"{type(value).__name__} {name}{_signature(value.__func__)}"
    if inspect.isfunction(value):
        return f"def {name}{_signature(value)}"
    return name


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value))
    except ValueError:
        return "(…)"


def test_the_public_names_are_as_frozen() -> None:
    assert public_api() == FROZEN.read_text(encoding="utf-8")


def test_a_changed_signature_would_show() -> None:
    assert "def find(model: 'str', task: 'str | None' = None, *" in public_api()
    assert "    classmethod from_pretrained(cls, " in public_api()


def test_a_name_that_is_not_public() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fnid'"):
        _ = ticketry.fnid


if __name__ == "__main__":
    FROZEN.write_text(public_api(), encoding="utf-8")
    print(f"wrote {FROZEN}")
