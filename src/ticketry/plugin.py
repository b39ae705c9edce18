"""Make transformers know packed models, whichever of the two is imported first; imports neither.

transformers keeps its quantisation methods in two dicts of one module. ``import ticketry`` adds to
them at once where that module is loaded already; else when it is, by one entry on
``sys.meta_path`` that answers for this single name, and leaves when it has been asked.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HOME = "transformers.quantizers.auto"


def install() -> None:
    """Register packed models now, or as soon as transformers is there."""
    if HOME in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:  # no importlib.abc.MetaPathFinder: importing that costs more than all of ticketry
    """Finds the one module as it would have been found, and has the rest done after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != HOME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader  # of this module alone
            execute = loader.exec_module

            def then_register(module: ModuleType) -> None:
                execute(module)
                _register()

            loader.exec_module = then_register
        return spec


def _register() -> None:
    try:
        import ticketry.packed.quantizer  # noqa: F401  it registers itself
    except Exception as error:  # transformers must go on working, whatever its version
        warnings.warn(
            f"this transformers cannot load ticketry's packed models: {error}", stacklevel=2
        )
