"""What a stored step must hold to be taken for that step's output; torch-free.

Hashes tell damage, not forgery: whoever edits a record can write new hashes beside it. What is
checked here is that nothing which reads a record fails on it, and that it is of the step's seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ticketry.forms import Number, Whole, faults_of
from ticketry.steps import MASK_FILE, Step
from ticketry.store import RECORD, Damage, Store

_COUNT, _NUMBER = Whole(), Number(most=1e308)
_TRAINED = {
    "seed": _COUNT,
    "steps": Whole(least=1),
    "train_examples": Whole(least=1),
    "train_tokens": Whole(least=1),
    "mean_loss": _NUMBER,
    "final_loss": _NUMBER,
    "truncated": {...: _COUNT},
}
_MASKED = {
    "kept": _COUNT,
    "prunable": _COUNT,
    "sparsity": Number(most=1.0),
    "digest": str,
    "empty_layers": [str],
    "calibration_examples?": _COUNT,
}
_LEVEL = {"level": _COUNT, "validation_score": _NUMBER}

FORMS: Mapping[str, Mapping[str, Any]] = {
    "level": {**_TRAINED, **_MASKED, **_LEVEL},
    "gradual": {**_TRAINED, **_MASKED, **_LEVEL},
    "theta0-mask": _MASKED,
    "replicate": {
        **_TRAINED,
        "mask_digest": (str, type(None)),
        "validation_score": _NUMBER,
        "test_score": _NUMBER,
        "predictions": [(_NUMBER, [_NUMBER], [[_NUMBER]], str)],
    },
    "half-budget": {**_TRAINED, "validation_score": _NUMBER},
    "warm-head": {**_TRAINED, "validation_score": _NUMBER},
    "endpoint": {
        **_TRAINED,
        "mask_digest": (str, type(None)),
        "validation_score": _NUMBER,
    },
    "connectivity": {"alphas": [Number(most=1.0)], "validation_scores": [Number()]},
    "overlaps": {
        "masks": [str],
        **{name: [[_NUMBER]] for name in ("kept_iou", "pruned_iou")},
        **{name: [[_NUMBER]] for name in ("kept_expected", "pruned_expected")},
    },
    "kernels": {"masks": [str], "zero": [_COUNT], "zero_expected": [_NUMBER], "kernels": [_COUNT]},
}
"""Kind of step -> the form of its record."""


def check_output(step: Step, store: Store) -> Damage | None:
    """Compare a stored output with its hashes, and its record with its kind's form."""
    if (damage := store.check(step.key)) is not None:
        return damage
    folder = store.folder(step.key)
    form = FORMS.get(step.kind, {})
    try:
        record = store.record(step.key)
    except (ValueError, RecursionError):
        return Damage(step.key, folder / RECORD, "it is not JSON")
    if faults := faults_of(record, dict(form)):
        return Damage(step.key, folder / RECORD, f"{faults[0]}, though its hash fits")
    seed = step.params.get("seed")
    if "seed" in form and record["seed"] != seed:
        return Damage(step.key, folder / RECORD, f"its seed is {record['seed']}, not {seed}")
    if "digest" in form and not (folder / MASK_FILE).is_file():
        return Damage(step.key, folder / MASK_FILE, "it is missing")
    return None
