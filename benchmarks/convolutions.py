"""Image models on a CPU, dense and with sparse convolutions of one pixel, in turns in one run.

    python benchmarks/convolutions.py --write

Models of transformers with random weights, of the size of MobileNetV2 (depthwise convolutions
between those of one pixel) and of ResNet-50 (3 × 3 between them); what is pruned is the smallest
weights of each convolution of one pixel, and nothing else. Random weights do: the time depends on
which weights are kept, not on what they are. Dense is torch with oneDNN.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from common import write_block
from inference_page import PAGE

MODELS = {"MobileNetV2": "MobileNetV2", "ResNet-50": "ResNet"}


def build(name: str, sparsity: float) -> Any:
    """Return a model whose convolutions of one pixel are pruned."""
    import transformers

    from ticketry.runtime.convolution import pointwise

    torch.manual_seed(0)
    kind = MODELS[name]
    config = getattr(transformers, f"{kind}Config")()
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for module in model.modules():
        if pointwise(module):
            weight = module.weight.data.view(-1)
            weight[weight.abs().argsort()[: round(sparsity * len(weight))]] = 0
    return model


def measure(name: str, batch: int, sparsities: list[float], rounds: int) -> Iterator[str]:
    """Yield a row a sparsity."""
    from ticketry.runtime.accelerating import accelerate

    pixels = torch.randn(batch, 3, 224, 224)
    models = {0.0: build(name, 0.0)}
    swapped = {}
    for sparsity in sparsities:
        models[sparsity] = copy.deepcopy(build(name, sparsity))
        layers = accelerate(models[sparsity], tokens=196)
        swapped[sparsity] = (sum(layer.runs_as == "sparse" for layer in layers), len(layers))
    times: dict[float, list[float]] = {sparsity: [] for sparsity in models}
    apart: dict[float, float] = {}
    with torch.inference_mode():
        for sparsity in sparsities:
            dense = build(name, sparsity)(pixels).last_hidden_state
            found = models[sparsity](pixels).last_hidden_state
            apart[sparsity] = float((found - dense).abs().max() / dense.abs().max())
        for _ in range(rounds):
            for sparsity, model in models.items():
                start = time.perf_counter()
                model(pixels)
                times[sparsity].append(time.perf_counter() - start)
    for sparsity in sparsities:
        ratios = [a / b for a, b in zip(times[0.0], times[sparsity], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        count, of = swapped[sparsity]
        yield (
            f"| {name} | {batch} | {sparsity:.0%} | {1e3 * statistics.median(times[0.0]):.1f} | "
            f"{1e3 * statistics.median(times[sparsity]):.1f} | {middle:.2f} ({low:.2f} to "
            f"{high:.2f}) | {count} of {of} | {apart[sparsity]:.0e} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, action="append", help="in percent")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write the block of the page")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sparsities = [value / 100 for value in args.sparsity or (70, 80, 90)]
    said = [
        f"224 × 224 pixels, {args.threads} thread{'s' if args.threads > 1 else ''}, torch "
        f"{torch.__version__}.",
        "",
        "| model | batch | sparsity of the 1 × 1 | dense, ms | sparse, ms | times as fast "
        "| swapped | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        for batch in (1, 8) if name == "MobileNetV2" else (1,):
            said += measure(name, batch, sparsities, args.rounds)
    print("\n".join(said))
    if args.write:
        write_block(PAGE, "convolutions", said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
