"""A ticket that was brought along: the run it is part of, and what that run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ticketry.config import FindSpec, search_seed, verification_seeds
from ticketry.errors import ConfigError
from ticketry.files import sha256_bytes
from ticketry.options import build_find_spec, recipe_options
from ticketry.steps import given_mask_key, given_weights_key, put_given_mask, put_given_weights
from ticketry.store import Store
from ticketry.ticket import Ticket
from ticketry.verification import Start
from ticketry.weightsfile import dump_weights


def spec_for(ticket: Ticket, options: Mapping[str, Any]) -> FindSpec:
    """Complete options by what the ticket knows, and check them as those of ``find`` are."""
    given = {name: value for name, value in options.items() if value is not None}
    recipe = ticket.spec.get("recipe")
    if recipe and "recipe" not in given:
        given = {**recipe_options(recipe), **given}
    return build_find_spec(
        {
            **given,
            "model": given.get("model") or ticket.base.name,
            "revision": given.get("revision") or ticket.base.revision,
            "sparsity": ticket.sparsity,
            "scope": list(ticket.mask),
        }
    )


def given_run(spec: FindSpec, ticket: Ticket, kind: str) -> dict[str, Any]:
    """Return what decides the result of a run on a ticket that was brought along."""
    given: dict[str, Any] = {"kind": kind, "mask_digest": ticket.mask.digest()}
    if ticket.rewind is not None:
        given["rewind_sha256"] = sha256_bytes(dump_weights(ticket.rewind.weights))
    return {**spec.to_json(), **given}


def fresh_seeds(spec: FindSpec, ticket: Ticket) -> tuple[int, ...]:
    """Return the seeds of the replicates.

    Raises:
        ConfigError: the ticket's search has used one of them.
    """
    seeds = verification_seeds(spec.seed, spec.replicates)
    if clash := sorted(set(seeds) & set(search_seeds(ticket))):
        raise ConfigError(
            f"--seed {spec.seed} gives replicates the seeds {clash}, which this ticket's search "
            "used; choose another --seed."
        )
    return seeds


def given_start(ticket: Ticket) -> Start:
    """Return what a ticket that was brought along is trained from."""
    pattern = str(ticket.spec.get("search", {}).get("pattern", "unstructured"))
    if ticket.rewind is None:
        return Start(given_mask_key(ticket.mask), ticket.sparsity, pattern)
    key = given_weights_key(dump_weights(ticket.rewind.weights))
    return Start(given_mask_key(ticket.mask), ticket.sparsity, pattern, key, ticket.rewind.step)


def put_given(ticket: Ticket, store: Store) -> None:
    """Store a ticket's mask and weights, as if steps had made them."""
    put_given_mask(store, ticket.mask)
    if ticket.rewind is not None:
        put_given_weights(store, dump_weights(ticket.rewind.weights))


def search_seeds(ticket: Ticket) -> list[int]:
    """Return the seeds that a ticket's search used, as far as it says."""
    seeds = (ticket.evidence or {}).get("seeds", {}).get("search")
    if isinstance(seeds, list):
        return seeds
    return [search_seed(seed)] if isinstance(seed := ticket.spec.get("seed"), int) else []


def known_search(ticket: Ticket) -> Mapping[str, Any]:
    """Return the search's part of a ticket's evidence, or that it is unknown."""
    search = (ticket.evidence or {}).get("search")
    if isinstance(search, dict):
        return search
    unknown = {"method": "unknown", "from": "unknown", "criterion": "unknown"}
    return {**unknown, "levels": [], "cost_dense_equivalents": None}
