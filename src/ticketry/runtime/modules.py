"""The modules that stand for layers whose weight is packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ticketry.errors import PackedError
from ticketry.runtime import dispatch, ops, packing


@dataclass(frozen=True)
class PackedWeight:
    """What ``module.weight`` is where the weight is packed: no tensor, but it can become one.

    Attributes:
        packed: see :mod:`ticketry.runtime.packing`.
        transposed: whether the layer stores (in, out).
        tail: axes of one element that it has behind these.
    """

    packed: Tensor
    transposed: bool = False
    tail: tuple[int, ...] = ()
    dtype = torch.float32
    requires_grad = False

    @property
    def shape(self) -> torch.Size:
        """As the dense weight's."""
        rows, columns, _ = packing.shape_of(self.packed)
        return torch.Size(((columns, rows) if self.transposed else (rows, columns)) + self.tail)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.packed.device

    def dense(self) -> Tensor:
        """Return it as a float32 tensor, zero where nothing is kept."""
        weight = packing.unpack(self.packed)
        return weight.t().contiguous() if self.transposed else weight.view(self.shape)


class SparseLayer(nn.Module):
    """A layer that multiplies by the kept weights alone, for inference.

    Its ``state_dict`` has the keys and the tensors of the dense layer, and it loads such a one;
    values stored in fewer bits were rounded. Weights are held fixed; gradients pass through to the
    input. Products are in float32.

    Args:
        packed: the matrix (out, in), see :func:`ticketry.runtime.packing.pack`.
        bias: (out), or None.
    """

    packed: Tensor
    bias: nn.Parameter | None
    transposed = False
    tail: tuple[int, ...] = ()

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features, self.kept = packing.shape_of(packed)
        self.register_buffer("packed", packed, persistent=False)
        frozen = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", frozen)

    @property
    def weight(self) -> PackedWeight:
        """What stands for the weight; ``.dense()`` gives the tensor."""
        return PackedWeight(self.packed, self.transposed, self.tail)

    @property
    def sparsity(self) -> float:
        """Pruned / all weights, in [0, 1]."""
        return 1 - self.kept / max(1, self.out_features * self.in_features)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, sparsity={self.sparsity:.3f}, "
            f"values={packing.values_of(self.packed)}"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *rest: Any, **options: Any
    ) -> None:
        weight = state_dict.get(prefix + "weight")
        if weight is not None and tuple(weight.shape) == tuple(self.weight.shape):
            matrix = weight.t() if self.transposed else weight.flatten(1)
            # What was kept stays kept, also where the new weight happens to be zero.
            mask = packing.mask_of(self.packed) | matrix.ne(0).cpu()
            self.packed = packing.pack(matrix, mask, values=packing.values_of(self.packed))
            self.kept = packing.shape_of(self.packed)[2]
            state_dict = {n: v for n, v in state_dict.items() if n != prefix + "weight"}
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)


class SparseLinear(SparseLayer):
    """A linear layer whose weight is packed; see :class:`SparseLayer`.

    Args:
        packed: the matrix (out, in), see :func:`ticketry.runtime.packing.pack`.
        bias: (out), or None.
        transposed: name the weight (in, out) in the ``state_dict``, as GPT-2's layers do.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None, transposed: bool = False) -> None:
        super().__init__(packed, bias)
        self.transposed = transposed

    def forward(self, input: Tensor) -> Tensor:
        """Return input · weightᵀ + bias.

        Args:
            input: (…, in); another dtype than float32 is converted and the result converted back.
        """
        if input.shape[-1] != self.in_features:
            raise PackedError(
                f"a sparse layer of {self.in_features} inputs got {input.shape[-1]} features."
            )
        flat = input.reshape(-1, self.in_features).float()
        bias = self.bias if self.bias is None else self.bias.float()
        tensors = [flat, self.packed] if bias is None else [flat, self.packed, bias]
        found = dispatch.call(
            ops.sparse_linear, tensors, flat, self.packed, bias, self.out_features, 0, True
        )
        return found.view(*input.shape[:-1], self.out_features).to(input.dtype)
