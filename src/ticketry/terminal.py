"""Text for a terminal: what a stranger wrote cannot move the cursor, recolour or overwrite it."""

from __future__ import annotations


def printable(text: str, keep: str = "\n\t") -> str:
    """Return the text with control, format and lone surrogate characters replaced.

    Args:
        text: of any origin.
        keep: control characters that stay.
    """
    if text.isprintable():
        return text
    mark = "\N{REPLACEMENT CHARACTER}"
    return "".join(c if c.isprintable() or c in keep else mark for c in text)


def echo(text: str, *, err: bool = False, keep: str = "\n\t") -> None:
    """Print to standard output, or standard error, what :func:`printable` leaves of a text."""
    import typer

    typer.echo(printable(text, keep), err=err)
