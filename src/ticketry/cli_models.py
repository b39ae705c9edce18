"""Commands on models: ``convert`` and ``pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ticketry import flags
from ticketry.cli_shared import given_options, make_place, print_json, take_place
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(convert)
    app.command()(pretrain)


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A released image checkpoint: safetensors, .pth, .tar.")
    ],
    architecture: Annotated[
        str,
        typer.Option(help="timm's name, such as resnet50; resnet50_cifar gives it a CIFAR stem."),
    ],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    image_size: Annotated[
        int | None, typer.Option(help="Pixels that the model asks for; default: 224 or its own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides weights that are new: a CIFAR stem.")] = 0,
    pixels: Annotated[
        str | None,
        typer.Option(
            help="What it was trained on: imagenet (less ImageNet's mean, by its deviation), half "
            "(-1 to 1) or raw (0 to 1, as simCLR); default: what the layout says."
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Turn a released image checkpoint into a model folder (supervised, simCLR, MoCo, DINO, …)."""
    from ticketry.models.readers import convert as convert_tensors
    from ticketry.models.readers import read_checkpoint
    from ticketry.models.readers.convert import write_folder

    found = convert_tensors(read_checkpoint(checkpoint), architecture, seed=seed, pixels=pixels)
    write_folder(out, found, architecture, checkpoint, image_size)
    if as_json:
        print_json(
            {
                "out": str(out),
                "layout": found.layout,
                "tensors": len(found.state),
                "left_over": list(found.left_over),
                "new": list(found.new),
                "classes": found.classes,
                "pixels": found.pixels,
                "projection": found.objective or None,
                "notes": list(found.notes),
            }
        )
        return
    echo(f"{checkpoint.name}: read as {found.layout}, {len(found.state)} tensors of {architecture}")
    if found.classes:
        echo(f"with its classifier of {found.classes:,} classes")
    if found.projection:
        echo(f"with its projection head, from which {found.objective}/… goes on")
    told = "as you say" if pixels else "as the layout says"
    if not pixels and found.classes and found.pixels == "imagenet":
        told += "; of simCLR's, which have torchvision's names, say --pixels raw"
    echo(f"pixels: {found.pixels}, {told}")
    for note in found.notes:
        echo(f"note: {note}")
    for what, names in (("left over", found.left_over), ("new, drawn from the seed", found.new)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            echo(f"{what}: {', '.join(names[:5])}{more}")
    echo(f"Model: {out}")


def pretrain(
    objective: Annotated[
        str | None, typer.Option(help="simclr | moco | supervised: what is learned of the images.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="An architecture of timm, such as resnet18_cifar_w16 or resnet10t, or a "
            "config.json; its weights are drawn from --seed."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A task of images (fashion-mnist, mnist, …), a folder, or a hub id."),
    ] = None,
    text_column: flags.TextColumn = None,
    label_column: flags.LabelColumn = None,
    data_config: flags.DataConfig = None,
    recipe: flags.RecipeName = None,
    epochs: flags.Epochs = None,
    learning_rate: flags.Rate = None,
    weight_decay: flags.Decay = None,
    batch_size: flags.Batch = None,
    train_samples: flags.Samples = None,
    dtype: flags.Dtype = None,
    image_size: flags.ImageSize = None,
    augment: flags.Augment = None,
    temperature: flags.Temperature = None,
    queue: flags.Queue = None,
    key_momentum: flags.KeyMomentum = None,
    seed: flags.Seed = None,
    stop_at: Annotated[
        float | None,
        typer.Option(
            help="End after this share of the steps, on the schedule of the whole: 0.05 is an "
            "early checkpoint, 0 the weights that the seed draws."
        ),
    ] = None,
    device: flags.Device = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    config: flags.Config = None,
    plan: flags.PlanOnly = False,
    out: flags.Out = None,
    as_json: flags.Json = False,
) -> None:
    """Train a small image model from scratch into a folder that every command takes as --model."""
    options = given_options(locals(), config, own=["stop_at"])
    place = take_place(options, needed=not plan)
    from ticketry.pretrain import build_pretrain_spec, run_pretrain

    place["out"] = place["out"] or Path("plan-only")
    record = run_pretrain(build_pretrain_spec(options), make_place(place, plan))
    if as_json:
        print_json(record if plan else {"out": str(place["out"]), **record})
        return
    if plan:
        return
    loss = record["final_loss"]
    end = "not trained" if loss is None else f"loss {loss:.4f} at the end"
    echo(
        f"Wrote {place['out']}: retrieval {record['validation_score']:.4f} on validation, "
        f"{record['test_score']:.4f} on test; {end}."
    )
    own = record["data"]["source"]
    what = (
        "as the seed draws it" if loss is None else f"pre-trained by {record['objective']} on {own}"
    )
    echo(f"Model: {place['out']} (--model), {what}")
