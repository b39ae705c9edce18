"""What the text workloads share on either side of a training: attention, and the saved model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from ticketry.models.loading import quiet

_EAGER_UP_TO_TOKENS = 128


def attention_for(device: str, length: int) -> str | None:
    """Return transformers' attention for texts of up to ``length`` tokens; None: its own choice.

    On a CPU, dropout inside attention leaves torch's fused kernel unused: its fallback took 20%
    longer a training step than plain matrices. Long texts need the fused one's memory.
    """
    return "eager" if device == "cpu" and length <= _EAGER_UP_TO_TOKENS else None


def saved_files(model: nn.Module, tokenizer: Any) -> dict[str, bytes]:
    """Return a Hugging Face folder of a model and its tokenizer.

    Returns:
        Relative file name -> content.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }
