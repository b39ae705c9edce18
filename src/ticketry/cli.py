"""The command line: options in, one call of :mod:`ticketry.api`, words or one JSON object out.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once. Progress and
notes go to standard error; standard output holds the result alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ticketry import (
    __version__,
    cli_compare,
    cli_connect,
    cli_models,
    cli_packed,
    cli_runtime,
    cli_study,
    cli_tickets,
    flags,
)
from ticketry.cli_shared import given_options, make_place, note, print_json, take_place
from ticketry.errors import TicketryError
from ticketry.parallel import launched
from ticketry.terminal import echo

app = typer.Typer(
    name="ticketry",
    help="Find, verify and keep winning lottery tickets in pre-trained models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(shown: bool) -> None:
    if shown:
        echo(f"ticketry {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def find(
    model: flags.Model = None,
    revision: flags.Revision = None,
    task: flags.Task = None,
    data: flags.Data = None,
    text_column: flags.TextColumn = None,
    text_pair_column: flags.PairColumn = None,
    label_column: flags.LabelColumn = None,
    label_columns: flags.LabelColumns = None,
    objective: flags.Objective = None,
    data_config: flags.DataConfig = None,
    test_data: flags.TestData = None,
    test_split: flags.TestSplit = None,
    sparsity: flags.Sparsity = None,
    method: flags.Method = None,
    source: flags.Source = None,
    levels: flags.Levels = None,
    rate: flags.RoundRate = None,
    rate_of: flags.RateOf = None,
    grid: flags.Grid = None,
    rewind: flags.Rewind = None,
    rewind_step: flags.RewindStep = None,
    start: flags.Start = None,
    criterion: flags.Criterion = None,
    pattern: flags.Pattern = None,
    allocation: flags.Allocation = None,
    layer_densities: flags.LayerDensities = None,
    min_layer_density: flags.FloorDensity = None,
    calibration_batches: flags.Calibration = None,
    gradual_start: flags.GradualStart = None,
    gradual_end: flags.GradualEnd = None,
    gradual_updates: flags.GradualUpdates = None,
    scope: flags.Scope = None,
    replicates: flags.Replicates = None,
    controls: flags.Controls = None,
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
    seed: flags.Seed = None,
    device: flags.Device = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    keep_model: flags.Keep = False,
    config: flags.Config = None,
    plan: flags.PlanOnly = False,
    out: flags.Out = None,
    store: flags.StoreFolder = None,
    as_json: flags.Json = False,
) -> None:
    """Find a ticket, verify it with replicates and controls, and keep it."""
    options = given_options(locals(), config)
    place = take_place(options)
    from ticketry.options import build_find_spec

    spec = build_find_spec(options)
    from ticketry.jobs import default_out, run_find

    place["out"] = place["out"] or default_out(spec)
    _show_result(run_find(spec, make_place(place, plan)), as_json)


@app.command()
def verify(
    ticket: Annotated[str, typer.Argument(help="A ticket's folder or hub id.")],
    task: flags.Task = None,
    data: flags.Data = None,
    text_column: flags.TextColumn = None,
    text_pair_column: flags.PairColumn = None,
    label_column: flags.LabelColumn = None,
    label_columns: flags.LabelColumns = None,
    objective: flags.Objective = None,
    data_config: flags.DataConfig = None,
    test_data: flags.TestData = None,
    test_split: flags.TestSplit = None,
    model: flags.Model = None,
    revision: flags.Revision = None,
    replicates: Annotated[int | None, typer.Option(help="Fine-tunings an arm; default 5.")] = None,
    controls: flags.Controls = None,
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
    seed: flags.Seed = None,
    device: flags.Device = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    keep_model: flags.Keep = False,
    config: flags.Config = None,
    plan: flags.PlanOnly = False,
    out: flags.Out = None,
    store: flags.StoreFolder = None,
    as_json: flags.Json = False,
) -> None:
    """Verify a ticket on a task by fresh replicates and controls."""
    options = given_options(locals(), config)
    place = take_place(options, needed=not plan)
    from ticketry.jobs import run_verify
    from ticketry.ticket import Ticket

    place["out"] = place["out"] or Path("plan-only")
    loaded = Ticket.from_pretrained(ticket)
    _show_result(run_verify(loaded, options, make_place(place, plan)), as_json)


@app.command()
def train(
    ticket: Annotated[str, typer.Argument(help="A ticket's folder or hub id.")],
    task: flags.Task = None,
    data: flags.Data = None,
    text_column: flags.TextColumn = None,
    text_pair_column: flags.PairColumn = None,
    label_column: flags.LabelColumn = None,
    label_columns: flags.LabelColumns = None,
    objective: flags.Objective = None,
    data_config: flags.DataConfig = None,
    test_data: flags.TestData = None,
    test_split: flags.TestSplit = None,
    model: flags.Model = None,
    revision: flags.Revision = None,
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
    seed: flags.Seed = None,
    device: flags.Device = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    config: flags.Config = None,
    out: flags.Out = None,
    as_json: flags.Json = False,
) -> None:
    """Fine-tune a ticket into a sparse model that plain transformers loads."""
    options = given_options(locals(), config)
    place = take_place(options, needed=True)
    from ticketry.jobs import run_train
    from ticketry.ticket import Ticket

    record = run_train(Ticket.from_pretrained(ticket), options, make_place(place))
    if as_json:
        print_json({"out": str(place["out"]), **record})
        return
    from ticketry.tasks.objectives import loader_of

    echo(
        f"Wrote {place['out']}: a sparse model, "
        f"validation {record['validation_score']:.4f}, test {record['test_score']:.4f}.\n"
        f"Load it with {loader_of(record['objective'])}({str(place['out'])!r})."
    )


@app.command()
def inspect(
    model_or_ticket: Annotated[str, typer.Argument(help="A model or a ticket.")],
    revision: flags.Revision = None,
    scope: Annotated[list[str] | None, typer.Option(help="As in find.")] = None,
    as_json: flags.Json = False,
) -> None:
    """Say what is prunable in a model, or what a ticket keeps."""
    from ticketry.describe import inspect_lines, inspect_target

    found = inspect_target(model_or_ticket, revision, tuple(scope or ("encoder",)), note)
    if as_json:
        print_json(found)
        return
    for line in inspect_lines(found):
        echo(line, keep="")


@app.command()
def tasks(as_json: flags.Json = False) -> None:
    """List the named tasks."""
    from ticketry.config import PRETRAINING
    from ticketry.tasks.registry import TASKS

    rows = [
        {
            "name": t.name,
            "description": t.description,
            "objective": t.objective,
            "metric": t.metric,
            "margin": t.margin,
            "unavailable": t.unavailable(),
        }
        for t in TASKS.values()
    ]
    if as_json:
        print_json({"tasks": rows})
        return
    images = dict.fromkeys(
        str(row["name"]).partition("/")[2] for row in rows if row["objective"] in PRETRAINING
    )
    for row in rows:
        if row["objective"] in PRETRAINING:
            continue
        missing = f" [unavailable: {row['unavailable']}]" if row["unavailable"] else ""
        line = f"{row['name']:<20} {row['metric']:<11} ±{row['margin']:<6} {row['description']}"
        echo(line + missing)
    echo(f"{', '.join(f'{name}/…' for name in PRETRAINING)}: pre-training on {', '.join(images)}")


@app.command()
def models(as_json: flags.Json = False) -> None:
    """List the packaged model and the supported architectures."""
    from ticketry.describe import model_rows

    rows = model_rows()
    if as_json:
        print_json(rows)
        return
    for packaged in rows["packaged"]:
        echo(f"{packaged['name']:<12} {packaged['description']}")
    echo("Any Hugging Face folder or hub id of these architectures (model_type: scopes):")
    for family in rows["families"]:
        echo(f"{family['model_type']:<12} {', '.join(family['scopes'])}")


cli_tickets.register(app)
cli_compare.register(app)
cli_connect.register(app)
cli_study.register(app)
cli_runtime.register(app)
cli_models.register(app)
cli_packed.register(app)


INTERRUPTED = 130


def _show_result(result: Any, as_json: bool) -> None:
    ticket, out = result.ticket, result.out
    if ticket is None:
        if as_json:
            print_json(result.plan)
        return
    from ticketry.runs import REPORT_FILE, TICKET_FOLDER

    paths = {"ticket": str(out / TICKET_FOLDER), "report": str(out / REPORT_FILE)}
    if as_json:
        print_json({"out": str(out), **paths, "evidence": ticket.evidence})
        return
    for sentence in ticket.verdict.sentences():
        echo(sentence)
    for warning in ticket.evidence["warnings"]:
        echo(f"Warning: {warning}")
    echo(f"Ticket: {paths['ticket']}\nReport: {paths['report']}")


def main() -> None:
    """Run the command line; errors become one message and an exit code, never a traceback."""
    try:
        several = launched() > 1
    except TicketryError as error:
        sys.exit(_show_error(error))
    if several:
        from ticketry.launch import exit_launched

        exit_launched(_run)
    sys.exit(_run())


def _run() -> int:
    code: Any
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except TicketryError as error:
        code = _show_error(error)
    except Exception as error:
        code = _usage_error(error)
    if code == INTERRUPTED:  # typer may have turned Ctrl-C into this code by itself
        echo("interrupted; what was finished is kept, the same command continues.", err=True)
    return code if isinstance(code, int) else 0


def _show_error(error: TicketryError) -> int:
    echo(f"error: {error}", err=True)
    return error.exit_code


def _usage_error(error: Exception) -> int:
    """Show a fault of the command line's own grammar; anything else is a bug and is raised."""
    if launched() > 1 and isinstance(error, RuntimeError):
        from ticketry.launch import reason_of

        if (reason := reason_of(error)) is not None:
            return _show_error(reason)
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
