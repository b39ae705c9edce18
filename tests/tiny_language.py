"""Small real language models, built from their configs, and a text that they can learn."""

from __future__ import annotations

import random
from pathlib import Path

END = "<end>"
NOUNS = ["cat", "dog", *(f"noun{i}" for i in range(22))]
VERBS = {noun: f"verb{i % 6}" for i, noun in enumerate(NOUNS)}
WORDS = [END, "<unk>", "the", ".", *NOUNS, *sorted(set(VERBS.values()))]


def tiny_tokenizer(folder: Path, *, end: bool = True) -> None:
    """Write a tokenizer of whole words, with or without an end-of-text token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {word: i for i, word in enumerate(WORDS)}
    plain = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"eos_token": END} if end else {"pad_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", model_max_length=32, **special
    )
    tokenizer.save_pretrained(folder)


def tiny_gpt2(folder: Path) -> Path:
    """Write a 2-layer GPT-2 of hidden 16, whose head is its embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return _save(GPT2LMHeadModel, config, folder)


def tiny_llama(folder: Path, *, head: bool = True) -> Path:
    """Write a 2-layer Llama of hidden 16 with a head of its own, or without one."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return _save(LlamaForCausalLM if head else LlamaModel, config, folder)


def _save(kind: type, config: object, folder: Path) -> Path:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)  # type: ignore[call-arg]
    tiny_tokenizer(folder)
    return folder


def tales(documents: int, seed: int = 0) -> list[str]:
    """Return documents of a few sentences whose verb follows from their noun."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < documents:
        nouns = draw.choices(NOUNS, k=draw.randint(2, 7))
        found[" ".join(f"the {noun} {VERBS[noun]} ." for noun in nouns)] = None
    return list(found)


def tales_file(path: Path, documents: int = 60) -> Path:
    """Write documents with an empty line after each."""
    path.write_text("\n\n".join(tales(documents)) + "\n", encoding="utf-8")
    return path
