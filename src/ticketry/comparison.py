"""Several tickets of one base, side by side: scores, cost, and how far their masks agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ticketry.core.likeness import likeness
from ticketry.core.mask import Mask
from ticketry.errors import InputError
from ticketry.report.kernels import kernel_facts, kernel_maps, zero_kernel_lines
from ticketry.report.layers import kinds_of
from ticketry.report.likenesses import beyond
from ticketry.runs import TICKET_FOLDER
from ticketry.ticket import CONFIG_FILE, Ticket

MOST_TICKETS = 24
MOST_SAID = 12
"""Pairs in the terminal's table."""


def load_tickets(places: Sequence[str]) -> dict[str, Ticket]:
    """Load tickets by folder, run folder or hub id.

    Returns:
        label -> ticket; the label is the shortest end of the place that tells it from the others.

    Raises:
        InputError: fewer than two, too many, one named twice, or bases that differ.
        TicketError: a ticket that cannot be used.
    """
    if not 2 <= len(places) <= MOST_TICKETS:
        raise InputError(
            f"{len(places)} ticket{'s were' if len(places) != 1 else ' was'} given; expected 2 to "
            f"{MOST_TICKETS} to compare."
        )
    if twice := sorted({place for place in places if list(places).count(place) > 1}):
        raise InputError(f"{', '.join(twice)} was given twice; name each ticket once.")
    labels = _labels(places)
    tickets = {label: _load(place) for label, place in zip(labels, places, strict=True)}
    _check_bases(tickets)
    return tickets


def _load(place: str) -> Ticket:
    inside = Path(place) / TICKET_FOLDER
    if not (Path(place) / CONFIG_FILE).exists() and (inside / CONFIG_FILE).exists():
        return Ticket.from_pretrained(inside)
    return Ticket.from_pretrained(place)


def _labels(places: Sequence[str]) -> list[str]:
    """Name each place by its last parts, as few as tell all of them apart."""
    parts = []
    for place in places:
        names = [name for name in Path(place).parts if name not in (".", "/")]
        if len(names) > 1 and names[-1] == TICKET_FOLDER:
            names.pop()
        parts.append(names or [place])
    for count in range(1, max(len(names) for names in parts) + 1):
        labels = ["/".join(names[-count:]) for names in parts]
        if len(set(labels)) == len(labels):
            return labels
    return list(places)


def _check_bases(tickets: Mapping[str, Ticket]) -> None:
    first, *others = tickets
    one = tickets[first]
    for label in others:
        other = tickets[label]
        if other.base.sha256 != one.base.sha256:
            raise InputError(
                f"{first} is a ticket of {one.base.name} ({one.base.sha256[:12]}…), {label} of "
                f"{other.base.name} ({other.base.sha256[:12]}…); expected tickets of one base, "
                "because masks of different weights say nothing about each other."
            )
        if dict(_shapes(other.mask)) != dict(_shapes(one.mask)):
            lacking = sorted(set(one.mask) ^ set(other.mask))[:3] or ["(shapes differ)"]
            raise InputError(
                f"{first} and {label} mask different tensors ({', '.join(lacking)} …); expected "
                "tickets of one scope. Compare those of equal scopes."
            )


def _shapes(mask: Mask) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, mask.shape(name)) for name in mask]


def compare(tickets: Mapping[str, Ticket]) -> dict[str, Any]:
    """Return the comparison as JSON values.

    Each pair of masks has the measures of :func:`ticketry.core.likeness.likeness`: overlap and
    cosine of the kept and of the pruned weights, and agreement, each beside two kinds of chance,
    over all weights, by tensor and by kind of matrix. ``kept_by_chance`` and ``pruned_by_chance``
    are those at the masks' own layer densities. ``kernels`` lists the tensors that have kernels
    (:mod:`ticketry.core.kernels`) with the zero ones of each mask; ``kernel_maps`` maps one.

    Args:
        tickets: label -> ticket, of one base and scope (:func:`load_tickets`).
    """
    masks = {label: ticket.mask for label, ticket in tickets.items()}
    kinds = kinds_of(list(next(iter(masks.values()))))
    kernels = kernel_facts(masks)
    return {
        "schema_version": 1,
        "base": next(iter(tickets.values())).base.name,
        "tickets": [{"label": label, **_facts(ticket)} for label, ticket in tickets.items()],
        "overlaps": [
            {"a": a, "b": b, **_likeness(masks[a], masks[b], kinds)}
            for a, b in combinations(masks, 2)
        ],
        "layers": _layers(tickets),
        "kernels": kernels,
        "kernel_maps": kernel_maps(masks, kernels),
    }


def _facts(ticket: Ticket) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sparsity": ticket.sparsity,
        "pattern": ticket.pattern,
        "mask_digest": ticket.mask.digest(),
        "verdict": None,
    }
    evidence, verdict = ticket.evidence, ticket.verdict
    if evidence is None or verdict is None:
        return facts
    search = evidence["search"]
    return facts | {
        "task": evidence["task"],
        "metric": evidence["metric"],
        "direction": evidence["direction"],
        "data_sha256": evidence["data_sha256"],
        "verdict": {
            name: getattr(verdict, name)
            for name in ("noninferior", "winning", "matches_paper", "matches_strict")
        },
        "undertrained_reference": verdict.undertrained_reference,
        "difference": verdict.difference,
        "margin": verdict.margin,
        "dense": _arm(evidence["dense"]),
        "ticket": _arm(evidence["ticket"]),
        "controls": {name: _arm(arm) for name, arm in evidence["controls"].items()},
        "method": search["method"],
        "criterion": search["criterion"],
        "cost_dense_equivalents": search["cost_dense_equivalents"],
    }


def _arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": arm["mean"], "std": arm["std"], "replicates": len(arm["scores"])}


def _likeness(a: Mask, b: Mask, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    found = likeness(a, b, kinds)
    layers, kinds_found = found.pop("tensors"), found.pop("groups")
    return {
        **_beside_chance(found),
        "kinds": [_beside_chance(kind) for kind in kinds_found],
        "layers": [_beside_chance(layer) for layer in layers],
    }


def _beside_chance(found: Mapping[str, Any]) -> dict[str, Any]:
    chance = found["chance"]["layers"]
    return {**found, "kept_by_chance": chance["kept"], "pruned_by_chance": chance["pruned"]}


def _layers(tickets: Mapping[str, Ticket]) -> list[dict[str, Any]]:
    """Return, tensor by tensor, the share that each ticket keeps."""
    rows: dict[str, dict[str, float]] = {}
    for label, ticket in tickets.items():
        for row in ticket.mask.layers():
            rows.setdefault(row.name, {})[label] = row.density
    return [{"name": name, "density": densities} for name, densities in rows.items()]


def lines(found: Mapping[str, Any]) -> list[str]:
    """Say a comparison in lines for people."""
    from ticketry.metrics import say_score

    width = max(len(row["label"]) for row in found["tickets"])
    said = [f"{len(found['tickets'])} tickets of {found['base']}"]
    for row in found["tickets"]:
        if row["verdict"] is None:
            outcome = "candidate: never verified"
        else:
            outcome = (
                f"{row['task']}: {say_score(row['metric'], row['ticket']['mean'])} against "
                f"{say_score(row['metric'], row['dense']['mean'])} dense, non-inferior: "
                f"{row['verdict']['noninferior']}"
            )
            if row["cost_dense_equivalents"] is not None:
                outcome += f", search {row['cost_dense_equivalents']:.2f} dense-equivalents"
        said.append(f"  {row['label']:<{width}}  {row['sparsity']:6.1%}  {outcome}")
    return [*said, *_table(found["overlaps"]), *zero_kernel_lines(found["kernels"])]


_COLUMNS = ("overlap", "density", "layers", "cosine", "density", "layers")


def _table(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say the likeness of each pair; where there is one pair alone, that of each kind too."""
    said = [
        "how alike the masks are, and what chance gives at these densities, and at these layer "
        "densities:",
        f"  {'':<10}" + "".join(f"{column:>9}" for column in _COLUMNS),
    ]
    for pair in pairs[:MOST_SAID]:
        said += [f"  {pair['a']} – {pair['b']}", *_pair_rows(pair), f"    {beyond(pair)}"]
    if (rest := len(pairs) - MOST_SAID) > 0:
        said.append(f"  … and {rest} pair{'s' if rest > 1 else ''} more: --json and --out have all")
    if len(pairs) == 1 and len(pairs[0]["kinds"]) > 1:
        said += ["  by kind of matrix, overlap and chance at these layer densities:"]
        width = max(len(kind["name"]) for kind in pairs[0]["kinds"])
        for kind in pairs[0]["kinds"]:
            said.append(
                f"    {kind['name']:<{width}}  kept {kind['kept']:6.1%} "
                f"(chance {kind['kept_by_chance']:.1%})  pruned {kind['pruned']:6.1%} "
                f"(chance {kind['pruned_by_chance']:.1%})"
            )
    return said


def _pair_rows(pair: Mapping[str, Any]) -> list[str]:
    chance = [pair["chance"][kind] for kind in ("density", "layers")]
    rows = []
    for part in ("kept", "pruned"):
        shares = [found[part] for found in (pair, *chance)]
        cosines = [found[f"{part}_cosine"] for found in (pair, *chance)]
        cells = [f"{share:.1%}" for share in shares] + [f"{cosine:.3f}" for cosine in cosines]
        rows.append(f"    {part:<8}" + "".join(f"{cell:>9}" for cell in cells))
    cells = [f"{found['agreement']:.1%}" for found in (pair, *chance)]
    return [*rows, f"    {'agree':<8}" + "".join(f"{cell:>9}" for cell in cells)]
