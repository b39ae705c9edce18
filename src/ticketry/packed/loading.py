"""Load a packed model, and refuse one that does not fill every weight."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ticketry.errors import PackedError
from ticketry.models.sources import CONFIG_FILE, PACKED_FILE, BaseRef, read_config, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_packed(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    sparse: bool = False,
    auto_class: Any = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a packed model as ``AutoModel.from_pretrained`` does, and check that nothing is missing.

    Args:
        name_or_path: a folder that ``ticketry pack`` wrote, or a hub id.
        revision: of the hub id.
        sparse: keep the matrices of linear layers and of convolutions of one pixel packed, for a
            CPU in float32; False gives an ordinary dense model.
        auto_class: of transformers, such as ``AutoModelForSequenceClassification``; None takes the
            class that the model's ``config.json`` names.
        options: of ``from_pretrained``, such as ``dtype``.
    Returns:
        The model, in eval mode.

    Raises:
        PackedError: it is not packed, damaged, or lacks weights of the class asked for.
        ModelError: it cannot be found or loaded.
    """
    from ticketry.models.loading import loading, some_names
    from ticketry.packed.quantizer import METHOD, TicketryConfig

    name = str(name_or_path)
    base = resolve(name, revision)
    method = read_config(base).get("quantization_config")
    if not isinstance(method, dict) or method.get("quant_method") != METHOD:
        raise PackedError(
            f"{CONFIG_FILE} of {name!r} does not say that it is packed; expected a folder that "
            "`ticketry pack` wrote. An ordinary model is loaded by transformers itself."
        )
    if not (base.path / PACKED_FILE).is_file():
        raise PackedError(f"{name!r} holds no {PACKED_FILE}; fetch the packed model again.")
    with loading(base), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = (auto_class or _class_of(base)).from_pretrained(
            str(base.path),
            quantization_config=TicketryConfig(sparse=sparse),
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            **{**options, "ignore_mismatched_sizes": True},  # refused below, all at once
        )
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    if missing := sorted({*info["missing_keys"], *mismatched}):
        raise PackedError(
            f"{name!r} does not fill {len(missing)} weights of {type(model).__name__}: "
            f"{some_names(missing)}; they would be random. Give the auto_class that it was trained "
            "as, or pack it again."
        )
    return model


def load_model(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedModel:
    """Load a model as the class that its ``config.json`` names, dense or packed, in float32.

    Args:
        name_or_path: a folder that ``save_pretrained`` or ``ticketry pack`` wrote, or a hub id.
        revision: of the hub id.
    Returns:
        A dense model, in eval mode.

    Raises:
        PackedError: the class is unknown, or the file does not fill every weight of it.
        ModelError: it cannot be found or loaded.
    """
    import torch

    from ticketry.models.loading import loading, some_names

    base = resolve(str(name_or_path), revision)
    if (base.path / PACKED_FILE).is_file():
        return load_packed(name_or_path, revision=revision, dtype=torch.float32)
    model: PreTrainedModel
    with loading(base):
        model, info = _class_of(base).from_pretrained(
            str(base.path),
            output_loading_info=True,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    if missing := sorted(info["missing_keys"]):
        raise PackedError(
            f"{base.name!r} does not fill {len(missing)} weights of {type(model).__name__}, the "
            f"class that its {CONFIG_FILE} names: {some_names(missing)}; they would be random."
        )
    return model


def _class_of(base: BaseRef) -> Any:
    import transformers

    names = read_config(base).get("architectures")
    named = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, named, None) if isinstance(named, str) else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise PackedError(
            f"{CONFIG_FILE} of {base.name!r} names the class {json.dumps(named)[:80]}, which "
            "transformers does not have; give auto_class."
        )
    return found
