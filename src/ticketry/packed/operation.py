"""The conversion by which transformers turns a pruned tensor's parts into the tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.core_model_loading import ConversionOps, _IdentityOp

from ticketry.errors import PackedError
from ticketry.packed.form import MASK, SCALES, VALUES, read_mask, unpack_tensor
from ticketry.runtime import packing
from ticketry.runtime.accelerating import as_matrix

if TYPE_CHECKING:
    from ticketry.packed.quantizer import TicketryQuantizer


class Unpack(ConversionOps):
    """Mask, values and scales to a dense tensor, or to a packed matrix for a sparse layer.

    Args:
        hf_quantizer: which layers are to be sparse; transformers leaves the dtype of the parts
            alone for operations that have it.
    """

    def __init__(self, hf_quantizer: TicketryQuantizer) -> None:
        self.hf_quantizer = hf_quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **more: Any,
    ) -> dict[str, Any]:
        """Return the tensor under its name in the model.

        Args:
            input_dict: pattern -> tensors of the file.
            source_patterns: as transformers was given them.
            target_patterns: the same.
            more: ``full_layer_name``, the name, and ``model``, whose dtype there decides.
        """
        full_layer_name, model = more["full_layer_name"], more["model"]
        parts: dict[str, Tensor] = {}
        for pattern, found in input_dict.items():
            for part in (MASK, VALUES, SCALES):
                if pattern.endswith(part):
                    parts[part] = found[0] if isinstance(found, list) else found
        if MASK not in parts or VALUES not in parts:
            raise PackedError(f"the file has no whole {full_layer_name}.")
        stored = {part: tensor.cpu() for part, tensor in parts.items()}
        target = model.get_parameter_or_buffer(full_layer_name)
        mask = read_mask(stored[MASK], full_layer_name, self.hf_quantizer.most_bytes)
        dense = unpack_tensor(mask, stored[VALUES], stored.get(SCALES), full_layer_name)
        if full_layer_name in self.hf_quantizer.sparse_names:
            layer = model.get_submodule(full_layer_name.removesuffix(".weight"))
            matrix, kept = as_matrix(layer, dense), as_matrix(layer, mask)
            return {full_layer_name: packing.pack(matrix, kept)}
        place = parts[VALUES].device
        return {full_layer_name: dense.to(device=place, dtype=target.dtype)}

    @property
    def reverse_op(self) -> ConversionOps:
        """Nothing: a loaded tensor is saved as it is."""
        return _IdentityOp()


def without_ours(conversions: list[Any] | None) -> list[Any] | None:
    """Return a model's conversions for saving, those of a packed file left out.

    They name the parts, so that saving with them would rename every weight. Where one of the
    model's own was joined with ours, the model's usual ones are taken up again (None).
    """
    if conversions is None:
        return None
    kept = []
    for conversion in conversions:
        operations = getattr(conversion, "operations", [])
        ours = [isinstance(operation, Unpack) for operation in operations]
        if any(ours) and not all(ours):
            return None
        if not any(ours):
            kept.append(conversion)
    return kept
