"""The commands that write a sparse model for others: ``pack`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ticketry import flags
from ticketry.cli_shared import note, print_json
from ticketry.terminal import echo


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(pack)
    app.command()(export)


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


def export(
    model_or_ticket: Annotated[
        str, typer.Argument(help="A sparse model, packed or not; or a ticket: its base, masked.")
    ],
    to: Annotated[str, typer.Option(help="The target: onnx.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    revision: flags.Revision = None,
    as_json: flags.Json = False,
) -> None:
    """Write a sparse model for another runtime, and compare its outputs there."""
    from ticketry import export as exporting

    found = exporting.export(model_or_ticket, out, to=to, revision=revision, say=note)
    if as_json:
        print_json({"out": str(out), **found.to_json()})
        return
    echo(
        f"Wrote {out}. Outputs ({', '.join(found.outputs)}) differ from torch's by at most "
        f"{found.largest_difference:.1e}, where the largest is {found.largest_output:.1e}."
    )
    packed = "nothing is pruned" if found.packed_bytes is None else f"{found.packed_bytes:,}"
    echo(
        f"Bytes: exported {found.file_bytes:,}; dense {found.dense_bytes:,}; packed by "
        f"`ticketry pack` {packed}."
    )
    echo(
        f"{found.zeros:.1%} of the matrices are zeros, and ONNX Runtime stores and multiplies them "
        "like other numbers: it is neither smaller nor faster for them. `ticketry pack` and "
        "`accelerate` are."
    )
