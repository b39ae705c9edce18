"""What transformers' modules return, for those that stand in for one."""

from __future__ import annotations

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


def encoder_output(states: Tensor) -> BaseModelOutputWithPastAndCrossAttentions:
    """Return an encoder's output with its last states (batch, length, hidden) alone."""
    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)
