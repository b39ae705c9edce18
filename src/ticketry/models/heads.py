"""Task models: the base's pre-trained weights and a fresh head, by objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ticketry.errors import ModelError, unknown_name
from ticketry.models.contrastive import PROJECTED, own_projection
from ticketry.models.families import FAMILIES, matching
from ticketry.models.loading import (
    base_state,
    canonical_tensors,
    load_backbone,
    loading,
    some_names,
)
from ticketry.models.sources import BaseRef, read_config


@dataclass(frozen=True)
class Head:
    """How transformers builds the task model of one objective.

    Attributes:
        mapping: name of transformers' table from configuration to task model.
        task_model: for messages, such as ``sequence classifier``.
        problem_type: of the configuration; None leaves it out.
        labels: whether the head has an output for each label (or one for a number).
        outputs: how many it has where that is fixed; None leaves it to labels or configuration.
        pretrained: the head is the checkpoint's own, not a fresh one.
        warmed: the checkpoint may lack it; then it is fresh, and warmed up before it is used.
        continued: the head is the checkpoint's own where that is of the data's classes.
        expected: models that have one, for messages.
    """

    mapping: str
    task_model: str
    problem_type: str | None = None
    labels: bool = True
    outputs: int | None = None
    pretrained: bool = False
    warmed: bool = False
    continued: bool = False
    expected: str = "a text encoder or decoder such as BERT, RoBERTa, DistilBERT or GPT-2"


_IMAGES = "an image model such as ResNet, EfficientNet, ViT or ConvNeXt"

HEADS: Mapping[str, Head] = {
    "classification": Head(
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        "sequence classifier",
    ),
    "regression": Head(
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "sequence classifier", "regression"
    ),
    "multi-label": Head(
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        "sequence classifier",
        "multi_label_classification",
    ),
    "causal-lm": Head(
        "MODEL_FOR_CAUSAL_LM_MAPPING",
        "causal language model",
        labels=False,
        pretrained=True,
        expected="a decoder such as GPT-2, Llama or Qwen",
    ),
    "masked-lm": Head(
        "MODEL_FOR_MASKED_LM_MAPPING",
        "masked language model",
        labels=False,
        pretrained=True,
        warmed=True,
        expected="an encoder such as BERT, RoBERTa, DistilBERT or ModernBERT",
    ),
    **dict.fromkeys(
        ("extractive-qa", "extractive-qa-v2"),
        Head(
            "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
            "question-answering model",
            labels=False,
            outputs=2,
        ),
    ),
    "token-classification": Head(
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
        "token classifier",
    ),
    "image-classification": Head(
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
        "image classifier",
        expected=_IMAGES,
    ),
    "supervised": Head(
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
        "image classifier",
        continued=True,
        expected=_IMAGES,
    ),
    # Built over the base here (models/contrastive.py); the table says which bases read images.
    **dict.fromkeys(
        PROJECTED,
        Head(
            "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
            "image classifier",
            labels=False,
            expected=_IMAGES,
        ),
    ),
    # Built over the base by torchvision, not by transformers (models/dense.py).
    "detection": Head("", "detector"),
    "segmentation": Head("", "segmenter"),
}


def load_task_model(
    base: BaseRef,
    objective: str,
    label_names: Sequence[str],
    head_seed: int,
    *,
    weights: Mapping[str, Tensor] | None = None,
    head_weights: Mapping[str, Tensor] | None = None,
    attention: str | None = None,
) -> PreTrainedModel:
    """Build an objective's task model at θ0: the base's weights and a fresh head.

    Args:
        base: the base model.
        objective: a key of :data:`HEADS`.
        label_names: outputs of the head, in index order; one name for regression, none for
            language modelling.
        head_seed: decides the head's initial values alone; the global RNG is neither read nor
            moved. A head that the checkpoint holds is not used: every arm starts from the seed.
            Of language modelling the head is the checkpoint's where it has one, and no seed counts;
            so it is of ``supervised``, if it is given.
        weights: the base's tensors by canonical name, to save reading them again; copied.
        head_weights: :func:`pretrained_head`, to save reading it again; copied.
        attention: transformers' ``attn_implementation``; ``None`` leaves the choice to it.
    Returns:
        The model in eval mode, fp32, on the CPU.

    Raises:
        UnknownNameError: an unknown objective.
        ModelError: the base has no such task model in transformers, or its weights do not fit.
    """
    if objective not in HEADS:
        raise unknown_name("objective", objective, HEADS)
    head = HEADS[objective]
    if weights is None:
        weights = canonical_tensors(load_backbone(base))
    config, model_class = _task_class(base, objective, label_names)
    prefix = model_class.base_model_prefix
    # Cloned: transformers puts the given tensors into the model, and training would change ours.
    state = {f"{prefix}.{name}": tensor.clone() for name, tensor in weights.items()}
    if head.pretrained or head.continued:
        own = (
            pretrained_head(base, objective, label_names) if head_weights is None else head_weights
        )
        state |= {name: tensor.clone() for name, tensor in own.items()}
    options = {} if attention is None else {"attn_implementation": attention}
    model: PreTrainedModel
    with loading(base), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(head_seed)  # torch.manual_seed would move CUDA's too
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    family = FAMILIES.get(config.model_type)
    inside = {f"{prefix}.{name}" for name in base_state(model)}
    lost = sorted(inside & set(info["missing_keys"]))
    if family is not None:
        lost = [n for n in lost if not matching([n.removeprefix(f"{prefix}.")], family.pooler)]
    if lost:
        raise ModelError(
            f"the {head.task_model} built on {base.name!r} has tensors that the base lacks: "
            f"{some_names(lost)}; they would start at random. Expected only a head to be new."
        )
    if head.warmed:
        _keep_pooler(model, weights)
    return model


def _keep_pooler(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Give a task model without the base's pooler that pooler, unused.

    The scope is that of the base, whatever the task, and a pooler may be in it.
    """
    inside: Any = model.base_model
    lacking = {name.partition(".")[0] for name in set(weights) - set(inside.state_dict())}
    if not lacking:
        return
    with torch.device("meta"):
        whole = AutoModel.from_config(model.config)
    for name, part in whole.named_children():
        if getattr(inside, name, None) is None:  # ALBERT's activation stands beside its pooler
            setattr(inside, name, part.to_empty(device="cpu"))
    with torch.no_grad():
        for name, tensor in inside.state_dict(keep_vars=True).items():
            if name.partition(".")[0] in lacking:
                tensor.copy_(weights[name])
    inside.eval()


def check_task_model(base: BaseRef, objective: str, label_names: Sequence[str]) -> None:
    """Refuse a base that transformers has no task model of an objective for.

    Raises:
        ModelError: says what kind of model is needed.
    """
    if HEADS[objective].mapping:
        _task_class(base, objective, label_names)
        return
    from ticketry.models.dense import OUTPUT_STRIDE, STRIDES, load_trunk

    dilated = objective == "segmentation"
    load_trunk(base, (OUTPUT_STRIDE,) if dilated else STRIDES, dilated=dilated)


def _task_class(base: BaseRef, objective: str, label_names: Sequence[str]) -> tuple[Any, Any]:
    """Return the configuration of an objective's task model, and its class."""
    head = HEADS[objective]
    settings: dict[str, Any] = {}
    if head.labels:
        settings = {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {label: index for index, label in enumerate(label_names)},
        }
    elif head.outputs is not None:
        settings = {"num_labels": head.outputs}
    with loading(base):
        config = AutoConfig.from_pretrained(
            str(base.path), local_files_only=True, trust_remote_code=False, **settings
        )
        if head.problem_type is not None:
            config.problem_type = head.problem_type
    try:
        model_class: Any = getattr(transformers, head.mapping)[type(config)]
    except KeyError as error:
        raise ModelError(
            f"{base.name!r} is a {config.model_type} model, for which transformers has no "
            f"{head.task_model}; give {head.expected}."
        ) from error
    if head.pretrained and _reads_both_ways(config) != head.warmed:
        if head.warmed:
            raise ModelError(
                f"{base.name!r} is a {config.model_type} model set up as a decoder (is_decoder), "
                f"whose tokens do not see those after them; give {head.expected}."
            )
        raise ModelError(
            f"{base.name!r} is a {config.model_type} model, whose tokens see those after them, so "
            f"it cannot predict the next one; give {head.expected}."
        )
    return config, model_class


def _reads_both_ways(config: Any) -> bool:
    """Say whether a model is an encoder: one pre-trained to fill in masked tokens."""
    masked: Any = transformers.MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in masked and not getattr(config, "is_decoder", False)


def pretrained_head(
    base: BaseRef, objective: str, label_names: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return the head that a checkpoint brings along, by its names in the task model.

    Args:
        base: the base model.
        objective: a key of :data:`HEADS`.
        label_names: the data's classes, in index order.
    Returns:
        Nothing for an objective whose head is fresh, where the head is the embedding itself
        (tied weights), where a head that is warmed up is not whole in the checkpoint, or where a
        classifier is of other classes. A projection head's names are its own.

    Raises:
        UnknownNameError: an unknown objective.
        ModelError: the checkpoint lacks a head that is not tied, or the base is no such model.
    """
    if objective not in HEADS:
        raise unknown_name("objective", objective, HEADS)
    if objective in PROJECTED:
        return own_projection(base, objective)
    head = HEADS[objective]
    if head.continued:
        return _own_classifier(base, objective, label_names)
    return {} if not head.pretrained else _own_head(base, objective)[0]


def _own_classifier(base: BaseRef, objective: str, labels: Sequence[str]) -> dict[str, Tensor]:
    """Return a checkpoint's classifier; nothing where it has none, or one of other classes.

    Classes are the same where there are as many and, if the checkpoint names them, they are called
    the same in the same order; released ImageNet checkpoints often name none.
    """
    _, model_class = _task_class(base, objective, labels)
    said = read_config(base)
    by_number = sorted((int(n), name) for n, name in (said.get("id2label") or {}).items())
    names = said.get("label_names") or [name for _, name in by_number]
    if names == [f"LABEL_{number}" for number in range(len(names))]:  # transformers', for none
        names = []
    with loading(base):
        own = AutoConfig.from_pretrained(
            str(base.path), local_files_only=True, trust_remote_code=False
        )
        if own.num_labels != len(labels) or (names and list(names) != list(labels)):
            return {}
    model, info = _checkpoint(base, model_class)
    inside = f"{model_class.base_model_prefix}."
    found = _beside_body(model)
    if any(not name.startswith(inside) or name in found for name in info["missing_keys"]):
        return {}
    return found


def _checkpoint(base: BaseRef, model_class: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return a checkpoint as the task model of its own configuration, and what loading said."""
    with loading(base):
        model, info = model_class.from_pretrained(
            str(base.path),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    return model, info


def _beside_body(model: Any) -> dict[str, Tensor]:
    """Return the tensors of a task model that are not its base's, by name."""
    body = {id(tensor) for tensor in base_state(model).values()}
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if id(tensor) not in body
    }


def warms_head(base: BaseRef, objective: str) -> bool:
    """Say whether a checkpoint lacks a head that must be warmed up before anything starts from it.

    Raises:
        ModelError: the base has no such task model.
    """
    return HEADS[objective].warmed and not _own_head(base, objective)[1]


def _own_head(base: BaseRef, objective: str) -> tuple[dict[str, Tensor], bool]:
    """Return the head of a checkpoint by its names in the task model, and whether it is whole."""
    _, model_class = _task_class(base, objective, ())
    model, info = _checkpoint(base, model_class)
    inside = f"{model_class.base_model_prefix}."
    lost = [name for name in sorted(info["missing_keys"]) if not name.startswith(inside)]
    if lost and HEADS[objective].warmed:
        return {}, False
    if lost:
        raise ModelError(
            f"the checkpoint of {base.name!r} has no language-modelling head: it lacks "
            f"{some_names(lost)}, and its embeddings are not tied to it. A fresh head would not "
            "be the pre-trained model; give the checkpoint that AutoModelForCausalLM saves."
        )
    return _beside_body(model), True
