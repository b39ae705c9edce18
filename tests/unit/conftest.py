"""What unit tests share."""

from __future__ import annotations

import pytest

from ticketry.runtime import native


@pytest.fixture(params=[*native.library().isas, "none"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set of this machine, forced; ``none``: without the kernel library."""
    if request.param == "none":
        monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/at/all.so")
        monkeypatch.delenv(native.ISA_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(native.ISA_VARIABLE, request.param)
    return str(request.param)
