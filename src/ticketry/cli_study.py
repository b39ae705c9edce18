"""The command that runs declared grids: ``study``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ticketry import flags
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(study)


def study(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN.yaml", help="A declared grid; see studies/.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The study's folder; by default runs/study-NAME-HASH.")
    ] = None,
    store: flags.StoreFolder = None,
    workers: flags.Workers = None,
    max_hours: Annotated[
        float | None,
        typer.Option(help="Begin no training after so many hours; the same command goes on."),
    ] = None,
    plan: flags.PlanOnly = False,
    nominal: Annotated[
        bool,
        typer.Option(help="With --plan: price by the sizes the plan states; nothing is loaded."),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(help="Sustained TFLOP/s of the machine to price for; by default this one's."),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Run a declared grid of searches, fine-tunings and controls, or go on with it."""
    from ticketry.studies.planfile import read_plan

    spec = read_plan(plan_file)
    from ticketry.console import ConsoleEvents
    from ticketry.studies.running import PAGE_FILE, StudyPlace, run_study

    folder = out or Path("runs") / f"study-{spec.study}-{spec.fingerprint[:8]}"
    place = StudyPlace(
        folder,
        store,
        workers,
        max_hours,
        ConsoleEvents(),
        lambda line: echo(line, err=True),
        plan,
        nominal,
        None if tflops is None else tflops * 1e12,
    )
    result = run_study(spec, place)
    if as_json:
        found = {"out": str(folder), "complete": result.complete, "price": result.price}
        echo(json.dumps({**found, "summary": result.summary}, allow_nan=False))
        return
    if plan:
        return
    echo((folder / PAGE_FILE).read_text(encoding="utf-8"))
    if not result.complete:
        echo("Not all of it is measured yet; the same command goes on.")
    echo(f"Records: {folder}")
    sys.stdout.flush()
