"""Load a base in fp32, and address its tensors and those of task models by canonical name.

Canonical names are those of the base ``AutoModel``'s ``state_dict``; a task model's prefix
(``bert.``, ``transformer.``) is stripped, so one mask fits the base and every task model on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from ticketry.config import fingerprint
from ticketry.core.mask import Mask
from ticketry.core.scope import resolve_scope
from ticketry.errors import InputError, MaskError, ModelError, ScopeError
from ticketry.models.families import FAMILIES, matching, scope_rule
from ticketry.models.sources import (
    TIMM,
    TOKENIZER_FILES,
    BaseRef,
    has_tokenizer,
    read_config,
    resolve,
    source_files,
)
from ticketry.models.timm_nets import need_timm

_SHOWN = 3
_NO_LIMIT = 10**6
"""Tokenizers without a limit carry a huge number instead."""


def load_backbone(base: BaseRef) -> PreTrainedModel:
    """Load the base model as its checkpoint has it, with fp32 weights, in eval mode.

    A pooler that the checkpoint lacks is left out: it would be random, so it belongs to the head.

    Raises:
        ModelError: the checkpoint does not fit its configuration, or transformers cannot load it.
    """
    model, missing = _load_auto(base)
    if missing:
        family = FAMILIES.get(read_config(base)["model_type"])
        pooler = matching(missing, family.pooler) if family is not None else ()
        if set(missing) - set(pooler):
            raise ModelError(
                f"the checkpoint of {base.name!r} lacks {len(missing)} of the model's tensors: "
                f"{some_names(missing)}. Expected all of them; get the whole checkpoint again."
            )
        model, _ = _load_auto(base, add_pooling_layer=False)
    return model


def _load_auto(base: BaseRef, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    with loading(base):
        model: PreTrainedModel
        model, info = AutoModel.from_pretrained(
            str(base.path),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    return model, sorted(info["missing_keys"])


def load_tokenizer(base: BaseRef) -> Any:
    """Load the base's tokenizer; one without a padding token pads with its end-of-text token.

    Raises:
        ModelError: its files are missing or cannot be read.
    """
    if not has_tokenizer(base):
        raise ModelError(
            f"the folder of {base.name!r} holds no tokenizer (none of "
            f"{', '.join(TOKENIZER_FILES)}); save it there with tokenizer.save_pretrained."
        )
    with loading(base):
        tokenizer = AutoTokenizer.from_pretrained(
            str(base.path), local_files_only=True, trust_remote_code=False
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer of {base.name!r} has neither a padding nor an end-of-text token; "
                "set pad_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def length_limit(base: BaseRef, tokenizer: Any) -> int | None:
    """Return the most tokens that the base can read, ``None`` when nothing limits it."""
    config = read_config(base)
    family = FAMILIES.get(config["model_type"])
    limits = []
    if getattr(tokenizer, "model_max_length", _NO_LIMIT) < _NO_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    for key in ("max_position_embeddings", "n_positions"):
        if isinstance(config.get(key), int) and config[key] > 0:
            # RoBERTa counts positions from its padding index + 1, so 514 rows hold 512 tokens.
            reserved = family.reserved_positions if family is not None else 0
            limits.append(config[key] - reserved)
    return min(limits) if limits else None


def base_model(model: nn.Module) -> nn.Module:
    """Return the base inside a task model, a wrapper around one, or the base itself.

    Raises:
        ModelError: there is no transformers model inside.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            base: nn.Module = module.base_model
            return base
    raise ModelError(
        f"{type(model).__name__} holds no transformers model; expected a base model or a task "
        "model built on one."
    )


def config_of(model: nn.Module) -> Any:
    """Return the configuration of the transformers model inside, or of a base by itself."""
    found = (m.config for m in model.modules() if isinstance(m, PreTrainedModel))
    return next(found, None) or getattr(model, "config", None)


def built_in_head(base: nn.Module) -> set[int]:
    """Return the ids of parameters of a head that is part of the base's own module.

    timm builds the classifier into the model; transformers' task models set it beside the base.
    """
    if not hasattr(base, "get_classifier"):
        return set()
    found = base.get_classifier()  # type: ignore[operator]
    parts = found if isinstance(found, tuple | list) else (found,)
    return {id(p) for part in parts if isinstance(part, nn.Module) for p in part.parameters()}


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the base's own parameters and saved buffers by canonical name, themselves.

    A tied one stands under each of its names; a head that is built into the base is left out.
    """
    base = base_model(model)
    head = built_in_head(base)
    state = base.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if id(tensor) not in head}


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the base's parameters by canonical name; a tied one stands once, under its first."""
    base = base_model(model)
    head = built_in_head(base)
    return {name: p for name, p in base.named_parameters() if id(p) not in head}


def canonical_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the base's parameters and saved buffers by canonical name, detached, not copied."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in base_state(model).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def tensor_hashes(source: nn.Module | Mapping[str, Tensor]) -> dict[str, str]:
    """Return each tensor's SHA-256 (hex) over its shape and its float32 little-endian bytes.

    Args:
        source: a model (its base's tensors count), or tensors by canonical name.
    """
    tensors = canonical_tensors(source) if isinstance(source, nn.Module) else source
    hashes = {}
    for name, tensor in tensors.items():
        digest = hashlib.sha256(f"{tuple(tensor.shape)}".encode())
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(values.astype("<f4", copy=False).reshape(-1).view("u1").data)
        hashes[name] = digest.hexdigest()
    return hashes


def base_sha256(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 (hex) over the hashes of all of a base's tensors."""
    return fingerprint(dict(hashes))


def prunable(
    source: nn.Module | Mapping[str, tuple[int, ...]],
    scope: str | Sequence[str],
    *,
    model_type: str | None = None,
) -> tuple[str, ...]:
    """Return the names of the tensors that a scope selects, sorted.

    Args:
        source: a base model as :func:`load_backbone` gives it, or shapes by canonical name.
        scope: a scope's name, or patterns (:func:`ticketry.models.families.scope_rule`).
        model_type: the family, when only shapes are given.

    Raises:
        ScopeError: a part of the scope selects nothing, such as a pooler that the base lacks.
        UnknownNameError: an unknown scope, or a family without named scopes.
    """
    shared: dict[str, str] = {}
    left_out: dict[str, list[str]] = {}
    if isinstance(source, nn.Module):
        base = base_model(source)
        left_out = {"*": _stem(base), "no-depthwise": _depthwise(base)}
        model_type = model_type or str(getattr(config_of(source), "model_type", "?"))
        head = built_in_head(base)
        owners: dict[int, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, parameter in base.named_parameters(remove_duplicate=False):
            if id(parameter) in head:
                continue
            shapes[name] = tuple(parameter.shape)
            owner = owners.setdefault(id(parameter), name)
            if owner != name:
                shared[name] = owner
    else:
        shapes = {name: tuple(shape) for name, shape in source.items()}
    rule = scope_rule(scope, model_type or "?", left_out)
    names = resolve_scope(shapes, rule, shared=shared)
    fitting = [name for name, shape in shapes.items() if len(shape) in rule.ndims]
    idle = [pattern for pattern in rule.include if not matching(fitting, [pattern])]
    if idle:
        raise ScopeError(
            f"the scope {rule.name} asks for {some_names(idle)}, which selects no tensor of this "
            "base; a checkpoint may come without its pooler. Drop it, or choose another scope."
        )
    return names


def _stem(base: nn.Module) -> list[str]:
    """Return patterns of the first convolutions that a model of timm names; none of others."""
    said = getattr(base, "pretrained_cfg", None)
    first = said.get("first_conv") if isinstance(said, Mapping) else None
    names = (first,) if isinstance(first, str) else tuple(first or ())
    return [f"{name}.*" for name in names]


def _depthwise(base: nn.Module) -> list[str]:
    """Return the weights of convolutions that look at one channel for each output."""
    return [
        f"{name}.weight"
        for name, part in base.named_modules()
        if isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1
    ]


@torch.no_grad()
def apply_mask_(model: nn.Module, mask: Mask) -> None:
    """Set the pruned weights of ``model`` to zero, in place; other tensors stay as they are.

    Raises:
        MaskError: a name or shape does not fit; the model is unchanged.
    """
    parameters = masked_parameters(model, mask)
    for name, parameter in parameters.items():
        parameter.masked_fill_(~mask[name].to(parameter.device), 0)


def masked_parameters(model: nn.Module, mask: Mask) -> dict[str, nn.Parameter]:
    """Return the parameters that a mask speaks of, by canonical name.

    Raises:
        MaskError: the model lacks one, or its shape differs.
    """
    parameters = canonical_parameters(model)
    lacking = [name for name in mask if name not in parameters]
    if lacking:
        raise MaskError(
            f"the model lacks {len(lacking)} of {len(mask)} masked tensors: {some_names(lacking)}; "
            "expected a model built on the base that the mask was made for."
        )
    for name in mask:
        if tuple(parameters[name].shape) != mask.shape(name):
            raise MaskError(
                f"tensor {name} has shape {tuple(parameters[name].shape)} in the model and "
                f"{mask.shape(name)} in the mask; expected the base that the mask was made for."
            )
    return {name: parameters[name] for name in mask}


def embedding_parameters(model: nn.Module) -> tuple[nn.Parameter, ...]:
    """Return the parameters that ``freeze_embeddings`` freezes.

    An unlisted family's are those of the layer that transformers calls the input embedding.
    """
    parameters = canonical_parameters(model)
    family = FAMILIES.get(str(getattr(config_of(model), "model_type", "")))
    if family is not None:
        return tuple(parameters[name] for name in matching(parameters, family.embeddings))
    return tuple(base_model(model).get_input_embeddings().parameters())  # type: ignore[operator]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' load reports, progress bars and warnings off the terminal meanwhile."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def loading(base: BaseRef) -> Iterator[None]:
    """Load quietly, leave the global RNG alone, and name the model in any error."""
    if read_config(base)["model_type"] == TIMM:
        need_timm()
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # transformers raises a dozen kinds for files that do not fit
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:3]) or type(error).__name__
        raise ModelError(
            f"{base.name!r} cannot be loaded from {base.path}: {reason[:500]}. Expected a whole "
            "model folder as save_pretrained writes it."
        ) from error


def some_names(names: Sequence[str]) -> str:
    """Name the first few, and count the rest."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


__all__ = [
    "BaseRef",
    "apply_mask_",
    "base_model",
    "base_sha256",
    "base_state",
    "canonical_parameters",
    "canonical_tensors",
    "config_of",
    "embedding_parameters",
    "length_limit",
    "load_backbone",
    "load_tokenizer",
    "loading",
    "masked_parameters",
    "prunable",
    "quiet",
    "resolve",
    "some_names",
    "source_files",
    "tensor_hashes",
]
