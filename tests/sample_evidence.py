"""Evidence as a real run leaves it, judged from made-up predictions, for report and card."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ticketry.controls import describe_control
from ticketry.metrics import METRICS
from ticketry.recipes import RECIPES
from ticketry.records import Arm, Replicate
from ticketry.verdict import judge

SEEDS = (1, 2, 3)
LABELS = ("negative", "positive")
KINDS = {
    "attention.self.query": (384, 384, 0.46),
    "attention.self.key": (384, 384, 0.47),
    "attention.self.value": (384, 384, 0.41),
    "attention.output.dense": (384, 384, 0.42),
    "intermediate.dense": (1536, 384, 0.385),
    "output.dense": (384, 1536, 0.395),
}


def sample_arm(
    name: str, accuracies: tuple[float, ...], truth: np.ndarray, *, half: tuple[float, ...] = ()
) -> Arm:
    """An arm whose runs err on hard examples mostly, like runs of one model do."""
    replicates = []
    for seed, accuracy in zip(SEEDS, accuracies, strict=False):
        rng = np.random.default_rng([seed, len(name)])
        ease = np.random.default_rng(0).normal(size=len(truth)) + rng.normal(0, 0.45, len(truth))
        wrong = np.zeros(len(truth), dtype=bool)
        wrong[np.argsort(ease)[: round((1 - accuracy) * len(truth))]] = True
        predictions = np.where(wrong, 1 - truth, truth)
        score = float((predictions == truth).mean())
        replicates.append(Replicate(seed, score + 0.004, score, tuple(predictions.tolist())))
    return Arm(name, tuple(replicates), half)


def sample_layers(sparsity: float, blocks: int = 6) -> list[dict[str, Any]]:
    """The encoder matrices of MiniLM, pruned a little differently by kind and block."""
    layers = []
    for block in range(blocks):
        for kind, (rows, columns, share) in KINDS.items():
            size = rows * columns
            pruned = round(size * sparsity / 0.4 * (share + 0.012 * (block - blocks / 2)))
            layers.append(
                {
                    "name": f"encoder.layer.{block}.{kind}.weight",
                    "shape": [rows, columns],
                    "kept": size - pruned,
                    "prunable": size,
                }
            )
    return layers


def sample_evidence(
    *,
    ticket: tuple[float, ...] = (0.846, 0.852, 0.849),
    dense: tuple[float, ...] = (0.851, 0.856, 0.852),
    random: tuple[float, ...] = (0.781, 0.796, 0.774),
    half: tuple[float, ...] = (0.846, 0.850, 0.851),
    examples: int = 2_500,
    blocks: int = 6,
) -> dict[str, Any]:
    """Return ``ticket_evidence.json`` of a run on movie reviews.

    Args:
        ticket, dense, random: test accuracies, one a seed.
        half: validation accuracies of dense at half the budget.
        examples: in the test split.
        blocks: of the model.
    """
    truth = np.random.default_rng(9).integers(0, 2, examples)
    arms = {
        "dense": sample_arm("dense", dense, truth, half=half),
        "ticket": sample_arm("ticket", ticket, truth),
        "random-layerwise": sample_arm("random-layerwise", random, truth),
    }
    verdict = judge(
        dense=arms["dense"],
        ticket=arms["ticket"],
        controls={"random-layerwise": arms["random-layerwise"]},
        labels=truth.tolist(),
        metric=METRICS["accuracy"],
        margin=0.01,
    )
    layers = sample_layers(0.4, blocks)
    kept, prunable = (sum(row[name] for row in layers) for name in ("kept", "prunable"))
    recipe = dataclasses.replace(RECIPES["embedded"], train_samples=2_000)
    return {
        "schema_version": 1,
        "task": "movies",
        "metric": "accuracy",
        "margin": 0.01,
        "direction": "higher",
        "sparsity": 1 - kept / prunable,
        "density": kept / prunable,
        "kept": kept,
        "prunable": prunable,
        "model_sparsity": (prunable - kept) / 22_713_216,
        "total_parameters": 22_713_216,
        "layers": layers,
        "dense": arms["dense"].to_json(),
        "ticket": arms["ticket"].to_json(),
        "controls": {
            "random-layerwise": {
                **arms["random-layerwise"].to_json(),
                "description": describe_control("random-layerwise"),
            }
        },
        "verdict": verdict.to_json(),
        "search": {
            "method": "imp",
            "from": "trained",
            "criterion": "magnitude",
            "levels": [
                {"level": 1, "sparsity": 0.2254, "kept": 8_223_797, "mask_digest": "1" * 64,
                 "validation_score": 0.8567, "seed": 0},
                {"level": 2, "sparsity": 0.4, "kept": 6_370_099, "mask_digest": "2" * 64,
                 "validation_score": 0.8521, "seed": 0},
            ],
            "cost_dense_equivalents": 2.1034,
        },
        "seeds": {"search": [0], "verify": list(SEEDS)},
        "data_sha256": "d" * 64,
        "data": {
            "source": "movieReviewSnippets of vaderSentiment 2.5 (Hutto & Gilbert 2014)",
            "train": 2_000,
            "validation": 1_000,
            "test": examples,
            "labels": list(LABELS),
            "notes": ["9,112 of 10,605 sentences have |rating| > 0.5; 41 near-duplicates were "
                      "kept on one side of the split"],
            "truncated": {"train": 31, "validation": 14, "test": 37},
        },
        "recipe": {**dataclasses.asdict(recipe), "description": recipe.describe()},
        "base": {"name": "minilm", "revision": None, "sha256": "b" * 64},
        "warnings": [],
        "command": "ticketry find --model minilm --task movies --sparsity 0.4 --method imp "
        "--levels 2 --replicates 3 --controls random-layerwise --recipe embedded "
        "--train-samples 2000 --out runs/movies-40",
    }  # fmt: skip


def sample_config() -> dict[str, Any]:
    """Return ``ticket_config.json`` of the same run."""
    return {
        "format": "ticketry-ticket",
        "format_version": 1,
        "base_model_name_or_path": "minilm",
        "revision": None,
        "base_sha256": "b" * 64,
        "base_tensors": {},
        "model_type": "bert",
        "total_parameters": 22_713_216,
        "granularity": "unstructured",
        "rewind": "pretrained",
        "sparsity": 0.4,
        "density": 0.6,
        "kept": 6_370_099,
        "prunable": 10_616_832,
        "mask_digest": "2" * 64,
        "spec": {"scope": ["encoder"]},
        "files": {"ticket_mask.safetensors": "a" * 64, "ticket_evidence.json": "e" * 64},
    }


def sample_times() -> dict[str, Any]:
    """Return ``times.json`` of the same run."""
    names = ["search level 1 of 2, to 22.5% sparsity", "search level 2 of 2, to 40.0% sparsity"]
    names += [f"{arm}, seed {seed}" for arm in ("dense", "ticket", "random-layerwise")
              for seed in SEEDS]  # fmt: skip
    return {
        "schema_version": 1,
        "wall_s": 431.7,
        "trainings": [
            *({"name": name, "seconds": 61.3 + 1.7 * n} for n, name in enumerate(names)),
            {"name": "given mask", "seconds": None},
        ],
        "environment": {
            "python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "machine": "x86_64",
            "device": "cpu", "cores": 2, "workers": 2, "threads": 1,
        },
    }  # fmt: skip


def sample_plan() -> dict[str, Any]:
    """Return ``plan.json`` of the same run: what the report reads of it."""
    parts = {"search": "search level", "dense": "dense", "ticket": "ticket",
             "control random-layerwise": "random-layerwise"}  # fmt: skip
    steps = []
    for row in sample_times()["trainings"]:
        found = [part for part, start in parts.items() if row["name"].startswith(start)]
        searching = found == ["search"]
        evaluated = 1_000 if searching else 3_000
        steps.append(
            {
                "name": row["name"],
                "part": found[0] if found else None,
                "train_passes": 4_000,
                "eval_passes": evaluated,
                "calibration_passes": 0,
                "dense_equivalents": round((4_000 + evaluated / 3) / 4_000, 4),
            }
        )
    return {"schema_version": 1, "steps": steps, "cost": {"dense_equivalents": 13.42}}
