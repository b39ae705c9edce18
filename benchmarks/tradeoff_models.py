"""The models that ``tradeoff.py`` measures: MiniLM on movies, dense, smaller, sparse.

Every one gets the same training, twice, as ``tradeoff.py`` says; they lie under runs/tradeoff, a
folder each, and their scores in results/embedded/tradeoff. A training that is done is not repeated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "tradeoff"
RESULTS = ROOT / "results" / "embedded" / "tradeoff"
SPARSITIES = (0.9, 0.8, 0.95, 0.7, 0.5)
SEEDS = (1, 2)
LAYERS = 3
TRAINED = {"train_samples": 2000, "epochs": 2.0, "recipe": "embedded"}


def name_of(sparsity: float) -> str:
    return f"sparse-{round(100 * sparsity)}"


KINDS = ("dense", *map(name_of, SPARSITIES), "small")
"""What is trained, in this order for each seed; then come those that are made from these."""


def base_folder(kind: str) -> str:
    """Return the base's name, or the folder of one with fewer layers."""
    if kind != "small":
        return "minilm"
    folder = RUNS / "small-base"
    if not folder.exists():
        from transformers import AutoConfig, AutoModel

        from ticketry.models.loading import load_backbone, quiet
        from ticketry.models.sources import resolve

        base = resolve("minilm")
        whole = load_backbone(base)
        config = AutoConfig.from_pretrained(base.path, num_hidden_layers=LAYERS)
        small = AutoModel.from_config(config)
        state = whole.state_dict()
        small.load_state_dict({name: state[name] for name in small.state_dict()})
        with quiet():
            small.save_pretrained(folder)
        for file in base.path.iterdir():
            if file.name.startswith(("tokenizer", "vocab", "special_tokens")):
                shutil.copy(file, folder)
    return str(folder)


def ticket_for(base: str, weights: Any, sparsity: float) -> Any:
    """Return a mask by magnitude over a base at some weights; None: the pre-trained ones."""
    from ticketry.core.mask import Mask
    from ticketry.core.select import select_global
    from ticketry.models.loading import (
        base_sha256,
        canonical_tensors,
        load_backbone,
        prunable,
        resolve,
        tensor_hashes,
    )
    from ticketry.ticket import Base, Rewind, Ticket

    model = load_backbone(resolve(base))
    hashes = tensor_hashes(model)
    names = prunable(model, "encoder")
    tensors = canonical_tensors(model) if weights is None else weights
    chosen = {name: tensors[name] for name in names}
    mask = (
        select_global(chosen, 1 - sparsity)
        if sparsity
        else Mask.full({name: tuple(tensor.shape) for name, tensor in chosen.items()})
    )
    pointer = Base(base, None, base_sha256(hashes), hashes, "bert", model.num_parameters())
    return Ticket(mask, pointer, {}, None, None if weights is None else Rewind(weights))


def trained_weights(folder: Path) -> dict[str, Any]:
    """Return a trained model's base tensors."""
    from ticketry.models.loading import canonical_tensors
    from ticketry.packed.loading import load_model

    return dict(canonical_tensors(load_model(folder)))


def trainings() -> Iterator[tuple[str, int, str]]:
    """Yield kind, seed and part of every training, in order."""
    for seed in SEEDS:
        yield "dense", seed, "first"
        for kind in KINDS:
            if kind == "small":
                yield kind, seed, "first"
            yield kind, seed, "last"


def model_folder(kind: str, seed: int, part: str = "last") -> Path:
    return RUNS / f"{kind}-{seed}-{part}"


def train(kind: str, seed: int, part: str) -> None:
    """Carry out one training, and keep its record."""
    import ticketry

    base = base_folder(kind)
    sparsity = int(kind.removeprefix("sparse-")) / 100 if kind.startswith("sparse") else 0.0
    start = None
    if part == "last":
        first = "small" if kind == "small" else "dense"
        start = trained_weights(model_folder(first, seed, "first"))
    ticket = ticket_for(base, start, sparsity)
    out = model_folder(kind, seed, part)
    shutil.rmtree(out, ignore_errors=True)  # without its record it is half done
    # The two parts draw their own head and order.
    drawn = 10 * seed + (part == "last")
    record = ticketry.train(ticket, "movies", out=out, workers=0, seed=drawn, **TRAINED)
    score = {
        "kind": kind, "seed": seed, "part": part, "sparsity": ticket.sparsity,
        "test_score": record["test_score"], "validation_score": record["validation_score"],
    }  # fmt: skip
    (out / "score.json").write_text(json.dumps(score), encoding="utf-8")
    save_scores()


def scores() -> list[dict[str, Any]]:
    """Return the scores of the trainings that are done."""
    path = RESULTS / "scores.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    found = {(row["kind"], row["seed"], row["part"]): row for row in kept}
    for kind, seed, part in trainings():
        file = model_folder(kind, seed, part) / "score.json"
        if file.exists():
            found[kind, seed, part] = json.loads(file.read_text(encoding="utf-8"))
    return [found[key] for key in trainings() if key in found]


def save_scores() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "scores.json").write_text(json.dumps(scores(), indent=1) + "\n", encoding="utf-8")
