"""The verbs in Python: find, verify, train, connect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ticketry.connecting import run_connect
from ticketry.execute import Events
from ticketry.jobs import Place, default_out, run_find, run_train, run_verify
from ticketry.options import build_find_spec
from ticketry.ticket import Ticket


def find(
    model: str,
    task: str | None = None,
    *,
    out: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = None,
    events: Events | None = None,
    **options: Any,
) -> Ticket:
    """Find a ticket, verify it, and keep it in a run's folder.

    Args:
        model: ``"minilm"``, a folder in Hugging Face's layout, or a hub id.
        task: a name that ``ticketry tasks`` lists; or give ``data=``, ``text_column=`` and
            ``label_column=`` for a file or hub dataset.
        out: the run's folder; by default ``runs/find-`` and the spec's fingerprint. The same call
            continues a run that was interrupted, and returns at once when it is finished.
        store: shared outputs of steps; by default inside ``out``.
        workers: trainings side by side; by default one a core; 0 trains in this process.
        events: told what happens; by default nobody.
        options: as on the command line, with ``_``: ``sparsity=0.4``, ``method="imp"``,
            ``levels=2``, ``replicates=3``, ``controls="random-layerwise"``, ``scope="encoder"`` …
            (``--from`` is ``source=``).
    Returns:
        The ticket with its evidence; ``ticket.verdict`` may be negative or inconclusive.

    Raises:
        InputError: a fault of the options, the model, the data or the folder.
        TrainingError: a loss that is not finite; the run stays resumable.
    """
    spec = build_find_spec({"model": model, "task": task, **options})
    folder = Path(out) if out is not None else default_out(spec)
    place = Place(folder, None if store is None else Path(store), workers, events)
    ticket = run_find(spec, place).ticket
    assert ticket is not None
    return ticket


def verify(
    ticket: Ticket | str | Path,
    task: str | None = None,
    *,
    out: str | Path,
    store: str | Path | None = None,
    workers: int | None = None,
    events: Events | None = None,
    **options: Any,
) -> Ticket:
    """Verify a ticket on a task by fresh replicates and controls.

    Args:
        ticket: a ticket, its folder or its hub id.
        task: as in :func:`find`; likewise ``data=`` and its columns.
        out: the run's folder; gets the ticket with the new evidence, and a report.
        store: shared outputs of steps.
        workers: trainings side by side.
        events: told what happens.
        options: ``replicates`` (default 5), ``controls``, ``seed`` and the recipe's options.
    Returns:
        The ticket with the new evidence.

    Raises:
        InputError: as in :func:`find`; also seeds that the ticket's search has used.
    """
    place = Place(Path(out), None if store is None else Path(store), workers, events)
    verified = run_verify(_loaded(ticket), {"task": task, **options}, place).ticket
    assert verified is not None
    return verified


def train(
    ticket: Ticket | str | Path,
    task: str | None = None,
    *,
    out: str | Path,
    workers: int | None = None,
    events: Events | None = None,
    **options: Any,
) -> Mapping[str, Any]:
    """Fine-tune a ticket and write a sparse model that plain transformers loads.

    Args:
        ticket: a ticket, its folder or its hub id.
        task: as in :func:`find`; likewise ``data=`` and its columns.
        out: the model's folder: weights, head, tokenizer, label names. A run that was cut short
            continues from ``OUT.work``, which is removed at the end.
        workers: 0 trains in this process, any other number in one of its own.
        events: told what happens.
        options: ``seed`` and the recipe's options.
    Returns:
        The training's record: ``validation_score``, ``test_score``, ``seed``, ``mask_digest`` ….

    Raises:
        InputError: as in :func:`find`.
    """
    place = Place(Path(out), workers=workers, events=events)
    return run_train(_loaded(ticket), {"task": task, **options}, place)


def connect(
    ticket: Ticket | str | Path,
    task: str | None = None,
    *,
    out: str | Path,
    store: str | Path | None = None,
    workers: int | None = None,
    events: Events | None = None,
    **options: Any,
) -> Mapping[str, Any]:
    """Measure linear mode connectivity: is a ticket stable to SGD noise, and is the dense model?

    Args:
        ticket: a ticket, its folder or its hub id.
        task: as in :func:`find`; likewise ``data=`` and its columns.
        out: the run's folder; gets ``connectivity.json``. The same call continues a run that was
            interrupted, and returns at once when it is finished.
        store: shared outputs of steps; keeps the weights of every training.
        workers: trainings side by side.
        events: told what happens.
        options: ``replicates`` (default 2), ``seed`` and the recipe's options.
    Returns:
        The record; ``record["arms"]["ticket"]`` and ``["dense"]`` have ``barrier``, in the
        metric's own unit, ``stable``, and the scores along each line.

    Raises:
        InputError: as in :func:`verify`; also a model with batch normalisation.
    """
    place = Place(Path(out), None if store is None else Path(store), workers, events)
    record = run_connect(_loaded(ticket), {"task": task, **options}, place).record
    assert record is not None
    return record


def _loaded(ticket: Ticket | str | Path) -> Ticket:
    return ticket if isinstance(ticket, Ticket) else Ticket.from_pretrained(ticket)
