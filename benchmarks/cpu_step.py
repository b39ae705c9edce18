"""How long a training step takes on this CPU as ticketry computes it, beside plain torch.

    python benchmarks/cpu_step.py [--rounds 7] [--write]

Three models, forward and backward of one batch, one thread: MiniLM in bfloat16 (32 sentences of 28
tokens; the peer is the same model under torch.autocast, as accelerate or transformers' Trainer
run it), EfficientNet-Lite0 in float32 (32 images of 64 pixels; the peer is the model as timm
builds it) and DeepLabv3 over it, dilated (8 images of 96 pixels; torchvision's head). Each round
times every contender once. Prints the median ratio of the peer's time to ticketry's with its
quartiles; seconds are the process's CPU time, so that other work on the machine counts less. Image
models need the vision environment; without timm they are left out. ``--write`` puts the result into
docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common import quartiles, write_block

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
IMAGES, SIDE = 32, 64
SCENES, SCENE_SIDE = 8, 96
SENTENCES, TOKENS = 32, 28

Step = Callable[[], None]


def minilm() -> tuple[str, Step, Step]:
    """Return what is timed, plain torch's step and ticketry's."""
    from step_overhead import minilm as model_of
    from ticketry.models.lean import logits_of
    from ticketry.tasks.workload import precision

    model, told = model_of()
    model.train()
    model.base_model.embeddings.requires_grad_(False)
    ids = torch.randint(1000, 20000, (SENTENCES, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.randint(0, 2, (SENTENCES,))

    def plain() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits
        _finish(model, logits, labels)

    def ours() -> None:
        with precision(torch.device("cpu"), "bfloat16"):
            logits = logits_of(model, inputs)
        _finish(model, logits, labels)

    return f"{told} in bfloat16, {SENTENCES} sentences of {TOKENS} tokens", plain, ours


def lite0() -> tuple[str, Step, Step]:
    """Return what is timed, plain torch's step and ticketry's."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0", num_classes=10).train()
    images, labels = torch.randn(IMAGES, 3, SIDE, SIDE), torch.randint(0, 10, (IMAGES,))
    told = f"EfficientNet-Lite0 in float32, {IMAGES} images of {SIDE} pixels"
    return told, *_of_images(model, images, labels)


def deeplab() -> tuple[str, Step, Step]:
    """Return what is timed, plain torch's step and ticketry's."""
    from ticketry.models.dense import OUTPUT_STRIDE, build_segmenter, load_trunk
    from ticketry.models.loading import resolve

    trunk = load_trunk(resolve("lite0"), (OUTPUT_STRIDE,), dilated=True)
    model = build_segmenter(trunk, 11, 0).train()
    images = torch.randn(SCENES, 3, SCENE_SIDE, SCENE_SIDE)
    labels = torch.randint(0, 11, (SCENES, SCENE_SIDE, SCENE_SIDE))
    told = f"DeepLabv3 over EfficientNet-Lite0 in float32, {SCENES} images of {SCENE_SIDE} pixels"
    return told, *_of_images(model, images, labels)


def _of_images(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[Step, Step]:
    from ticketry.tasks.workload import precision

    def plain() -> None:
        _finish(model, model(images), labels)

    def ours() -> None:
        with precision(torch.device("cpu"), "float32"):
            logits = model(images)
        _finish(model, logits, labels)

    return plain, ours


def _finish(model: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> None:
    cross_entropy(logits.float(), labels).backward()
    model.zero_grad(set_to_none=True)


def seconds_of(step: Step) -> float:
    """Return the CPU time of one step."""
    started = time.process_time()
    step()
    return time.process_time() - started


def main() -> None:
    """Time the models and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        f"One step of forward and backward, one thread, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {options.rounds} rounds; medians, and the "
        "quartiles of the ratio.",
        "",
        "| step | plain torch | ticketry | ratio |",
        "|---|---|---|---|",
    ]
    for build in (minilm, lite0, deeplab):
        with contextlib.suppress(ImportError):
            told, plain, ours = build()
            for step in (plain, ours):
                step()
            rounds = [(seconds_of(plain), seconds_of(ours)) for _ in range(options.rounds)]
            low, ratio, high = quartiles([a / b for a, b in rounds])
            first, second = (quartiles([pair[i] for pair in rounds])[1] for i in (0, 1))
            lines.append(
                f"| {told} | {first:.2f} s | {second:.2f} s | "
                f"{ratio:.2f} ({low:.2f} to {high:.2f}) |"
            )
    print("\n".join(lines))
    if options.write:
        write_block(PAGE, "cpu_step", lines)


if __name__ == "__main__":
    main()
