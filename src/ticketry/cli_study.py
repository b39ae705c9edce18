"""The commands that run grids: ``study`` (a declared one) and ``transfer`` (of tickets)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ticketry import flags
from ticketry.errors import ConfigError
from ticketry.recipes import FIELD_OF_OPTION
from ticketry.terminal import echo

MaxHours = Annotated[
    float | None,
    typer.Option(help="Begin no training after so many hours; the same command goes on."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(study)
    app.command()(transfer)


def study(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN.yaml", help="A declared grid; see studies/.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The study's folder; by default runs/study-NAME-HASH.")
    ] = None,
    store: flags.StoreFolder = None,
    workers: flags.Workers = None,
    max_hours: MaxHours = None,
    plan: flags.PlanOnly = False,
    nominal: Annotated[
        bool,
        typer.Option(
            help="With --plan: price by the sizes the plan states; nothing is loaded, and the time "
            "is left out without --tflops."
        ),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(help="Sustained TFLOP/s of the machine to price for; by default this one's."),
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Another study's folder: what it measured of the same steps counts as done. "
            "May be given several times.",
        ),
    ] = None,
    keep_masks: Annotated[
        bool,
        typer.Option(
            "--keep-masks",
            help="Keep the masks that fine-tunings and overlaps read beside the records, so that "
            "a lost store costs no search again.",
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="Run and show the cells of this target alone, this time; `*` stands for any "
            "letters. May be given several times.",
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Run a declared grid of searches, fine-tunings and controls, or go on with it."""
    from ticketry.studies.planfile import read_plan

    spec = read_plan(plan_file)
    from ticketry.studies.running import StudyPlace, run_study

    folder = out or Path("runs") / f"study-{spec.study}-{spec.fingerprint[:8]}"
    place = StudyPlace(
        folder,
        store,
        workers,
        max_hours,
        _events(),
        _note,
        plan,
        nominal,
        None if tflops is None else tflops * 1e12,
        tuple(records or ()),
        keep_masks,
        tuple(only or ()),
    )
    _show(run_study(spec, place), folder, plan, as_json)


def transfer(
    tickets: Annotated[list[str], typer.Argument(help="Tickets of one base: folders or hub ids.")],
    tasks: Annotated[str, typer.Option(help="Names of tasks, separated by commas.")] = "",
    model: flags.Model = None,
    revision: flags.Revision = None,
    fine_tunings: Annotated[
        int, typer.Option(help="Of each ticket on each task; also of dense.")
    ] = 3,
    same_task: Annotated[
        bool,
        typer.Option(help="Also search each task's own ticket at the same sparsity."),
    ] = True,
    recipe: flags.RecipeName = None,
    epochs: flags.Epochs = None,
    learning_rate: flags.Rate = None,
    weight_decay: flags.Decay = None,
    batch_size: flags.Batch = None,
    max_length: flags.Length = None,
    train_samples: flags.Samples = None,
    dtype: flags.Dtype = None,
    image_size: flags.ImageSize = None,
    augment: flags.Augment = None,
    detector: flags.Detector = None,
    detections_per_image: flags.Detections = None,
    temperature: flags.Temperature = None,
    queue: flags.Queue = None,
    key_momentum: flags.KeyMomentum = None,
    seed: Annotated[int, typer.Option(help="Decides heads, data order and dropout.")] = 1,
    device: flags.Device = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    max_hours: MaxHours = None,
    plan: flags.PlanOnly = False,
    out: flags.Out = None,
    store: flags.StoreFolder = None,
    as_json: flags.Json = False,
) -> None:
    """Fine-tune tickets on other tasks, against dense and against each task's own ticket."""
    given = locals()
    names = ("model", "revision", "recipe", *FIELD_OF_OPTION, "device", "threads")
    options = {name: given[name] for name in names if given[name] is not None}
    if out is None and not plan:
        raise ConfigError("--out is missing; give the folder to write to.")
    from ticketry.options import as_names
    from ticketry.studies.running import StudyPlace
    from ticketry.studies.transfer import Wanted, run_transfer
    from ticketry.ticket import Ticket

    folder = out or Path("plan-only")
    place = StudyPlace(folder, store, workers, max_hours, _events(), _note, plan)
    wanted = Wanted(as_names(tasks), options, fine_tunings, same_task, seed)
    loaded = {name: Ticket.from_pretrained(name) for name in tickets}
    _show(run_transfer(loaded, wanted, place), folder, plan, as_json)


def _events() -> Any:
    from ticketry.console import ConsoleEvents

    return ConsoleEvents()


def _note(line: str) -> None:
    echo(line, err=True)


def _show(result: Any, folder: Path, plan: bool, as_json: bool) -> None:
    if as_json:
        found = {"out": str(folder), "complete": result.complete, "price": result.price}
        echo(json.dumps({**found, "summary": result.summary}, allow_nan=False))
        return
    if plan:
        return
    from ticketry.studies.running import PAGE_FILE

    echo((folder / PAGE_FILE).read_text(encoding="utf-8"))
    if not result.complete:
        echo("Not all of it is measured yet; the same command goes on.")
    echo(f"Records: {folder}")
