"""How much longer a masked training step takes than a dense one, ticketry's and torch's own way.

    python benchmarks/step_overhead.py [--quick]

Prints the median over interleaved steps of three models that see the same batches: dense, under
ticketry's MaskEnforcer, and under torch.nn.utils.prune.custom_from_mask. A step is forward,
backward, clipping and fused AdamW. Seconds are the process's CPU time, so that other work on the
machine does not count. Exit code 1 when ticketry's median ratio is above the goal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from torch.nn.utils import prune
from transformers import BertConfig, BertForSequenceClassification

from ticketry.assets import MINILM, is_fetched
from ticketry.core.mask import Mask
from ticketry.course import make_optimizer
from ticketry.enforce import MaskEnforcer
from ticketry.models.heads import load_task_model
from ticketry.models.loading import canonical_parameters, prunable, resolve
from ticketry.recipes import Recipe
from ticketry.tasks.workload import precision

GOAL = 1.05
SPARSITY = 0.4
TOKENS = 28
"""The mean length of a movie sentence."""


def minilm() -> tuple[nn.Module, str]:
    """Return the embedded model, or one of its shape when it is not in the cache."""
    if is_fetched(MINILM):
        model = load_task_model(
            resolve("minilm"), "classification", ["no", "yes"], 0, attention="eager"
        )
        return model, "the embedded MiniLM"
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return (
        BertForSequenceClassification(config),
        "a random model of MiniLM's shape (the embedded one is not in the cache)",
    )


def stepper(model: nn.Module, recipe: Recipe) -> Callable[[dict[str, torch.Tensor]], float]:
    """Return a function that makes one training step and returns its CPU seconds."""
    for parameter in model.get_submodule("bert.embeddings").parameters():
        parameter.requires_grad_(not recipe.freeze_embeddings)
    model.train()
    device = torch.device("cpu")
    optimizer = make_optimizer(model, recipe, device)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step(batch: dict[str, torch.Tensor]) -> float:
        started = time.process_time()
        with precision(device, recipe.dtype):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - started

    return step


def under_torch_prune(model: nn.Module, mask: Mask) -> nn.Module:
    """Mask a model the way torch does: weight = weight_orig * weight_mask at each forward."""
    base = model.get_submodule("bert")
    for name in mask:
        module, _, tensor = name.rpartition(".")
        prune.custom_from_mask(base.get_submodule(module), tensor, mask[name].float())
    return model


def main() -> int:
    """Measure, print, and judge against the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="15 rounds instead of 40")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(dtype=arguments.dtype, freeze_embeddings=True, max_length_tokens=48)

    built = [minilm() for _ in range(3)]
    models, what = [model for model, _ in built], built[0][1]
    shapes = {name: tuple(p.shape) for name, p in canonical_parameters(models[0]).items()}
    draw = torch.Generator().manual_seed(0)
    mask = Mask(
        {
            name: torch.rand(shapes[name], generator=draw) >= SPARSITY
            for name in prunable(models[0], "encoder")
        }
    )
    enforcer = MaskEnforcer(models[1], mask).attach()
    under_torch_prune(models[2], mask)
    steps = dict(
        zip(("dense", "ticketry", "torch prune"), (stepper(m, recipe) for m in models), strict=True)
    )

    batch = {
        "input_ids": torch.randint(999, 9999, (recipe.batch_size, TOKENS), generator=draw),
        "labels": torch.randint(0, 2, (recipe.batch_size,), generator=draw),
    }
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    print(
        f"{what}; {mask.prunable:,} prunable weights at sparsity {SPARSITY}, batch "
        f"{recipe.batch_size} x {TOKENS} tokens, {recipe.dtype}, {arguments.threads} thread(s)"
    )
    for step in steps.values():
        step(batch)
    rounds = 15 if arguments.quick else 40
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for round_ in range(rounds):
        # Each comes first, second and third equally often: a step warms the caches for the next.
        for name in order[round_ % 3 :] + order[: round_ % 3]:
            seconds[name].append(steps[name](batch))
    enforcer.check()

    ratios = {}
    for name, values in seconds.items():
        paired = [a / b for a, b in zip(values, seconds["dense"], strict=True)]
        ratios[name] = statistics.median(paired)
        low, _, high = statistics.quantiles(paired, n=4)
        print(
            f"{name:>12}: median {statistics.median(values) * 1e3:7.1f} ms a step, "
            f"{ratios[name]:.3f} of dense (middle half {low:.3f} to {high:.3f})"
        )
    reached = ratios["ticketry"] <= GOAL
    print(
        f"goal: masked / dense <= {GOAL}: {'reached' if reached else 'MISSED'} with "
        f"{ratios['ticketry']:.3f}; torch.nn.utils.prune in the same run: "
        f"{ratios['torch prune']:.3f}"
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
