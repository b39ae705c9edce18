"""Small real things for tests: a BERT built from its config, and sentences it can learn from."""

from __future__ import annotations

import csv
import random
from pathlib import Path

GOOD = ["good", "great", "fine", "lovely", "bright", "warm"]
BAD = ["bad", "poor", "dull", "awful", "dark", "cold"]
FILLER = ["the", "film", "was", "a", "very", "plot", "and", "story", "with", "some", "actors"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_bert(folder: Path, *, seed: int = 0, intermediate_size: int = 64) -> Path:
    """Write a 2-layer BERT with its tokenizer as a Hugging Face folder.

    Hidden 32, intermediate 64: a layer has 4·32·32 + 2·32·64 = 8,192 prunable weights, so the
    encoder has 16,384 in 12 tensors.
    """
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *GOOD, *BAD, *FILLER]) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(vocabulary), model_max_length=32)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(GOOD) + len(BAD) + len(FILLER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=intermediate_size,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder


def sentence(label: int, draw: random.Random) -> str:
    """Return a sentence whose class is told by its one or two telling words."""
    words = draw.choices(FILLER, k=draw.randint(3, 9))
    for _ in range(draw.randint(1, 2)):
        words.insert(draw.randrange(len(words) + 1), draw.choice(GOOD if label else BAD))
    return " ".join(words)


def reviews_csv(path: Path, rows: int = 240, *, seed: int = 0) -> Path:
    """Write a CSV with columns ``review`` and ``verdict`` (pos, neg), distinct sentences."""
    draw = random.Random(seed)
    seen: dict[str, str] = {}
    while len(seen) < rows:
        label = len(seen) % 2
        seen.setdefault(sentence(label, draw), "pos" if label else "neg")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "verdict"])
        writer.writerows(seen.items())
    return path
