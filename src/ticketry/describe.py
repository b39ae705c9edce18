"""What a model or a ticket holds, for ``ticketry inspect`` and ``ticketry models``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ticketry.errors import TicketError


def inspect_target(
    name: str, revision: str | None, scope: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Describe a ticket's folder or hub id, or else a model.

    Args:
        name: a folder, a hub id, or a packaged model's name.
        revision: of the hub id.
        scope: a scope's name or patterns; a ticket has its own.
        say: given a line about a download.
    Returns:
        ``kind``, ``prunable``, ``kept``, ``total_parameters``, ``scope`` and ``tensors`` with
        ``name``, ``shape`` and ``kept``; for a ticket also ``base``, ``task`` and ``verdict``.

    Raises:
        InputError: it is neither, or cannot be loaded.
    """
    from ticketry.ticket import CONFIG_FILE, Ticket

    if (Path(name) / CONFIG_FILE).exists() or _holds_tickets(Path(name), CONFIG_FILE):
        return _ticket(Ticket.from_pretrained(name, revision=revision))
    from ticketry.errors import ModelError

    try:
        return _model(name, revision, scope, say)
    except ModelError:
        if Path(name).exists() or name.count("/") != 1:
            raise
        try:  # a hub id may be a ticket's
            return _ticket(Ticket.from_pretrained(name, revision=revision))
        except TicketError:
            pass
        raise


def _holds_tickets(folder: Path, config_file: str) -> bool:
    """Say whether a folder is a ticket's in the hub's cache: snapshots below it hold tickets."""
    return folder.name.startswith("models--") and any(folder.glob(f"snapshots/*/{config_file}"))


def _ticket(ticket: Any) -> dict[str, Any]:
    mask, base, evidence = ticket.mask, ticket.base, ticket.evidence
    return {
        "kind": "ticket",
        "base": {"name": base.name, "revision": base.revision, "sha256": base.sha256},
        "scope": _scope_name(ticket.spec.get("scope")),
        "prunable": mask.prunable,
        "kept": mask.kept,
        "sparsity": mask.sparsity,
        "total_parameters": base.total_parameters,
        "mask_digest": mask.digest(),
        "task": None if evidence is None else evidence["task"],
        "verdict": None if evidence is None else evidence["verdict"],
        "tensors": [
            {"name": row.name, "shape": list(row.shape), "kept": row.kept} for row in mask.layers()
        ],
    }


def _scope_name(scope: Any) -> Any:
    return scope[0] if isinstance(scope, list) and len(scope) == 1 else scope


def _model(
    name: str, revision: str | None, scope: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    from ticketry.models.loading import canonical_tensors, load_backbone, prunable, resolve

    model = load_backbone(resolve(name, revision, say=say))
    tensors = canonical_tensors(model)
    names = prunable(model, scope)
    rows: list[dict[str, Any]] = [
        {
            "name": tensor,
            "shape": list(tensors[tensor].shape),
            "kept": math.prod(tensors[tensor].shape),
        }
        for tensor in names
    ]
    total = sum(row["kept"] for row in rows)
    return {
        "kind": "model",
        "model_type": model.config.model_type,
        "scope": _scope_name(list(scope)),
        "prunable": total,
        "kept": total,
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "tensors": rows,
    }


def inspect_lines(found: dict[str, Any]) -> list[str]:
    """Say a description in lines for people."""
    scope = found["scope"] or "not recorded"
    scope = scope if isinstance(scope, str) else ", ".join(scope)
    lines = []
    if found["kind"] == "ticket":
        base = found["base"]
        at = f" at {base['revision']}" if base["revision"] else ""
        lines.append(f"ticket for {base['name']}{at}, base weights {base['sha256'][:12]}…")
        lines.append(f"sparsity {found['sparsity']:.2%}, mask {found['mask_digest'][:12]}…")
        if found["verdict"] is None:
            lines.append("candidate: never verified")
        else:
            verdict = found["verdict"]
            lines.append(
                f"on {found['task']}: non-inferior to dense: {verdict['noninferior']}, "
                f"winning: {_said(verdict)}"
            )
    else:
        lines.append(f"model of type {found['model_type']}")
    lines.append(
        f"scope {scope}: {found['kept']:,} of {found['prunable']:,} prunable weights kept in "
        f"{len(found['tensors'])} tensors; {found['total_parameters']:,} parameters in all"
    )
    width = max((len(row["name"]) for row in found["tensors"]), default=0)
    for row in found["tensors"]:
        size = math.prod(row["shape"])
        shape = "×".join(map(str, row["shape"]))
        share = row["kept"] / size if size else 1.0
        lines.append(f"  {row['name']:<{width}}  {shape:>12}  {row['kept']:>12,}  {share:7.2%}")
    return lines


def _said(verdict: Mapping[str, Any]) -> str:
    if not verdict.get("at_theta0", True):
        return "not said (it does not start from the pre-trained weights)"
    known = {True: "yes", False: "no", None: "not tested (no random-layerwise control)"}
    return known[verdict["winning"]]


def model_rows() -> dict[str, Any]:
    """List the packaged models and the families with their scopes."""
    from ticketry.models.families import FAMILIES
    from ticketry.models.packaged import PACKAGED

    return {
        "packaged": [
            {"name": name, "description": model.description} for name, model in PACKAGED.items()
        ],
        "families": [
            {"model_type": name, "scopes": sorted(family.scopes)}
            for name, family in sorted(FAMILIES.items())
        ],
    }
