"""Whole models on a CPU: ticketry's sparse execution against other runtimes, in turns in one run.

    python benchmarks/inference.py                                  # MiniLM, 1 thread, 128 tokens
    python benchmarks/inference.py --model bert-base --threads 2 --sequence 32 --batch 8
    python benchmarks/inference.py --next    # what results/inference.json lacks, one table a call
    python benchmarks/inference.py --write   # docs/performance.md from that file

Contenders: torch eager; ``torch.compile``; torch with MKL's CSR products; ONNX Runtime in float32
and with dynamic int8; DeepSparse 1.8; and ours. They compute the same last hidden states of the
same model, pruned by global one-shot magnitude over its encoder: MiniLM as packaged, or one of
bert-base's size with random weights (``--model tiny`` shows that it works). Each is a process of
its own, asked for one short round at a time, and the rounds take turns; what counts is the median
of the ratios within a round, printed with its quartiles. Those that do not notice zeros run one
model only.

ONNX Runtime and DeepSparse have environments of their own (``make setup-peers``); one that is
missing or refuses is left out with a line that says so. ``--pause`` waits for a line on standard
input once all models are loaded, so that only the rounds need the machine to themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inference_page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = Path(os.environ.get("TICKETRY_PEERS", ROOT / ".venv-peers"))
DEEPSPARSE = Path(os.environ.get("TICKETRY_DEEPSPARSE", ROOT / ".venv-deepsparse"))
ROUND_S = 0.04
REST_S = 0.01
"""Between two contenders, so that threads of the first have stopped spinning."""
RIVALS = {"onnx": "ONNX Runtime", "onnx-int8": "its int8", "deepsparse": "DeepSparse"}
"""Those that others are compared with, and their names in a table."""
CONTENDERS = {
    "eager": ("torch eager", None, False),
    "compile": ("torch.compile", None, False),
    "onnx": ("ONNX Runtime fp32", PEERS, False),
    "onnx-int8": ("ONNX Runtime int8", PEERS, False),
    "csr": ("MKL CSR", None, True),
    "deepsparse": ("DeepSparse 1.8", DEEPSPARSE, True),
    "ours": ("ticketry", None, True),
}
"""Kind -> its name, the environment it runs in (None: this one), whether it notices zeros."""
HELPERS = {"truth": None, "export": PEERS}
CONFIGS: dict[str, dict[str, int]] = {
    "bert-base": {},
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    },
}
"""Models with random weights, in what their configuration differs from transformers' own."""


class Contender:
    """A process that runs rounds when asked."""

    def __init__(self, kind: str, options: dict[str, Any], folders: list[Path]) -> None:
        place = CONTENDERS[kind][1] if kind in CONTENDERS else HELPERS[kind]
        python = Path(sys.executable) if place is None else place / "bin" / "python"
        self.kind, self.why, self.differences = kind, "", [0.0]
        self.process: subprocess.Popen[str] | None = None
        if not python.exists():
            self.why = "its environment is not set up (make setup-peers)"
            return
        given = {**options, "folders": [str(folder) for folder in folders]}
        environment = dict(os.environ)
        if place is not None:
            environment.pop("PYTHONPATH", None)
        environment |= {name: str(options["threads"]) for name in ("OMP_NUM_THREADS",)}
        self.process = subprocess.Popen(
            [str(python), str(HERE / "contender.py"), kind, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        answer = self._answer()
        self.why = answer.get("why", "")
        self.differences = answer.get("differences", [0.0])

    def _answer(self) -> Any:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"why": "its process ended without a word"}

    def round(self, index: int, count: int) -> list[float]:
        """Return the seconds of ``count`` runs of its model number ``index``."""
        assert self.process is not None
        assert self.process.stdin is not None
        print(index, count, file=self.process.stdin, flush=True)
        found: list[float] = self._answer()
        return found

    def end(self) -> None:
        """End its process."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()


def models(name: str, sparsities: list[float], into: Path) -> list[Path]:
    """Write a model at each sparsity; return the folders."""
    import torch
    from transformers import BertConfig, BertModel

    from ticketry.core.select import select_global
    from ticketry.models.loading import (
        apply_mask_,
        canonical_parameters,
        load_backbone,
        prunable,
        resolve,
    )

    folders = []
    for sparsity in sparsities:
        folder = into / f"{name}-{sparsity:.2f}"
        folders.append(folder)
        if folder.exists():
            continue
        torch.manual_seed(0)
        if name == "minilm":
            model = load_backbone(resolve("minilm", None, say=say))
        else:
            model = BertModel(BertConfig(**CONFIGS[name])).eval()
        weights = canonical_parameters(model)
        chosen = {n: weights[n].detach() for n in prunable(model, "encoder")}
        apply_mask_(model, select_global(chosen, 1 - sparsity))
        model.save_pretrained(folder)
    return folders


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure(
    folders: list[Path], sparsities: list[float], options: dict[str, Any], args: Any
) -> list[dict[str, Any]]:
    """Run one table: every contender at one batch, length and number of threads."""
    kinds = [kind for kind in CONTENDERS if kind not in args.without]
    prepare(folders, options, kinds)
    everyone: list[Contender] = []

    def start(kind: str) -> None:
        one = Contender(kind, options, folders if CONTENDERS[kind][2] else folders[:1])
        if one.why:
            say(f"left out: {CONTENDERS[kind][0]}: {one.why}")
            one.end()
        else:
            everyone.append(one)

    late = [kind for kind in kinds if args.pause and kind == "ours"]  # it measures as it loads
    for kind in kinds:
        if kind not in late:
            start(kind)
    if args.pause:
        say("loaded; a line starts the clock")
        sys.stdin.readline()
    for kind in late:
        start(kind)
    turns = [(one, i) for one in everyone for i in range(len(one.differences))]
    counts, began = [], time.monotonic()
    for one, i in turns:  # warm-up, which also says how many runs make a round
        once = one.round(i, 1)[0]
        if once < 0.5:
            once = statistics.median(one.round(i, 4))
        counts.append(max(1, min(20, round(ROUND_S / once))))
    times: dict[tuple[str, int], list[float]] = {(one.kind, i): [] for one, i in turns}
    for index in range(args.rounds):
        if index >= 3 and time.monotonic() - began > args.seconds:
            break
        for (one, i), count in zip(turns, counts, strict=True):
            time.sleep(REST_S)
            times[one.kind, i].append(statistics.median(one.round(i, count)))
    for one in everyone:
        one.end()
    return [
        {
            **options,
            "kind": one.kind,
            "sparsity": sparsities[i] if CONTENDERS[one.kind][2] else None,
            "seconds": quartiles(times[one.kind, i]),
            "difference": one.differences[i],
            "ratios": ratios(times, one.kind, i),
        }
        for one, i in turns
    ]


def prepare(folders: list[Path], options: dict[str, Any], kinds: list[str]) -> None:
    """Write what the contenders are compared with, and their ONNX files; nothing twice."""
    Contender("truth", options, folders).end()
    if any(CONTENDERS[kind][1] is not None for kind in kinds):
        exporter = Contender("export", options, folders)
        if exporter.why:
            say(f"no ONNX files: {exporter.why}")
        exporter.end()


def ratios(
    times: dict[tuple[str, int], list[float]], kind: str, index: int
) -> dict[str, list[float]]:
    """Return how many times as fast one is as each rival: quartiles over rounds.

    A rival that notices zeros is compared at the same sparsity.
    """
    found = {}
    for rival in RIVALS:
        notices = CONTENDERS[rival][2]
        if notices and not CONTENDERS[kind][2]:
            continue
        theirs = times.get((rival, index if notices else 0))
        if theirs is not None:
            found[rival] = quartiles(
                [a / b for a, b in zip(theirs, times[kind, index], strict=True)]
            )
    return found


def quartiles(values: list[float]) -> list[float]:
    """Return the median and the quartiles."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return [middle, low, high]


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Say one table in Markdown."""
    heads = " | ".join(f"faster than {name}" for name in RIVALS.values())
    yield f"| runtime | sparsity | ms, median (middle half) | {heads} | largest difference |"
    yield "|---|---|---|" + "---|" * len(RIVALS) + "---|"
    for row in rows:
        middle, low, high = (1e3 * value for value in row["seconds"])
        sparsity = "any" if row["sparsity"] is None else f"{row['sparsity']:.0%}"
        found = row["ratios"]
        times = " | ".join(
            "{:.2f} ({:.2f} to {:.2f})".format(*found[rival]) if rival in found else "-"
            for rival in RIVALS
        )
        yield (
            f"| {CONTENDERS[row['kind']][0]} | {sparsity} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {times} | {row['difference']:.0e} |"
        )


def title(model: str, options: dict[str, Any]) -> str:
    """Say what one table is about."""
    threads = options["threads"]
    return (
        f"{model}, batch {options['batch']}, {options['sequence']} tokens, "
        f"{threads} thread{'s' if threads > 1 else ''}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("minilm", *CONFIGS), action="append")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--sequence", type=int, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--sparsity", type=float, action="append", help="in percent")
    parser.add_argument("--rounds", type=int, default=15, help="at most")
    parser.add_argument(
        "--seconds", type=float, default=150, help="at most, but 3 rounds in any case"
    )
    parser.add_argument("--pause", action="store_true", help="wait for a line when all is loaded")
    parser.add_argument("--next", action="store_true", help="measure what --results lacks first")
    parser.add_argument("--prepare", action="store_true", help="only write models and ONNX files")
    parser.add_argument("--write", action="store_true", help="write the page from --results")
    parser.add_argument("--results", type=Path, default=inference_page.FILE)
    parser.add_argument("--without", action="append", choices=sorted(CONTENDERS), default=[])
    parser.add_argument("--keep", type=Path, help="a folder for the models, kept for another run")
    return parser.parse_args()


def configurations(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is to be measured."""
    if args.next or args.prepare:
        found = inference_page.missing(args.results)
        return found[:1] if args.next else found
    names = ("model", "threads", "sequence", "batch")
    chosen = (args.model or ["minilm"], args.threads or [1], args.sequence or [128])
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*chosen, args.batch or [1])
    ]


def main() -> int:
    args = parsed()
    if args.write:
        inference_page.write(args.results)
        return 0
    sparsities = [value / 100 for value in args.sparsity or (50, 70, 80, 90, 95)]
    folder = args.keep or Path(tempfile.mkdtemp(prefix="ticketry-inference-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors\n")
    try:
        for one in configurations(args):
            folders = models(one["model"], sparsities, folder)
            options = {name: one[name] for name in ("batch", "sequence", "threads")}
            if args.prepare:
                prepare(folders, options, list(CONTENDERS))
                continue
            rows = measure(folders, sparsities, options, args)
            print(f"**{title(one['model'], options)}**\n")
            print("\n".join(lines(rows)) + "\n", flush=True)
            if args.next:
                inference_page.keep(args.results, {**one, "rows": rows})
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
