"""The command on linear mode connectivity: ``connect``."""

from __future__ import annotations

from typing import Annotated

import typer

from ticketry import flags
from ticketry.cli_shared import given_options, make_place, print_json, take_place
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(connect)


def connect(
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
    replicates: Annotated[
        int | None, typer.Option(help="Trainings an arm, each with noise of its own; default 2.")
    ] = None,
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
    plan: flags.PlanOnly = False,
    out: flags.Out = None,
    store: flags.StoreFolder = None,
    as_json: flags.Json = False,
) -> None:
    """Say whether a ticket and the dense model are stable to SGD noise (error barrier)."""
    options = given_options(locals(), config)
    place = take_place(options, needed=not plan)
    from pathlib import Path

    from ticketry.connecting import connect_lines, run_connect
    from ticketry.ticket import Ticket

    place["out"] = place["out"] or Path("plan-only")
    done = run_connect(Ticket.from_pretrained(ticket), options, make_place(place, plan))
    if done.record is None:
        if as_json:
            print_json(done.plan)
        return
    if as_json:
        print_json({"out": str(done.out), **done.record})
        return
    for line in connect_lines(done.record):
        echo(line)
    echo(f"Record: {done.out / 'connectivity.json'}")
