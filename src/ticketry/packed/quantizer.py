"""The plug-in by which transformers loads packed models: its configuration and its quantizer.

This module is imported while transformers itself is being imported, so whatever needs the rest of
it is imported when a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers.quantizers.auto as registry
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ticketry.errors import PackedError
from ticketry.models.sources import PACKED_FILE
from ticketry.packed.form import MASK, METHOD, SCALES, VALUES, VERSION, PackedFile, open_packed

_NEEDED = ("update_attn_implementation", "get_load_operations", "get_weight_conversions")
_TRANSFORMERS = "5.23"


class TicketryConfig(QuantizationConfigMixin):
    """How a packed model is loaded: ``from_pretrained(DIR, quantization_config=…)``.

    Args:
        sparse: keep the matrices of linear layers and of convolutions of one pixel packed and
            multiply by kept weights alone, on a CPU in float32; False makes the model an ordinary
            dense one.
        format_version: of the packed file.
        described: what else stands in ``config.json``.
    """

    quant_method: Any = METHOD
    dequantize = True
    """transformers then forgets after loading that there was a quantizer."""

    def __init__(
        self, sparse: bool = False, format_version: int = VERSION, **described: Any
    ) -> None:
        if type(sparse) is not bool:
            raise PackedError(f"sparse must be True or False, not {str(sparse)[:60]!r}.")
        if format_version != VERSION or type(format_version) is not int:
            raise PackedError(
                f"the model is packed in version {str(format_version)[:60]!r}; this ticketry reads "
                f"version {VERSION}. Update ticketry."
            )
        self.sparse = sparse
        self.format_version = format_version
        self.described = {k: v for k, v in described.items() if k != "quant_method"}

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in ``config.json``."""
        return {
            **self.described,
            "quant_method": METHOD,
            "sparse": self.sparse,
            "format_version": self.format_version,
        }

    def get_loading_attributes(self) -> dict[str, Any]:
        """Return what an argument of ``from_pretrained`` may change."""
        return {"sparse": self.sparse}


class TicketryQuantizer(HfQuantizer):
    """Reads packed tensors as transformers loads a model, and leaves no trace on it."""

    quantization_config: TicketryConfig

    def __init__(self, quantization_config: TicketryConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.most_bytes = 0
        self.sparse_names: frozenset[str] = frozenset()

    def validate_environment(self, *_: Any, **options: Any) -> None:
        """Refuse what cannot be loaded, before anything is."""
        if lacking := [name for name in _NEEDED if not hasattr(HfQuantizer, name)]:
            raise PackedError(
                f"packed models need transformers {_TRANSFORMERS} or later; this one has no "
                f"HfQuantizer.{lacking[0]}. Run: pip install -U transformers"
            )
        if not self.pre_quantized:
            raise PackedError(
                "this model is not packed; `ticketry pack` packs one. Load it without "
                "quantization_config."
            )
        places = options.get("device_map")
        places = places.values() if isinstance(places, dict) else [places]
        if self.quantization_config.sparse and {str(place) for place in places} - {"None", "cpu"}:
            raise PackedError("sparse layers run on a CPU; leave out device_map, or sparse=True.")

    def update_attn_implementation(self, config: Any) -> Any:
        """Point transformers at the packed file, whose name it does not know by itself.

        It is the one hook that sees the model's configuration before the weights are looked for.
        """
        config.transformers_weights = PACKED_FILE
        return config

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Refuse sparse layers of another dtype than float32."""
        if self.quantization_config.sparse and dtype != torch.float32:
            raise PackedError(
                f"sparse layers are float32, not {str(dtype).removeprefix('torch.')}; leave out "
                "dtype, or sparse=True."
            )
        return dtype

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **_: Any
    ) -> Any:
        if not checkpoint_files or len(checkpoint_files) != 1:
            raise PackedError(f"a packed model has one file of weights, {PACKED_FILE}.")
        with open_packed(Path(checkpoint_files[0])) as file:
            entries = file.check()
            self._read_names(file)
        if self.quantization_config.sparse:
            from ticketry.packed.sparse import choose

            self.sparse_names = choose(model, entries)
        return model

    def _read_names(self, file: PackedFile) -> None:
        """Say which names of the file make up which name of the model."""
        self.most_bytes = file.most_bytes
        last = {name.rpartition(".")[2] for name in file.pruned}
        self.serialized_names = {
            name: [name + part for part in (MASK, VALUES, SCALES)] for name in sorted(last)
        }

    def get_load_operations(self) -> dict[str, type]:
        """Return what turns a pruned tensor's parts into the tensor."""
        from ticketry.packed.operation import Unpack

        return {"dequantize": Unpack}

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Say whether a weight may arrive in another shape: packed, for a sparse layer."""
        return param_name in self.sparse_names

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        from ticketry.packed.operation import without_ours

        model._weight_conversions = without_ours(model._weight_conversions)
        if hasattr(model.config, "transformers_weights"):
            del model.config.transformers_weights
        if self.sparse_names:
            from ticketry.packed.sparse import swap

            swap(model, self.sparse_names)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """The loaded model is saved as any other."""
        return True

    @property
    def is_trainable(self) -> bool:
        """The loaded model trains as any other."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Asked by Trainer."""
        return True


def register() -> None:
    """Enter both into transformers' registries; a second time changes nothing."""
    if registry.AUTO_QUANTIZER_MAPPING.get(METHOD) is TicketryQuantizer:
        return
    registry.register_quantization_config(METHOD)(TicketryConfig)
    registry.register_quantizer(METHOD)(TicketryQuantizer)
    # Only classes listed here may be given to from_pretrained beside the model's own configuration.
    known: Any = registry
    known.LOADING_ATTRIBUTES_CONFIG_TYPES = (*known.LOADING_ATTRIBUTES_CONFIG_TYPES, TicketryConfig)


register()
