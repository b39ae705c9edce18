"""BERT's encoder with activations in [features, tokens] from its first layer to its last.

The kernels want tokens side by side; turned once for the whole encoder instead of at every matrix,
products, attention and normalisation all run that way, in one call of the kernel library. Where
someone asks for what this way does not give, the encoder runs as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ticketry.models.outputs import encoder_output
from ticketry.runtime import dispatch, native, ops
from ticketry.runtime.encoderplan import Plan
from ticketry.runtime.modules import SparseLinear

ENCODERS = ("BertEncoder", "RobertaEncoder", "XLMRobertaEncoder", "ElectraEncoder")
"""Classes of transformers whose layers are BERT's."""
_ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_LINEARS = (
    ("attention", "self", "query"),
    ("attention", "self", "key"),
    ("attention", "self", "value"),
    ("attention", "output", "dense"),
    ("intermediate", "dense"),
    ("output", "dense"),
)
_NORMS = (("attention", "output", "LayerNorm"), ("output", "LayerNorm"))


class TokensLast(nn.Module):
    """Stands for a BERT encoder; the same layers, the same ``state_dict``.

    Args:
        encoder: of transformers, one of :data:`ENCODERS`.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.config = encoder.config
        self.layer = encoder.layer
        # In a tuple, so that its layers are not registered a second time.
        self._whole = (encoder,)
        self._plan: Plan | None = None
        self.train(encoder.training)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        """Return what the encoder returns.

        Args:
            hidden_states: (batch, length, hidden).
            attention_mask: of transformers' making, four axes, or None.
            options: of the encoder.
        """
        found = self._whole[0]
        if not self.fits(hidden_states, attention_mask, options):
            return found(hidden_states, attention_mask, **options)
        attention = self.layer[0].attention.self
        tensors = self._tensors()
        numbers = (attention.scaling, self.config.layer_norm_eps, _code(self.config))
        states = self._planned(hidden_states, attention_mask, tensors, numbers)
        if states is None:
            states = ops.encode(
                *(hidden_states, attention_mask, tensors, attention.num_attention_heads, *numbers)
            )
        return encoder_output(states)

    def _planned(
        self,
        states: Tensor,
        mask: Tensor | None,
        tensors: list[Tensor],
        numbers: tuple[float, float, int],
    ) -> Tensor | None:
        """Return the result without torch's dispatcher, or None where it is needed."""
        inputs = [states] if mask is None else [states, mask]
        if not dispatch.direct(inputs + tensors):
            return None
        heads: int = self.layer[0].attention.self.num_attention_heads
        if self._plan is None or not self._plan.fits(tensors):
            ops.check_layers(states, tensors, heads)
            self._plan = Plan(tensors)
        if states.dim() != 3 or states.shape[-1] != self._plan.hidden:
            return None  # the operator says what is wrong
        return self._plan.encode(states, mask, heads, numbers)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the plan out: a copy has tensors of its own."""
        return {**self.__dict__, "_plan": None}

    def _tensors(self) -> list[Tensor]:
        found: list[Any] = []
        for layer in self.layer._modules.values():
            for path in _LINEARS:
                module = _at(layer, path)
                of = module._buffers if isinstance(module, SparseLinear) else module._parameters
                found += [of.get("packed", of.get("weight")), module._parameters["bias"]]
            for path in _NORMS:
                norm = _at(layer, path)
                found += [norm._parameters["weight"], norm._parameters["bias"]]
        return found

    def fits(self, states: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
        """Say whether this way computes all that is asked for."""
        wanted = ("output_attentions", "output_hidden_states")
        given = ("encoder_hidden_states", "past_key_values", "use_cache", *wanted)
        return (
            not self.training
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and states.device.type == "cpu"
            and states.dtype == torch.float32
            and states.numel() > 0
            and not any(options.get(name) for name in given)
            and not any(getattr(self.config, name, False) for name in wanted)
            and (mask is None or mask.dim() == 4)
            and not _hooked(self)
        )


def supported(encoder: Any) -> bool:
    """Say whether an encoder can run with tokens last."""
    if type(encoder).__name__ not in ENCODERS or native.isa() is None:
        return False
    config = encoder.config
    if getattr(config, "is_decoder", False) or config.hidden_act not in _ACTIVATIONS:
        return False
    return all(
        module.bias is not None
        and (
            isinstance(module, SparseLinear)
            or (type(module) is nn.Linear and module.weight.dtype == torch.float32)
        )
        for layer in encoder.layer
        for module in (_at(layer, path) for path in _LINEARS)
    )


def turn(model: nn.Module, tokens: int, always: bool = False) -> list[str]:
    """Let a model's encoders run with tokens last where that is faster, in place.

    Args:
        model: in evaluation mode, its sparse layers swapped already.
        tokens: at which both ways are compared.
        always: without comparing.
    Returns:
        The names of the encoders that do.
    """
    turned = []
    for name, encoder in list(model.named_modules()):
        if not name or not supported(encoder):
            continue
        if not any(isinstance(module, SparseLinear) for module in encoder.modules()):
            continue
        ours = TokensLast(encoder)
        if always or _faster(encoder, ours, tokens):
            model.set_submodule(name, ours)
            turned.append(name)
    return turned


def _faster(before: nn.Module, after: nn.Module, tokens: int) -> bool:
    from ticketry.runtime.accelerating import GAIN, timed

    config: Any = before.config
    states = torch.randn(1, tokens, config.hidden_size, generator=torch.Generator().manual_seed(0))
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(5):
            for way, times in zip((before, after), seconds, strict=True):
                times.append(timed(lambda way=way: way(states), 1))  # type: ignore[misc]
    return min(seconds[0]) >= GAIN * min(seconds[1])


def _at(module: Any, path: tuple[str, ...]) -> Any:
    # Not by attributes: this is done at each call, and they are ten times as slow.
    for name in path:
        module = module._modules[name]
    return module


def _hooked(module: Any) -> bool:
    # Without recursion, as this too is done at each call.
    left = [module]
    while left:
        one = left.pop()
        if one is None:
            continue
        if one._forward_hooks or one._forward_pre_hooks:
            return True
        left += one._modules.values()
    return False


def _code(config: Any) -> int:
    return ops.ACTIVATIONS[_ACTIVATIONS[config.hidden_act]]
