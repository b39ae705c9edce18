"""The peer of ``imp_end_to_end.py``: IMP with verification on the stock libraries alone.

    python benchmarks/plain_imp.py JOB.json RESULT.json

Masks are ``torch.nn.utils.prune``'s, as in BERT-Tickets (Chen et al. 2020, arXiv 2007.12223): a
parametrisation (``weight_orig``, ``weight_mask``) that ``global_unstructured`` narrows after each
round, put on the pre-trained weights again for the next. Training is transformers' ``Trainer``, as
its ``run_glue`` example has it. Nothing of ticketry is imported.

The job (JSON values):
    model, data     a Hugging Face folder; {split: {"text": […], "label": […]}}
    levels          sparsity after each round
    seeds           of the search, then of each replicate
    labels          how many classes
    epochs, batch, learning_rate, max_length, freeze_embeddings
    bf16            products of the tuned peer; float32 otherwise
    tuned           false: ``run_glue``'s defaults (padding to max_length, fp32, one process with
                    every core's thread). true: dynamic padding, batches grouped by length, bf16,
                    larger evaluation batches, and one process with one thread a core
    cores           how many of them
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset, disable_progress_bars
from torch import nn
from torch.nn.utils import prune
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging

TUNED_EVAL_BATCH = 64
KEPT: dict[str, Any] = {}
"""What a process keeps between trainings: the job, the tokeniser and the tokenised splits."""


def begin(job: dict[str, Any]) -> None:
    """Load and tokenise once in each process."""
    torch.set_num_threads(1 if job["tuned"] else job["cores"])
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    padding = False if job["tuned"] else "max_length"

    def tokenise(rows: dict[str, Any]) -> Any:
        return tokenizer(
            rows["text"], padding=padding, max_length=job["max_length"], truncation=True
        )

    KEPT["job"], KEPT["tokenizer"] = job, tokenizer
    KEPT["splits"] = {
        name: Dataset.from_dict(split).map(tokenise, batched=True, remove_columns=["text"])
        for name, split in job["data"].items()
    }


def prunable(model: nn.Module) -> dict[str, nn.Module]:
    """Return the encoder's matrices' modules by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".encoder." in f".{name}"
    }


def fine_tune(seed: int, masks: dict[str, torch.Tensor] | None, budget: float) -> Trainer:
    """Train from the pre-trained weights under masks."""
    job = KEPT["job"]
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=job["labels"]
    )
    for name, module in prunable(model).items():
        if masks is not None:
            prune.custom_from_mask(module, "weight", masks[name])
    if job["freeze_embeddings"]:
        model.base_model.embeddings.requires_grad_(False)
    options: dict[str, Any] = {}
    if job["tuned"]:
        options = {
            "bf16": job["bf16"],
            "train_sampling_strategy": "group_by_length",
            "per_device_eval_batch_size": TUNED_EVAL_BATCH,
        }
    arguments = TrainingArguments(
        output_dir=job["folder"],
        num_train_epochs=job["epochs"] * budget,
        per_device_train_batch_size=job["batch"],
        learning_rate=job["learning_rate"],
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    tokenizer = KEPT["tokenizer"]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=KEPT["splits"]["train"],
        data_collator=DataCollatorWithPadding(tokenizer) if job["tuned"] else default_data_collator,
        compute_metrics=lambda p: {
            "accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())
        },
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def accuracy(found: Any) -> dict[str, float]:
    """Return the share of right classes."""
    return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}


def score(trainer: Trainer, split: str) -> float:
    """Return the accuracy on a split."""
    return float(trainer.evaluate(KEPT["splits"][split])["eval_accuracy"])


def search_level(level: int) -> dict[str, Any]:
    """One round of IMP: train, prune the smallest weights of what is kept, save the masks."""
    job = KEPT["job"]
    before = read_masks(level - 1) if level > 1 else None
    trainer = fine_tune(job["seeds"][0], before, 1.0)
    validation = score(trainer, "validation")
    modules = prunable(trainer.model)
    if before is None:
        for module in modules.values():
            prune.identity(module, "weight")
    already = job["levels"][level - 2] if level > 1 else 0.0
    prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        pruning_method=prune.L1Unstructured,
        amount=(job["levels"][level - 1] - already) / (1.0 - already),
    )
    masks = {name: module.weight_mask for name, module in modules.items()}
    torch.save(masks, mask_file(level))
    kept = sum(int(mask.sum()) for mask in masks.values())
    return {"arm": "search", "validation": validation, "kept": kept}


def replicate(arm: str, seed: int) -> dict[str, Any]:
    """One fine-tuning of an arm, read on validation and test."""
    masks = None
    if arm not in ("dense", "half"):
        masks = read_masks(len(KEPT["job"]["levels"]))
    if arm == "random-layerwise":
        assert masks is not None
        draw = torch.Generator().manual_seed(seed)
        for name, mask in masks.items():
            shuffled = torch.randperm(mask.numel(), generator=draw)
            masks[name] = mask.reshape(-1)[shuffled].reshape(mask.shape)
    trainer = fine_tune(seed, masks, 0.5 if arm == "half" else 1.0)
    found: dict[str, Any] = {"arm": arm, "validation": score(trainer, "validation")}
    if arm != "half":
        found["test"] = score(trainer, "test")
    return found


def mask_file(level: int) -> Path:
    return Path(KEPT["job"]["folder"]) / f"masks-{level}.pt"


def read_masks(level: int) -> dict[str, torch.Tensor]:
    return torch.load(mask_file(level), weights_only=True)


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Run every training of the job; return what each found."""
    levels = [(search_level, (level,)) for level in range(1, len(job["levels"]) + 1)]
    seeds = job["seeds"][1:]
    free = [(replicate, (arm, seed)) for arm in ("dense", "half") for seed in seeds]
    bound = [(replicate, (arm, seed)) for arm in ("ticket", "random-layerwise") for seed in seeds]
    if not job["tuned"]:
        begin(job)
        return [function(*given) for function, given in [*levels, *free, *bound]]
    found: list[dict[str, Any]] = []
    # A queue for the cores: search levels one after the other, beside them what needs no mask.
    with ProcessPoolExecutor(job["cores"], initializer=begin, initargs=(job,)) as pool:
        running = set()
        searching = None
        while levels or free or bound or running:
            if searching is None and levels:
                function, given = levels.pop(0)
                searching = pool.submit(function, *given)
                running.add(searching)
            queue = free or (bound if searching is None else [])
            while queue and len(running) < job["cores"]:
                function, given = queue.pop(0)
                running.add(pool.submit(function, *given))
                queue = free or (bound if searching is None else [])
            done, running = wait(running, return_when=FIRST_COMPLETED)
            searching = None if searching in done else searching
            found += [future.result() for future in done]
    return found


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    with TemporaryDirectory() as folder:
        found = run({**job, "folder": folder})
    arms: dict[str, Any] = {}
    for entry in found:
        arm = arms.setdefault(entry.pop("arm"), {})
        for name, value in entry.items():
            arm.setdefault(name, []).append(value)
    Path(sys.argv[2]).write_text(json.dumps(arms))
    return 0


if __name__ == "__main__":
    import multiprocessing

    multiprocessing.set_start_method("spawn")
    sys.exit(main())
