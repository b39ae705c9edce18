"""What one core can do, and which share of that each kernel reaches in an encoder.

    python benchmarks/roofline.py                       # MiniLM at 70, 90 and 95%, 128 tokens
    python benchmarks/roofline.py --isa avx2 --sparsity 90

Builds ``native/roofline.cpp`` with the kernels and runs it on the packed matrices of a pruned
MiniLM (the models of ``inference.py``), on one thread. The core's peak (products and sums in
registers) and the rate at which it loads from each level of its memory are measured in the same
run. A kernel's rate is compared with both: a product needs one load of activations for each two
operations, so it can at best run at the rate of loads from the nearest level.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import write_block
from inference import ROOT, models
from inference_page import PAGE

BUILD = ROOT / "build" / "roofline"
LEVELS = ("load L1", "load L2", "load L3", "load memory")


def built() -> Path:
    """Build the program; return it."""
    for command in (
        ["cmake", "-S", str(ROOT / "native"), "-B", str(BUILD), "-DTICKETRY_ROOFLINE=ON"],
        ["cmake", "--build", str(BUILD)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the kernels could not be built:\n{done.stdout}{done.stderr}")
    return BUILD / "ticketry_roofline"


def pack(folder: Path, target: Path) -> list[str]:
    """Write an encoder's packed matrices; return its heads, their size and its inner width."""
    from transformers import AutoModel

    from ticketry.runtime import packing

    model = AutoModel.from_pretrained(folder)
    with target.open("wb") as file:
        for layer in model.encoder.layer:
            own = layer.attention.self
            linears = (own.query, own.key, own.value, layer.attention.output.dense)
            for linear in (*linears, layer.intermediate.dense, layer.output.dense):
                packed = packing.pack(linear.weight)
                file.write(struct.pack("<3q", *linear.weight.shape, len(packed)))
                file.write(packed.numpy().tobytes())
    config = model.config
    heads = config.num_attention_heads
    return [str(n) for n in (heads, config.hidden_size // heads, config.intermediate_size)]


def run(program: Path, isa: int, tokens: int, sizes: list[str], matrices: Path) -> dict[str, Any]:
    """Return what the program measured, by name."""
    done = subprocess.run(
        [str(program), str(isa), str(tokens), *sizes, str(matrices)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the program ended with {done.returncode}: {done.stderr}")
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def lines(found: dict[float, dict[str, Any]], tokens: int, isa: str) -> Iterator[str]:
    """Say everything in Markdown."""
    core = next(iter(found.values()))
    peak = core["peak"]["flop"] / core["peak"]["seconds"]
    loads = {name: core[name]["bytes"] / core[name]["seconds"] for name in LEVELS}
    rates = ", ".join(f"{rate / 1e9:.0f} from {name[5:]}" for name, rate in loads.items())
    yield f"One core, {isa}: {peak / 1e9:.0f} GFLOP/s in registers; GB/s loaded: {rates}."
    yield ""
    yield (
        f"| MiniLM, {tokens} tokens | sparsity | ms | share of the encoder | GFLOP/s (of the peak) "
        "| GB/s of activations (of L1's loads) |"
    )
    yield "|---|---|---|---|---|---|"
    for sparsity, rows in found.items():
        whole = rows["encoder"]["seconds"]
        parts = [row for name, row in rows.items() if name not in ("peak", "encoder", *LEVELS)]
        rest = whole - sum(row["seconds"] for row in parts)
        for row in parts:
            yield " | ".join(cells(row, sparsity, whole, peak, loads["load L1"]))
        yield (
            f"| the rest (layout of heads, checks, cold caches) | {sparsity:.0%} | "
            f"{1e3 * rest:.2f} | {rest / whole:.0%} |  |  |"
        )
        yield " | ".join(cells(rows["encoder"], sparsity, whole, peak, loads["load L1"]))


def cells(
    row: dict[str, Any], sparsity: float, whole: float, peak: float, loads: float
) -> list[str]:
    """Say one part."""
    rate, moved = row["flop"] / row["seconds"], row["bytes"] / row["seconds"]
    return [
        f"| {row['name']}",
        f"{sparsity:.0%}",
        f"{1e3 * row['seconds']:.2f}",
        f"{row['seconds'] / whole:.0%}",
        f"{rate / 1e9:.0f} ({rate / peak:.0%})" if rate else "",
        f"{moved / 1e9:.0f} ({moved / loads:.0%}) |" if moved else " |",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, action="append", help="in percent")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--isa", help="the best by default")
    parser.add_argument("--keep", type=Path, help="a folder for the models, kept for another run")
    parser.add_argument("--pause", action="store_true", help="wait for a line before measuring")
    parser.add_argument("--write", action="store_true", help="write the block of the page")
    args = parser.parse_args()
    from ticketry.runtime import native

    isa = args.isa or native.isa()
    if isa not in native.library().isas:
        sys.exit(f"no instruction set {isa!r} here; there is {', '.join(native.library().isas)}.")
    sparsities = [value / 100 for value in args.sparsity or (70, 90, 95)]
    with tempfile.TemporaryDirectory() as scratch:
        program, place = built(), args.keep or Path(scratch)
        folders = models("minilm", sparsities, place)
        sizes: list[str] = []
        for index, folder in enumerate(folders):
            sizes = pack(folder, Path(scratch) / str(index))
        if args.pause:
            print("loaded; a line starts the clock", file=sys.stderr, flush=True)
            sys.stdin.readline()
        found = {
            sparsity: run(program, native.ISAS[isa], args.tokens, sizes, Path(scratch) / str(index))
            for index, sparsity in enumerate(sparsities)
        }
    said = list(lines(found, args.tokens, isa))
    print("\n".join(said))
    if args.write:
        write_block(PAGE, "roofline", said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
