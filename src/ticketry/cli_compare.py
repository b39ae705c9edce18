"""The command that sets tickets side by side: ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(compare)


def compare(
    tickets: Annotated[
        list[str], typer.Argument(help="Tickets or runs of one base: folders or hub ids.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write one self-contained HTML page here.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.")
    ] = False,
) -> None:
    """Compare tickets: verdicts, score against sparsity, cost, and mask overlap against chance."""
    from ticketry import comparison

    if out is not None:
        from ticketry.report import require_report

        require_report()
    found = comparison.compare(comparison.load_tickets(tickets))
    if out is not None:
        from ticketry.files import write_bytes
        from ticketry.report.comparing import render_comparison

        write_bytes(out, render_comparison(found).encode())
    if as_json:
        echo(json.dumps(found, allow_nan=False))
        return
    for line in comparison.lines(found):
        echo(line)
    if out is not None:
        echo(f"Report: {out}")
