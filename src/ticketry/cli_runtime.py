"""The commands about speed on this machine: ``doctor`` and ``bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from ticketry import flags
from ticketry.cli_shared import note, print_json
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(doctor)
    app.command()(bench)


def doctor(as_json: flags.Json = False) -> None:
    """Say what this machine can use for sparse execution, and why."""
    from ticketry.runtime.doctor import facts, lines

    found = facts()
    if as_json:
        print_json({"facts": [row.to_json() for row in found]})
        return
    for line in lines(found):
        echo(line)


def bench(
    ticket_or_model: Annotated[str, typer.Argument(help="A ticket, or a model with zeros.")],
    revision: flags.Revision = None,
    batch: Annotated[int, typer.Option(help="Examples at once.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens of each.")] = 128,
    threads: Annotated[int | None, typer.Option(help="Default: torch's number.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each model runs, in turns.")] = 15,
    values: Annotated[
        str, typer.Option(help="How kept weights are stored: fp32, bf16 or int8.")
    ] = "fp32",
    as_json: flags.Json = False,
) -> None:
    """Measure dense against sparse on this machine: the whole model, and each layer."""
    from ticketry import speed

    workload = speed.Workload(batch, length, threads, rounds, values)
    found = speed.bench(ticket_or_model, workload, note, revision)
    if as_json:
        print_json(found)
        return
    for line in speed.lines(found):
        echo(line, keep="")
