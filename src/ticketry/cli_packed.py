"""The commands that write a sparse model for others: ``pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ticketry import flags
from ticketry.cli_shared import print_json
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(pack)


def pack(
    model_folder: Annotated[str, typer.Argument(help="A sparse model, as `train` writes it.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    values: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16 or int8; default: as they are.")
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Write a sparse model as masks and kept values, which transformers loads."""
    from ticketry.packed.packer import pack_folder

    found = pack_folder(model_folder, out, values)
    if as_json:
        print_json({"out": str(out), **found.to_json()})
        return
    echo(
        f"{found.tensors} pruned matrices, {found.sparsity:.1%} sparse: {found.pruned_bytes:,} "
        f"bytes; masks at least {found.entropy_bytes:,} (entropy) and values "
        f"{found.value_bytes:,}: ratio {found.ratio:.4f}"
    )
    echo(
        f"Wrote {out}: {found.file_bytes:,} bytes, {found.other_bytes:,} of them other weights; "
        f"dense {found.dense_bytes:,}."
    )
    echo(f"Load it with ticketry.load_packed({str(out)!r}), or `import ticketry` and AutoModel.")
