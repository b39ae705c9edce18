"""Commands on models: ``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ticketry import flags
from ticketry.cli_shared import print_json
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(convert)


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
    as_json: flags.Json = False,
) -> None:
    """Turn a released image checkpoint into a model folder (supervised, simCLR, MoCo, DINO, …)."""
    from ticketry.models.readers import convert as convert_tensors
    from ticketry.models.readers import read_checkpoint
    from ticketry.models.readers.convert import write_folder

    found = convert_tensors(read_checkpoint(checkpoint), architecture, seed=seed)
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
            }
        )
        return
    echo(f"{checkpoint.name}: read as {found.layout}, {len(found.state)} tensors of {architecture}")
    if found.classes:
        echo(f"with its classifier of {found.classes:,} classes")
    for what, names in (("left over", found.left_over), ("new, drawn from the seed", found.new)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            echo(f"{what}: {', '.join(names[:5])}{more}")
    echo(f"Model: {out}")
