"""Runs in a child process, which may use the hub: ticketry's commands and calls, one after another.

Reads a JSON list from standard input: ``["cli", [arguments]]`` or ``["py", "statements"]``; prints
for each what it wrote, its exit code, and the value that ``py`` gave ``result``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from ticketry import cli
from ticketry.errors import TicketryError


def command(arguments: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["ticketry", *arguments]
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def statements(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    try:
        exec(text, names)
    except TicketryError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return {"result": names.get("result")}


answers = [
    command(what) if kind == "cli" else statements(what) for kind, what in json.load(sys.stdin)
]
print(json.dumps(answers))
