"""Logits of a masked language model at the tokens that are to be predicted, and nowhere else.

The head of BERT-base costs as much as two of its layers, and 85% of its outputs are not looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ticketry.models import lean
from ticketry.models.loading import base_model

_LEAN_HEADS = {"BertForMaskedLM": "cls", "RobertaForMaskedLM": "lm_head"}
"""Task model whose base is BERT-shaped -> its head, from states to logits."""


def logits_at(model: nn.Module, inputs: Mapping[str, Tensor], chosen: Tensor) -> Tensor:
    """Return the logits at chosen tokens.

    Args:
        model: a masked language model.
        inputs: ``input_ids`` (batch, tokens) and whatever else it reads.
        chosen: which tokens, bool, (batch, tokens).
    Returns:
        (chosen tokens, vocabulary), in the order of the text.
    """
    base = base_model(model)
    learns = any(parameter.requires_grad for parameter in base.parameters())
    states = None
    with contextlib.nullcontext() if learns else torch.no_grad():
        if lean.fits(model, inputs, _LEAN_HEADS):
            states = lean.states_at(model, inputs, chosen)
    if states is not None:
        found: Tensor = getattr(model, _LEAN_HEADS[type(model).__name__])(states)
        return found

    def narrow(module: nn.Module, args: Any, output: Any) -> Any:
        """Leave the states of the chosen tokens alone, as one sequence, for the head to read."""
        if isinstance(output, tuple):
            return (output[0][chosen][None], *output[1:])
        output.last_hidden_state = output.last_hidden_state[chosen][None]
        return output

    # Every head works token by token, so what follows the base may be given fewer of them.
    handle = base.register_forward_hook(narrow)
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        handle.remove()
    return logits[0]
