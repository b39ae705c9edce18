"""The commands for tickets that are kept or shared: ``list``, ``push`` and ``pull``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ticketry.terminal import echo

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
RepoId = Annotated[str, typer.Argument(help="On the hub, USER/NAME.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("list")(list_)
    app.command()(push)
    app.command()(pull)


def list_(
    dir_or_hub_user: Annotated[str, typer.Argument(help="A folder, or a user of the hub.")],
    as_json: Json = False,
) -> None:
    """List tickets: base, task, sparsity, verdict, and where they are."""
    from ticketry.shelf import list_tickets, table

    found = list_tickets(dir_or_hub_user)
    for note in found.notes:
        echo(note, err=True)
    if as_json:
        echo(json.dumps({"tickets": [row.to_json() for row in found.rows]}))
        return
    if not found.rows:
        echo(f"no tickets in {dir_or_hub_user}", err=True)
        return
    for line in table(found.rows):
        echo(line)


def push(
    ticket_dir: Annotated[Path, typer.Argument(help="A ticket's folder.")],
    repo_id: RepoId,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of a repository that is made; else as it is."),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; made if need be.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a ticket to the Hugging Face hub (the token: `hf auth login`, or HF_TOKEN)."""
    from ticketry.hub import MESSAGE, Destination
    from ticketry.shelf import local_paths
    from ticketry.shelf import push as push_folder
    from ticketry.terminal import printable

    to = Destination(private, None, message or MESSAGE, revision, create_pr)
    address = push_folder(ticket_dir, repo_id, to)
    for path in local_paths(ticket_dir):
        echo(
            f"note: whoever can read {repo_id} now reads this path of yours: {printable(path)}",
            err=True,
        )
    echo(json.dumps({"commit": address}) if as_json else f"Pushed: {address}")


def pull(
    repo_id: RepoId,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="In the repository.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a ticket from the Hugging Face hub, and check it."""
    from ticketry.shelf import pull as pull_to_folder
    from ticketry.shelf import table

    row = pull_to_folder(repo_id, folder, revision=revision, subfolder=subfolder)
    if as_json:
        echo(json.dumps(row.to_json()))
        return
    for line in table((row,)):
        echo(line)
