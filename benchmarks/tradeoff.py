"""What sparsity buys and costs: accuracy, latency, stored and resident bytes of MiniLM on movies.

    python benchmarks/tradeoff.py                  # all of it; the same command continues
    python benchmarks/tradeoff.py --only train --most 1     # one training more
    python benchmarks/tradeoff.py --only say --write

Every model gets the same training, twice: 2 epochs on 2,000 examples from pre-trained weights, and
2 more from where it stands, with a fresh head. A sparse one loses its smallest weights in between
(one-shot, global magnitude of the trained weights); dense and the smaller model (MiniLM's first 3
layers of 6) lose none. Beside them: the dense one under ONNX Runtime, and with int8 weights there
(dynamic quantisation). Scores are test accuracy, the mean over seeds; one seed's models are timed,
in turns in one process, and what counts is the ratio to dense within a round. Resident bytes are
those that a fresh process takes to load a model and run it, beside its libraries (the median of 3
processes); sparse ones are loaded packed. Weights that lie in a file as they are get mapped, and
only what was read of them is resident.

Models lie under runs/tradeoff, results in results/embedded/tradeoff; ``--write`` puts the table
into docs/deploy.md and the picture beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import quartiles, resident_bytes, write_block
from tradeoff_models import (
    KINDS,
    LAYERS,
    RESULTS,
    ROOT,
    RUNS,
    SEEDS,
    SPARSITIES,
    model_folder,
    name_of,
    scores,
    train,
    trainings,
)

PAGE = ROOT / "docs" / "deploy.md"
PICTURE = ROOT / "docs" / "tradeoff.svg"
LENGTH, BATCH = 128, 1
MADE = ("onnx", "onnx-90", "onnx-int8")
SAID = {
    "dense": "dense, torch",
    "small": f"dense of {LAYERS} layers, torch",
    "onnx": "dense, ONNX Runtime",
    "onnx-90": "90% sparse, ONNX Runtime",
    "onnx-int8": "int8, ONNX Runtime",
}


# --- measuring -----------------------------------------------------------------------------------


def prepare(seed: int) -> dict[str, Any]:
    """Pack and export one seed's models; return the stored bytes by kind."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ticketry.export import export
    from ticketry.packed.packer import pack_folder

    stored: dict[str, Any] = {}
    for kind in KINDS:
        folder = model_folder(kind, seed)
        if not (folder / "score.json").exists():
            continue
        stored[kind] = (folder / "model.safetensors").stat().st_size
        if kind.startswith("sparse"):
            packed = pack_folder(folder, RUNS / f"{kind}-packed")
            small = pack_folder(folder, RUNS / f"{kind}-packed-int8", "int8")
            stored[kind] = packed.file_bytes
            stored[f"{kind}, int8 values"] = small.file_bytes
    for kind, source in (("onnx", "dense"), ("onnx-90", "sparse-90")):
        if source in stored and not onnx_file(kind).exists():
            export(model_folder(source, seed), onnx_file(kind).parent)
    if not onnx_file("onnx-int8").exists():
        onnx_file("onnx-int8").parent.mkdir(exist_ok=True)
        quantize_dynamic(
            onnx_file("onnx"), onnx_file("onnx-int8"), weight_type=QuantType.QInt8, per_channel=True
        )
    return stored | {
        kind: onnx_file(kind).stat().st_size for kind in MADE if onnx_file(kind).exists()
    }


def onnx_file(kind: str) -> Path:
    return RUNS / kind / "model.onnx"


def runner(kind: str, seed: int, *, packed: bool = False) -> Callable[[Any], Any]:
    """Return what gives the logits of a batch; sparse ones accelerated, or loaded packed."""
    if kind in MADE:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(onnx_file(kind)), settings, providers=["CPUExecutionProvider"]
        )
        known = {value.name for value in session.get_inputs()}
        return lambda batch: session.run(
            None, {name: value.numpy() for name, value in batch.items() if name in known}
        )[0]
    import torch

    from ticketry.packed.loading import load_model, load_packed
    from ticketry.runtime.accelerating import accelerate

    torch.set_num_threads(1)
    if packed and kind.startswith("sparse"):
        model: Any = load_packed(RUNS / f"{kind}-packed", sparse=True)
    else:
        model = load_model(model_folder(kind, seed))
        if kind.startswith("sparse"):
            accelerate(model, tokens=BATCH * LENGTH)

    def run(batch: Any) -> Any:
        with torch.inference_mode():
            return model(**batch).logits.numpy()

    return run


def tokens(batch: int, length: int) -> dict[str, Any]:
    import torch

    ids = torch.randint(1000, 20000, (batch, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def latencies(kinds: list[str], seed: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Time every model in turns; return quartiles of milliseconds and of ratios to dense."""
    runs = {kind: runner(kind, seed) for kind in kinds}
    batch = tokens(BATCH, LENGTH)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 2):
        for kind, run in runs.items():
            time.sleep(0.005)  # threads of the one before have stopped spinning
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                run(batch)
                taken.append(time.perf_counter() - start)
            if number > 1:
                times[kind].append(statistics.median(taken))
    return {
        kind: {
            "ms": quartiles([1e3 * t for t in taken]),
            "speedup": quartiles([d / t for d, t in zip(times["dense"], taken, strict=True)]),
        }
        for kind, taken in times.items()
    }


def right(run: Callable[[Any], Any]) -> list[bool]:
    """Return whether each test example of movies, short ones first, is answered right."""
    from ticketry.models.loading import load_tokenizer
    from ticketry.models.sources import resolve
    from ticketry.tasks.registry import load_task

    test = load_task("movies").test
    tokenizer = load_tokenizer(resolve(str(model_folder("dense", SEEDS[0]))))
    found: list[bool] = []
    order = sorted(range(len(test)), key=lambda i: len(test.texts[i]))
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        batch = tokenizer(
            [test.texts[i] for i in part], truncation=True, max_length=48, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        said = run(dict(batch)).argmax(1)
        found += [bool(answer == test.labels[i]) for answer, i in zip(said, part, strict=True)]
    return found


def accuracy(kind: str, seed: int) -> float:
    """Return the test accuracy of a made model."""
    return statistics.fmean(right(runner(kind, seed)))


def child(kind: str, seed: int) -> None:
    """In a process of its own: load a model, run it, and print how many bytes that took."""
    import onnxruntime  # noqa: F401  everyone imports the same
    import torch
    from transformers import BertForSequenceClassification  # noqa: F401

    import ticketry.packed.loading
    import ticketry.runtime.encoders  # noqa: F401

    torch.set_num_threads(1)
    torch.nn.Linear(64, 64)(torch.zeros(8, 64))
    gc.collect()
    before = resident_bytes()
    run = runner(kind, seed, packed=True)
    run(tokens(BATCH, LENGTH))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it is not counted
    print(json.dumps(resident_bytes() - before))


def resident(kind: str, seed: int) -> int:
    # One arena that gives freed memory back at once: what is left is held by the model.
    environment = os.environ | {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    command = [sys.executable, __file__, "--child", kind, "--seed", str(seed)]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        for _ in range(3)
    ]
    return round(statistics.median(int(done.stdout.splitlines()[-1]) for done in found))


def kept() -> dict[str, Any]:
    """Return what was measured before."""
    path = RESULTS / "measured.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(found: dict[str, Any]) -> None:
    text = json.dumps({**kept(), **found}, indent=1) + "\n"
    (RESULTS / "measured.json").write_text(text, encoding="utf-8")


def weigh() -> None:
    """Measure one seed's models in bytes, and those made of the dense one in accuracy."""
    seed = SEEDS[0]
    stored = prepare(seed)
    kinds = [kind for kind in (*KINDS, *MADE) if kind in stored]
    keep(
        {
            "seed": seed,
            "stored_bytes": stored,
            "resident_bytes": {kind: resident(kind, seed) for kind in kinds},
            "accuracy": {kind: accuracy(kind, seed) for kind in MADE if kind in stored},
        }
    )


def clock(rounds: int) -> None:
    """Measure one seed's models in seconds."""
    from importlib.metadata import version

    stored = kept()["stored_bytes"]
    kinds = [kind for kind in (*KINDS, *MADE) if kind in stored]
    keep(
        {
            "batch": BATCH,
            "length": LENGTH,
            "rounds": rounds,
            "versions": {n: version(n) for n in ("torch", "onnxruntime", "transformers")},
            "latency": latencies(kinds, SEEDS[0], rounds),
        }
    )


# --- saying --------------------------------------------------------------------------------------


def rows() -> list[dict[str, Any]]:
    """Return a row for each kind: accuracies, speed-up, bytes."""
    found = kept()
    done = [row for row in scores() if row["part"] == "last"]
    out = []
    for kind in ("dense", *map(name_of, sorted(SPARSITIES)), "small", *MADE):
        if kind not in found["latency"]:
            continue
        accuracies = [row["test_score"] for row in done if row["kind"] == kind]
        out.append(
            {
                "kind": kind,
                "name": SAID.get(kind, f"{kind.removeprefix('sparse-')}% sparse, ticketry"),
                "accuracies": accuracies or [found["accuracy"][kind]],
                "stored": found["stored_bytes"][kind],
                "stored_int8": found["stored_bytes"].get(f"{kind}, int8 values"),
                "resident": found["resident_bytes"][kind],
                **found["latency"][kind],
            }
        )
    return out


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"MiniLM on movies, batch {BATCH}, {LENGTH} tokens, 1 thread; models of seed {SEEDS[0]} "
        "are timed and weighed.",
        "",
        "| model | test accuracy, mean (each seed) | ms | times dense, median (middle half) "
        "| stored, MB | resident, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        each = row["accuracies"]
        low, middle, high = row["speedup"]
        stored = f"{row['stored'] / 1e6:.1f}"
        if row["stored_int8"]:
            stored += f" (int8 values {row['stored_int8'] / 1e6:.1f})"
        lines.append(
            f"| {row['name']} | {statistics.mean(each):.3f} "
            f"({', '.join(f'{score:.3f}' for score in each)}) | {row['ms'][1]:.1f} "
            f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {stored} | {row['resident'] / 1e6:.0f} |"
        )
    return lines


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw accuracy against speed and against stored bytes; readable on light and dark."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    grey = "#808890"
    style = {
        "svg.fonttype": "none", "svg.hashsalt": "tradeoff", "font.size": 9, "text.color": grey,
        "axes.labelcolor": grey, "axes.edgecolor": grey, "xtick.color": grey, "ytick.color": grey,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure, places = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
        panels = (
            (places[0], "times as fast as dense (torch)", lambda row: row["speedup"][1]),
            (places[1], "stored, MB", lambda row: row["stored"] / 1e6),
        )
        for axes, label, value in panels:
            sparse = [row for row in rows if row["kind"].startswith("sparse")]
            xs = [value(row) for row in sparse]
            ys = [statistics.mean(row["accuracies"]) for row in sparse]
            axes.plot(xs, ys, "o-", color="#3d8bd4", label="sparse, ticketry")
            for row, x, y in zip(sparse, xs, ys, strict=True):
                axes.annotate(f"{row['kind'].removeprefix('sparse-')}%", (x, y), (3, 4),
                              textcoords="offset points")  # fmt: skip
            marks = {"dense": ("s", "#808890"), "small": ("D", "#c77d28"), "onnx": ("^", "#4aa564"),
                     "onnx-int8": ("v", "#b45fc0")}  # fmt: skip
            for row in rows:
                if row["kind"] in marks:
                    mark, colour = marks[row["kind"]]
                    axes.plot(value(row), statistics.mean(row["accuracies"]), mark, color=colour,
                              label=row["name"])  # fmt: skip
            axes.set_xlabel(label)
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
        places[0].set_ylabel("test accuracy")
        places[0].legend(frameon=False, fontsize=8, loc="lower left")
        figure.patch.set_alpha(0)
        figure.tight_layout()
        figure.savefig(PICTURE, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def write() -> None:
    found = rows()
    lines = table(found)
    (RESULTS / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_block(PAGE, "tradeoff", lines)
    draw(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("train", "weigh", "time", "say"), help="one part")
    parser.add_argument("--most", type=int, help="trainings in this call")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="the table and picture, into docs/")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, choices=SEEDS, help="train models of this one only")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.seed)
        return 0
    if args.only in (None, "train"):
        open_ = [
            (kind, seed, part)
            for kind, seed, part in trainings()
            if args.seed in (None, seed)
            and not (model_folder(kind, seed, part) / "score.json").exists()
        ]
        for number, (kind, seed, part) in enumerate(open_[: args.most], 1):
            print(f"training {number} of {len(open_)}: {kind}, seed {seed}, {part}", flush=True)
            train(kind, seed, part)
    if args.only in (None, "weigh"):
        weigh()
    if args.only in (None, "time"):
        clock(args.rounds)
    if args.only in (None, "say"):
        print("\n".join(table(rows())))
        if args.write:
            write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
