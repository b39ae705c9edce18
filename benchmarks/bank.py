"""Several tickets on one base: the milliseconds of a switch, and the bytes of N tasks.

    python benchmarks/bank.py                      # MiniLM, 8 classifiers, 1 thread
    python benchmarks/bank.py --tasks 2 --model tiny

Masks are drawn at random (a switch's time does not depend on which weights are kept), and each
task's head, biases, norms and pooler are moved at random, as ``freeze_`` and a training would.
Beside the bank stand those who serve whole models: N models in memory, of which one is picked;
one model, into which the next task's ``model.safetensors`` is loaded; and
``from_pretrained`` of the next task's folder (files in the page cache). They take turns in one
run, and the bank must give the whole models' logits, bit for bit. A model that lies in a file is
read by its first forward, so a switch is timed alone and with a forward after it. Resident bytes
are those of a fresh process that has loaded and run every task, less those of one that has only
imported the libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import quartiles, resident_bytes, write_block

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "deploy.md"
SPARSITY = 0.5
CLASSES = 2
SAME = "bank, the same task again"


def write_tasks(name: str, count: int, folder: Path) -> str:
    """Write each task's ticket and whole model; return the base's name or folder."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

    from ticketry.bank import freeze_
    from ticketry.core.mask import Mask
    from ticketry.models.loading import (
        base_sha256,
        canonical_tensors,
        load_backbone,
        prunable,
        quiet,
        resolve,
        tensor_hashes,
    )
    from ticketry.ticket import Base, Ticket

    torch.manual_seed(0)
    if name == "tiny":
        name = str(folder / "base")
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        BertModel(BertConfig(vocab_size=99, intermediate_size=64, **sizes)).save_pretrained(name)
    base = resolve(name)
    backbone = load_backbone(base)
    tensors, hashes = canonical_tensors(backbone), tensor_hashes(backbone)
    kind = str(backbone.config.model_type)
    described = Base(name, base.revision, base_sha256(hashes), hashes, kind, 1)
    names = prunable(backbone, "encoder")
    for index in range(count):
        mask = Mask({n: torch.rand(tensors[n].shape) >= SPARSITY for n in names})
        ticket = Ticket(mask, described)
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                base.path, num_labels=CLASSES
            )
        freeze_(model, ticket)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.02 * torch.randn(parameter.shape)
        ticket.save_pretrained(folder / f"ticket-{index}")
        model.save_pretrained(folder / f"model-{index}")
    return name


def whole_model(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    from ticketry.models.loading import quiet

    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def build_bank(base: str, count: int, folder: Path) -> Any:
    from ticketry import TicketBank

    bank = TicketBank(base)
    for index in range(count):
        bank.add(folder / f"ticket-{index}", folder / f"model-{index}", name=str(index))
    return bank


def token_ids(model: Any, length: int) -> Any:
    import torch

    size = model.config.vocab_size
    return torch.randint(1, size, (1, length), generator=torch.Generator().manual_seed(0))


def switches(base: str, count: int, folder: Path, args: Any) -> tuple[list[dict[str, Any]], Any]:
    """Time one switch of each contender, in turns; return a row for each, and the bank's size."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(args.threads)
    bank = build_bank(base, count, folder)
    loaded = [whole_model(folder / f"model-{index}") for index in range(count)]
    one = whole_model(folder / "model-0")
    ids = token_ids(one, args.length)

    def reload(index: int) -> Any:
        one.load_state_dict(load_file(folder / f"model-{index}" / "model.safetensors"))
        return contextlib.nullcontext(one)

    contenders: dict[str, Callable[[int], Any]] = {
        "bank": lambda index: bank.use(str(index)),
        SAME: lambda index: bank.use("0"),
        "N models in memory": lambda index: contextlib.nullcontext(loaded[index]),
        "load_state_dict of model.safetensors": reload,
        "from_pretrained": lambda index: contextlib.nullcontext(
            whole_model(folder / f"model-{index}")
        ),
    }
    with torch.inference_mode():
        for index in range(count):
            # A file's tensors begin anywhere in memory, and torch's products then may round
            # another way; a copy lies like the bank's.
            wanted = copy.deepcopy(loaded[index])(ids).logits
            with bank.use(str(index)) as model:
                assert torch.equal(model(ids).logits, wanted), f"task {index} differs in the bank"
    times: dict[str, list[float]] = {name: [] for name in contenders}
    both: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(args.rounds + 1):  # the first warms up
        for name, switch in contenders.items():
            alone, served = [], []
            for turn in range(3):
                index = (number + turn) % count
                with bank.use("0" if name == SAME else str(index)):
                    pass
                start = time.perf_counter()
                with switch((index + 1) % count) as model, torch.inference_mode():
                    alone.append(time.perf_counter() - start)
                    model(ids)
                served.append(time.perf_counter() - start)
            times[name].append(statistics.median(alone))
            both[name].append(statistics.median(served))
    return [
        {
            "name": name,
            "ms": [1e3 * q for q in quartiles(times[name][1:])],
            "both_ms": [1e3 * q for q in quartiles(both[name][1:])],
            "ratio": quartiles(
                [a / b for a, b in zip(both[name][1:], both["bank"][1:], strict=True)]
            ),
        }
        for name in contenders
    ], bank.size()


def child(kind: str, base: str, count: int, folder: Path, args: Any) -> None:
    """In a process of its own: load and run every task, and print the resident bytes."""
    import gc

    import torch

    import ticketry.bank  # noqa: F401  everyone imports the same

    torch.set_num_threads(args.threads)
    warm = torch.nn.Linear(8, 8)(torch.zeros(1, 8))
    held: Any = [warm]
    if kind == "bank":
        held = build_bank(base, count, folder)
        gc.collect()
        for name in held.names:
            with held.use(name) as model, torch.inference_mode():
                model(token_ids(model, args.length))
    elif kind == "models":
        held = [whole_model(folder / f"model-{index}") for index in range(count)]
        for model in held:
            with torch.inference_mode():
                model(token_ids(model, args.length))
    gc.collect()
    print(json.dumps(resident_bytes()))


def resident(kind: str, base: str, count: int, folder: Path, args: Any) -> int:
    command = [sys.executable, __file__, "--child", kind, "--base", base, "--folder", str(folder),
               "--tasks", str(count), "--threads", str(args.threads),
               "--length", str(args.length)]  # fmt: skip
    # Freed memory goes back at once, so that what was loaded and dropped is not counted.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(json.loads(done.stdout.splitlines()[-1]))


def spread(values: list[float], digits: int) -> str:
    """Say the median, and the quartiles in brackets."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def mega(value: float) -> str:
    return f"{value / 1e6:,.2f}"


def table(rows: list[dict[str, Any]], size: Any, found: dict[str, int], args: Any) -> list[str]:
    count = args.tasks
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    lines = [
        f"`--model {args.model} --tasks {count} --rounds {args.rounds}`: {count} classifiers, "
        f"masks of {SPARSITY:.0%}, {threads}; forwards of 1 × {args.length} tokens.",
        "",
        "| switch to another task | ms, median (middle half) | with a forward after it, ms "
        "| times the bank's |",
        "|---|---|---|---|",
    ]
    for row in rows:
        fine = 4 if row["ms"][1] < 0.1 else 2
        lines.append(
            f"| {row['name']} | {spread(row['ms'], fine)} | {spread(row['both_ms'], 1)} "
            f"| {spread(row['ratio'], 2)} |"
        )
    task = next(iter(size.tasks.values()))
    plain = found["nothing"]
    lines += [
        "",
        f"| {count} tasks, MB | in tensors | resident | on disk |",
        "|---|---|---|---|",
        f"| bank | {mega(size.total)}: base {mega(size.base)}, image {mega(size.image)}, and a "
        f"task {mega(task.total)} (mask {mega(task.mask)}, head {task.head:,} bytes, biases, norms "
        f"and pooler {mega(task.small)}) | {mega(found['bank'] - plain)} "
        f"| {mega(found['bank_disk'])} |",
        f"| {count} whole models | {mega(found['models_tensors'])} "
        f"| {mega(found['models'] - plain)} | {mega(found['models_disk'])} |",
    ]
    return lines


def on_disk(base: str, count: int, folder: Path, bank: Any) -> tuple[int, int]:
    """Return the bytes that hold all tasks: base, masks and own tensors; or whole models."""
    from ticketry.models.sources import resolve

    task = next(iter(bank.tasks.values()))
    weights = (resolve(base).path / "model.safetensors").stat().st_size
    masks = sum(
        (folder / f"ticket-{index}" / "ticket_mask.safetensors").stat().st_size
        for index in range(count)
    )
    models = sum(
        (folder / f"model-{index}" / "model.safetensors").stat().st_size for index in range(count)
    )
    return weights + masks + count * (task.head + task.small), models


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm", help="minilm, tiny, a folder or hub id")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--write", action="store_true", help="into docs/deploy.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parsed()
    if args.child:
        child(args.child, args.base, args.tasks, args.folder, args)
        return 0
    with tempfile.TemporaryDirectory(prefix="ticketry-bank-") as place:
        folder = Path(place)
        base = write_tasks(args.model, args.tasks, folder)
        found = {
            kind: resident(kind, base, args.tasks, folder, args)
            for kind in ("nothing", "bank", "models")
        }
        rows, size = switches(base, args.tasks, folder, args)
        found["bank_disk"], found["models_disk"] = on_disk(base, args.tasks, folder, size)
        model = whole_model(folder / "model-0")
        tensors = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
        found["models_tensors"] = args.tasks * tensors
    lines = table(rows, size, found, args)
    print("\n".join(lines))
    if args.write:
        write_block(PAGE, "bank", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
