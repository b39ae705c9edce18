"""What the JSON files of a ticket must hold, so that nothing that reads them fails later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ticketry.errors import TicketError
from ticketry.forms import Number, Whole, faults_of

_COUNT, _NUMBER, _MAYBE = Whole(), Number(), (Number(), type(None))
_SHARE = Number(most=1.0)

CONFIG = {
    "base_model_name_or_path": str,
    "revision": (str, type(None)),
    "base_sha256": str,
    "base_tensors": {...: str},
    "model_type": str,
    "total_parameters": Whole(least=1),
    "mask_digest": str,
    "spec": {
        "scope?": [str],
        "seed?": Whole(),
        "recipe?": (dict, type(None)),
        "search?": {"pattern?": str},
    },
    "files": {...: str},
    "kept?": _COUNT,
    "prunable?": _COUNT,
    "sparsity?": _SHARE,
    "density?": _SHARE,
}

_ARM = {
    "scores": [_NUMBER],
    "validation_scores": [_NUMBER],
    "seeds": [Whole()],
    "mean": _NUMBER,
    "std": _NUMBER,
    "half_budget_validation_scores?": [_NUMBER],
    "description?": str,
}

EVIDENCE = {
    "task": str,
    "metric": str,
    "sparsity": _SHARE,
    "model_sparsity": _SHARE,
    "kept": _COUNT,
    "prunable": _COUNT,
    "total_parameters": Whole(least=1),
    "layers": [{"name": str, "shape": [_COUNT], "kept": _COUNT, "prunable": _COUNT}],
    "dense": _ARM,
    "ticket": _ARM,
    "controls": {...: _ARM},
    "verdict": dict,  # Verdict.from_json looks closer
    "search": {
        "method": str,
        "from": str,
        "criterion": str,
        "levels": [
            {
                "level": _COUNT,
                "sparsity": _SHARE,
                "kept": _COUNT,
                "validation_score?": _MAYBE,
            }
        ],
        "cost_dense_equivalents": _MAYBE,
    },
    "seeds": {"search": [Whole()], "verify": [Whole()]},
    "data_sha256": str,
    "data": {
        "source": str,
        "train": _COUNT,
        "validation": _COUNT,
        "test": _COUNT,
        "labels": [(str, Number(), bool)],
        "notes": [str],
        "truncated?": {...: _COUNT},
        "objective?": str,
    },
    "recipe": {"description?": str},
    "base": {"name": str, "revision": (str, type(None)), "sha256": str},
    "warnings": [str],
    "command": str,
}


def check_form(value: Mapping[str, Any], form: Mapping[str, Any], path: Path) -> None:
    """Refuse JSON of another form.

    Raises:
        TicketError: names the first values that do not fit.
    """
    if faults := faults_of(value, form):
        raise TicketError(f"{path} is damaged: {'; '.join(faults)}.")


def check_counts(config: Mapping[str, Any], kept: int, prunable: int, path: Path) -> None:
    """Refuse a configuration that states other counts than its mask has.

    Raises:
        TicketError: names the statement.
    """
    density = kept / prunable if prunable else 1.0
    sparsity = (prunable - kept) / prunable if prunable else 0.0
    facts = {"kept": kept, "prunable": prunable, "density": density, "sparsity": sparsity}
    for name, fact in facts.items():
        if name in config and config[name] != fact:
            raise TicketError(
                f"{path} says {name} {config[name]!r:.40}, but its mask has {fact!r}; "
                "it was edited. Fetch the ticket again."
            )
