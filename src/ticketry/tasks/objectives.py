"""What a task's examples are for: each objective's workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ticketry.config import IMAGE_OBJECTIVES, PRETRAINING
from ticketry.errors import unknown_name

if TYPE_CHECKING:
    from ticketry.models.loading import BaseRef
    from ticketry.recipes import Recipe
    from ticketry.tasks.base import TaskData


def _text(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.classification import SequenceClassification

    return SequenceClassification(base, data, recipe)


def _language(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.language import CausalLM

    return CausalLM(base, data, recipe)


def _masked(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.masked import MaskedLM

    return MaskedLM(base, data, recipe)


def _extraction(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.extraction import ExtractiveQA

    return ExtractiveQA(base, data, recipe)


def _tagging(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.tagging import TokenClassification

    return TokenClassification(base, data, recipe)


def _images(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.images import ImageClassification

    return ImageClassification(base, data, recipe)


def _detection(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.detection import Detection

    return Detection(base, data, recipe)


def _segmentation(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.segmentation import Segmentation

    return Segmentation(base, data, recipe)


def _contrastive(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.contrastive import ContrastiveLearning

    return ContrastiveLearning(base, data, recipe)


def _supervised(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.supervised import SupervisedPretraining

    return SupervisedPretraining(base, data, recipe)


def _joint(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    from ticketry.tasks.joint import Joint

    return Joint(base, data, recipe)


OBJECTIVES: Mapping[str, Callable[[BaseRef, TaskData, Recipe], Any]] = {
    "classification": _text,
    "regression": _text,
    "multi-label": _text,
    "causal-lm": _language,
    "masked-lm": _masked,
    "extractive-qa": _extraction,
    "extractive-qa-v2": _extraction,
    "token-classification": _tagging,
    "image-classification": _images,
    "detection": _detection,
    "segmentation": _segmentation,
    "simclr": _contrastive,
    "moco": _contrastive,
    "supervised": _supervised,
    "joint": _joint,
}
"""Objective -> builder of its :class:`~ticketry.tasks.workload.Workload`; light to import."""

ON_IMAGES = frozenset(IMAGE_OBJECTIVES)
"""Objectives whose examples are images."""

READS_TEXT = frozenset(OBJECTIVES) - ON_IMAGES
"""Objectives whose base needs a tokenizer."""


BLOCKS = ("causal-lm", "masked-lm")
"""Objectives whose examples are blocks of a fixed length, cut from texts end to end."""


def block_counts(data: TaskData, tokenizer: Any, length: float) -> tuple[int, int, int] | None:
    """Return how many blocks or windows each split is cut into; None where an example is a text.

    Of pre-training on images: how many are read, with those that the probe looks among.

    A joint task's are those of its first part, which sets its budget, for train, and its parts'
    most for the others.

    Args:
        data: the splits.
        tokenizer: the base's.
        length: tokens of a block or window.

    Raises:
        ModelError: the tokenizer cannot do what the objective needs.
    """
    if data.parts:
        counts = [
            block_counts(part, tokenizer, length)
            or (len(part.train), len(part.validation), len(part.test))
            for part in data.parts
        ]
        _, validation, test = (max(column) for column in zip(*counts, strict=True))
        return counts[0][0], validation, test
    if tokenizer is not None:
        from ticketry.tasks.encoding import check_tokenizer

        check_tokenizer(tokenizer, data.objective)
    if data.objective in ("extractive-qa", "extractive-qa-v2"):
        from ticketry.tasks.windows import window_counts

        return window_counts(tokenizer, data, int(length))
    if data.objective == "causal-lm":
        from ticketry.tasks import language

        return language.block_counts(tokenizer, data, int(length))
    if data.objective == "masked-lm":
        from ticketry.tasks import masked

        return masked.block_counts(tokenizer, data, int(length))
    if data.objective in PRETRAINING:
        from ticketry.tasks.retrieval import gallery_size

        among = gallery_size(len(data.train))
        return len(data.train), len(data.validation) + among, len(data.test) + among
    return None


AUTO_CLASSES: Mapping[str, str] = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "token-classification": "AutoModelForTokenClassification",
    "extractive-qa": "AutoModelForQuestionAnswering",
    "extractive-qa-v2": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "supervised": "AutoModelForImageClassification",
    "simclr": "AutoModel",
    "moco": "AutoModel",
}
"""Objective -> transformers' class that loads a trained model; else that of text classifiers."""


def loader_of(objective: str) -> str:
    """Return the call that loads a trained model, without its argument."""
    if objective in ("detection", "segmentation"):
        return "ticketry.models.dense.load_dense"
    return f"{AUTO_CLASSES.get(objective, 'AutoModelForSequenceClassification')}.from_pretrained"


PIPELINES: Mapping[str, str] = {
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "token-classification": "token-classification",
    "extractive-qa": "question-answering",
    "extractive-qa-v2": "question-answering",
    "image-classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "supervised": "image-classification",
    "simclr": "image-feature-extraction",
    "moco": "image-feature-extraction",
}
"""Objective -> the hub's pipeline; else ``text-classification``."""


def workload_for(base: BaseRef, data: TaskData, recipe: Recipe) -> Any:
    """Bind a task's data to a base model.

    Raises:
        UnknownNameError: an unknown objective; shows the nearest.
    """
    if data.objective not in OBJECTIVES:
        raise unknown_name("objective", data.objective, OBJECTIVES)
    return OBJECTIVES[data.objective](base, data, recipe)
