"""The form that JSON from a stranger must have before anything is read from it; torch-free.

A form is a type, a :class:`Number`, a :class:`Whole`, ``[form]`` for a list, ``{...: form}`` for an
object of any names, ``{"name": form, "name?": form}`` for one of these names (others may stand
beside them; a question mark: may be missing), or a tuple of forms of which one must fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SHOWN = 60


@dataclass(frozen=True)
class Number:
    """A finite number whose size is at most ``most``; whole ones count, booleans do not."""

    most: float = 1e15

    def fits(self, value: Any) -> bool:
        """Say whether ``value`` is such a number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) <= self.most  # which NaN and the infinities are not

    def __str__(self) -> str:
        return "a finite number"


@dataclass(frozen=True)
class Whole:
    """A whole number in [least, most], no boolean."""

    least: int = 0
    most: int = 2**62

    def fits(self, value: Any) -> bool:
        """Say whether ``value`` is such a number."""
        return type(value) is int and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number of at least {self.least}"


Form = Any
"""See the module's docstring."""

_NAMES = {str: "text", bool: "true or false", type(None): "null", dict: "an object", list: "a list"}


def faults_of(value: Any, form: Form, *, most: int = 3) -> list[str]:
    """Return what does not fit, in words; empty if all does.

    Args:
        value: as ``json.loads`` returns it.
        form: what it must be like.
        most: no more faults than this are looked for.
    """
    return list(itertools.islice(_faults(value, form, ""), most))


def _faults(value: Any, form: Form, at: str) -> Iterator[str]:
    if isinstance(form, tuple):
        if all(faults_of(value, choice, most=1) for choice in form):
            yield _wrong(value, " or ".join(map(_said, form)), at)
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield _wrong(value, "a list", at)
            return
        for index, item in enumerate(value):
            yield from _faults(item, form[0], f"{at}[{index}]")
    elif isinstance(form, dict):
        if not isinstance(value, dict):
            yield _wrong(value, "an object", at)
            return
        for name, item_form in form.items():
            if name is ...:
                for key, item in value.items():
                    yield from _faults(item, item_form, _join(at, str(key)[:_SHOWN]))
                continue
            key = name.removesuffix("?")
            if key in value:
                yield from _faults(value[key], item_form, _join(at, key))
            elif key == name:
                yield f"{_join(at, key)!r} is missing"
    elif isinstance(form, Number | Whole):
        if not form.fits(value):
            yield _wrong(value, str(form), at)
    elif not isinstance(value, form):
        yield _wrong(value, _said(form), at)


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _said(form: Form) -> str:
    return _NAMES.get(form, str(form)) if isinstance(form, type) else str(form)


def _wrong(value: Any, expected: str, at: str) -> str:
    if isinstance(value, dict | list):
        found = _NAMES[type(value)]  # its repr may be of any size or depth
    elif isinstance(value, int) and abs(value) > 2**64:
        found = "a huge number"
    else:
        found = repr(value)
    found = found if len(found) <= _SHOWN else found[:_SHOWN] + "…"
    return f"{at or 'the whole'!r} is {found}; expected {expected}"
