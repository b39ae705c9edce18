"""Global selection against torch.nn.utils.prune, side by side in one run: time and peak memory.

    python benchmarks/selection.py            # BERT-base's 72 encoder matrices, 84,934,656 weights
    python benchmarks/selection.py --quick    # one block, 7,077,888 weights: shows that it works

Peer: ``prune.global_unstructured(..., L1Unstructured)``, the usual way to prune by global magnitude
in torch. Same weights (random normal, float32), same density, same process and threads; the two
take turns. Goals at full size: at least 10 times faster, and peak extra memory beside the returned
mask at most 10% of the weights' bytes. Exit code 1 when one is missed, or when the two masks
differ in more than the choice among ties.

Memory is measured per side in a process of its own: the kernel's high-water mark of resident memory
during the call (``VmHWM``, reset right before through ``/proc/self/clear_refs``) minus the
resident memory before it. This counts every allocation that was really touched, of torch, numpy and
Python alike; ``ru_maxrss`` cannot be reset and may hide a small peak below that of the imports (it
is the fallback where /proc is missing). The returned mask's bytes are then subtracted: packed bits
here, float32 buffers at the peer. The peer's masked copy of the weights counts as extra, because a
caller pays for it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

from ticketry.core.mask import Mask
from ticketry.core.select import select_global

FASTER_GOAL = 10.0
MEMORY_GOAL = 0.10
MIB = 2**20


class Matrix(nn.Module):
    """A module with one weight, as the peer wants it."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns), requires_grad=False)


def encoder(blocks: int) -> dict[str, Matrix]:
    """Build matrices of the shapes of BERT-base's encoder: six a block."""
    torch.manual_seed(0)
    modules: dict[str, Matrix] = {}
    for block in range(blocks):
        prefix = f"encoder.layer.{block}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            modules[f"{prefix}.attention.{part}.weight"] = Matrix(768, 768)
        modules[f"{prefix}.intermediate.dense.weight"] = Matrix(3072, 768)
        modules[f"{prefix}.output.dense.weight"] = Matrix(768, 3072)
    # The order of names is the order of ticketry's flat index; the peer's is that of its list.
    return dict(sorted(modules.items()))


def run_ticketry(modules: dict[str, Matrix], sparsity: float) -> Mask:
    return select_global({name: module.weight for name, module in modules.items()}, 1 - sparsity)


def run_peer(modules: dict[str, Matrix], sparsity: float) -> None:
    prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        pruning_method=prune.L1Unstructured,
        amount=sparsity,
    )


def undo_peer(modules: dict[str, Matrix]) -> None:
    """Give each module its dense weight back, without the peer's buffers."""
    for module in modules.values():
        dense = module.weight_orig.detach()
        prune.remove(module, "weight")
        module.weight = nn.Parameter(dense, requires_grad=False)


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# --- memory -------------------------------------------------------------------------------------


def resident(field: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_of(call: Callable[[], object]) -> tuple[int, str, object]:
    """Return the peak of resident memory above what was there before, how, and the result."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        # Free heap pages would take small allocations unseen: hand them back first.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
        result = call()
        return resident("VmHWM") - before, "VmHWM", result
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = call()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (after - before) * unit, "ru_maxrss", result


def measure_memory(side: str, blocks: int, sparsity: float) -> dict[str, float | str]:
    """Measure one side; runs in a process of its own."""
    # Once on a small model: lazy imports and thread stacks are not what is asked about.
    small = {"small": Matrix(512, 512)}
    run = run_ticketry if side == "ticketry" else run_peer
    run(small, sparsity)
    modules = encoder(blocks)
    weight_bytes = sum(module.weight.numel() * 4 for module in modules.values())
    peak, how, result = peak_of(lambda: run(modules, sparsity))
    if isinstance(result, Mask):
        mask_bytes = sum(len(result.packed(name)) for name in result)
    else:
        mask_bytes = sum(module.weight_mask.numel() * 4 for module in modules.values())
    return {
        "peak_bytes": peak,
        "mask_bytes": mask_bytes,
        "beside_mask": (peak - mask_bytes) / weight_bytes,
        "how": how,
    }


def memory_in_own_process(side: str, blocks: int, sparsity: float) -> dict[str, float | str]:
    command = [sys.executable, __file__, "--memory", side, "--blocks", str(blocks)]
    command += ["--sparsity", str(sparsity), "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"measuring the memory of {side} failed:\n{done.stderr}")
    answer: dict[str, float | str] = json.loads(done.stdout)
    return answer


# --- the run ------------------------------------------------------------------------------------


def compare(blocks: int, sparsity: float, rounds: int) -> tuple[list[float], list[float], bool]:
    """Let the two take turns; return ticketry's seconds, the peer's, and whether they agree."""
    modules = encoder(blocks)
    ours: list[float] = []
    peers: list[float] = []
    for _ in range(rounds):
        ours += [timed(lambda: run_ticketry(modules, sparsity)) for _ in range(3)]
        peers.append(timed(lambda: run_peer(modules, sparsity)))
        print(
            f"  round {len(peers)}: ticketry {ours[-1]:.3f} s, peer {peers[-1]:.3f} s", flush=True
        )
        if len(peers) < rounds:
            undo_peer(modules)
    theirs = {name: module.weight_mask.bool() for name, module in modules.items()}
    undo_peer(modules)
    return ours, peers, agreement(modules, run_ticketry(modules, sparsity), theirs)


def agreement(modules: dict[str, Matrix], mask: Mask, theirs: dict[str, torch.Tensor]) -> bool:
    """Say whether both keep as many, and differ only in ties: the peer's tie rule is its own."""
    kept_by_peer = sum(int(bits.sum()) for bits in theirs.values())
    print(f"kept: ticketry {mask.kept:,}, peer {kept_by_peer:,} of {mask.prunable:,}")
    differing = torch.cat(
        [module.weight[theirs[name] ^ mask[name]].abs() for name, module in modules.items()]
    )
    values = len(differing.unique())
    print(f"positions that differ: {len(differing)}, of {values} magnitude(s); one is a tie")
    return mask.kept == kept_by_peer and values <= 1


def spread(seconds: list[float]) -> str:
    median = statistics.median(seconds)
    return f"median {median:.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s, n = {len(seconds)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one block; goals are not enforced")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the peer (3 of ours each)")
    parser.add_argument("--sparsity", type=float, default=0.4)
    parser.add_argument("--threads", type=int, help="torch's threads, of both sides")
    parser.add_argument("--blocks", type=int, default=12, help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=["ticketry", "peer"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(measure_memory(options.memory, options.blocks, options.sparsity)))
        return 0
    blocks = 1 if options.quick else options.blocks
    weights = blocks * (4 * 768 * 768 + 2 * 768 * 3072)
    print(
        f"{weights:,} weights in {6 * blocks} matrices, float32, sparsity {options.sparsity}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores"
    )
    # Memory first: a child begins with the high-water mark of the process that started it.
    memory = {
        side: memory_in_own_process(side, blocks, options.sparsity) for side in ("ticketry", "peer")
    }
    ours, peers, agree = compare(blocks, options.sparsity, options.rounds)
    faster = statistics.median(peers) / statistics.median(ours)
    print(f"ticketry: {spread(ours)}")
    print(f"peer:     {spread(peers)}")
    for side, found in memory.items():
        print(
            f"memory of {side}: peak {float(found['peak_bytes']) / MIB:,.0f} MiB extra, of which "
            f"the mask {float(found['mask_bytes']) / MIB:,.0f} MiB; beside it "
            f"{float(found['beside_mask']):.1%} of the weights' {weights * 4 / MIB:,.0f} MiB "
            f"({found['how']})"
        )
    beside = float(memory["ticketry"]["beside_mask"])
    goals = {
        f"at least {FASTER_GOAL:.0f} times faster: {faster:.1f} times": faster >= FASTER_GOAL,
        f"extra memory at most {MEMORY_GOAL:.0%}: {beside:.1%}": beside <= MEMORY_GOAL,
        "both keep the same number, and differ in ties alone": agree,
    }
    for text, reached in goals.items():
        print(f"{'reached' if reached else 'MISSED '}  {text}")
    if options.quick:
        print("--quick: too small to judge time and memory by; only the masks' equality is.")
        return 0 if agree else 1
    return 0 if all(goals.values()) and math.isfinite(faster) else 1


if __name__ == "__main__":
    sys.exit(main())
