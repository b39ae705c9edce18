"""The card of a packed model, whose first line says what it takes to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CARD_FILE = "README.md"
FIRST_LINE = (
    "**`import ticketry` before you load this model: it is packed, and transformers alone cannot "
    "read it.**"
)
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def auto_class(config: Mapping[str, Any]) -> str:
    """Return the Auto class of transformers that reads a model, as its ``config.json`` names it."""
    named = (config.get("architectures") or [""])[0]
    if isinstance(named, str) and _CLASS.fullmatch(named):
        for end, auto in (
            ("ForSequenceClassification", "AutoModelForSequenceClassification"),
            ("ForTokenClassification", "AutoModelForTokenClassification"),
            ("ForQuestionAnswering", "AutoModelForQuestionAnswering"),
            ("ForMaskedLM", "AutoModelForMaskedLM"),
            ("ForCausalLM", "AutoModelForCausalLM"),
            ("LMHeadModel", "AutoModelForCausalLM"),
            ("ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
            ("ForImageClassification", "AutoModelForImageClassification"),
        ):
            if named.endswith(end):
                return auto
    return "AutoModel"


def render(config: Mapping[str, Any], packing: Mapping[str, Any]) -> str:
    """Return the card.

    Args:
        config: the model's ``config.json``.
        packing: :meth:`ticketry.packed.packer.Packing.to_json`.
    """
    auto = auto_class(config)
    return f"""{FIRST_LINE}

# A packed sparse model

```python
import ticketry  # pip install ticketry
from transformers import {auto}

model = {auto}.from_pretrained("path/or/hub-id/of/this/model")
```

The model is then an ordinary dense one with zeros, which `save_pretrained` writes without anything
of ticketry. `ticketry.load_packed` does the same, checks that no weight is missing, and with
`sparse=True` keeps the matrices sparse, for a CPU.

Without `import ticketry` transformers warns of an "Unknown quantization type" and stops, as it
finds no `model.safetensors`. Do not rename `packed.safetensors`: it would then go on with random
weights.

## What it holds

| what | |
|---|---|
| sparsity of the {packing["tensors"]} pruned matrices | {packing["sparsity"]:.1%}: \
{packing["kept"]:,} of {packing["prunable"]:,} weights are kept |
| kept values | {packing["values"]} |
| bytes of the pruned matrices | {packing["pruned_bytes"]:,}, {packing["ratio"]:.4f} times the \
entropy of the masks and the kept values |
| bytes of all other weights | {packing["other_bytes"]:,} |
| bytes in all | {packing["file_bytes"]:,}; dense {packing["dense_bytes"]:,} |
"""
