"""Named tasks of the hub: GLUE's nine (MNLI twice), SQuAD, CoNLL-2003, WikiText, CIFAR, SVHN, ….

GLUE and SQuAD hide the labels of their test splits. So what is tested on here is their own
validation split, read once, and a seeded part of train takes the place of validation: the scores
are those that papers report as "dev", but no choice was made on them. CoNLL-2003 is read from a
copy with its own columns and splits: the data set of that name is a script, which ``datasets`` no
longer runs.

Source: metrics as in arXiv 2007.12223, Table 2 (protocols.md); MNLI's two splits stand under names
of their own, for the released code of that paper reports the mismatched one under the matched key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ticketry.errors import DataError
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file

GLUE = "nyu-mll/glue"


@dataclass(frozen=True)
class HubTask:
    """A data set of the hub, and how it is a task.

    Attributes:
        source: the data set's id.
        config: one of its configurations, or None.
        text: the column of the text, or of the image.
        pair: the second text's column, or None.
        label: the label's column; None where texts are their own labels.
        metric: the task's.
        test_split: what is tested on; None: the data set's own choice.
        objective: what is learned.
    """

    source: str
    config: str | None
    text: str
    pair: str | None
    label: str | None = "label"
    metric: str = "accuracy"
    test_split: str | None = "validation"
    objective: str = "classification"


HUB_TASKS: Mapping[str, HubTask] = {
    "glue/cola": HubTask(GLUE, "cola", "sentence", None, metric="mcc"),
    "glue/sst2": HubTask(GLUE, "sst2", "sentence", None),
    "glue/mrpc": HubTask(GLUE, "mrpc", "sentence1", "sentence2"),
    "glue/qqp": HubTask(GLUE, "qqp", "question1", "question2"),
    "glue/stsb": HubTask(
        GLUE, "stsb", "sentence1", "sentence2", metric="pearson", objective="regression"
    ),
    "glue/mnli-matched": HubTask(
        GLUE, "mnli", "premise", "hypothesis", test_split="validation_matched"
    ),
    "glue/mnli-mismatched": HubTask(
        GLUE, "mnli", "premise", "hypothesis", test_split="validation_mismatched"
    ),
    "glue/qnli": HubTask(GLUE, "qnli", "question", "sentence"),
    "glue/rte": HubTask(GLUE, "rte", "sentence1", "sentence2"),
    "glue/wnli": HubTask(GLUE, "wnli", "sentence1", "sentence2"),
    "newsgroups": HubTask(
        "SetFit/20_newsgroups", None, "text", None, label="label_text", test_split="test"
    ),
    "conll2003": HubTask(
        "tomaarsen/conll2003",
        None,
        "tokens",
        None,
        label="ner_tags",
        metric="entity-f1",
        test_split="test",
        objective="token-classification",
    ),
    "squad": HubTask(
        "rajpurkar/squad",
        None,
        "question",
        "context",
        label="answers",
        metric="squad-f1",
        objective="extractive-qa",
    ),
    "squad_v2": HubTask(
        "rajpurkar/squad_v2",
        None,
        "question",
        "context",
        label="answers",
        metric="squad-v2-f1",
        objective="extractive-qa-v2",
    ),
    "wikitext": HubTask(
        "Salesforce/wikitext",
        "wikitext-103-raw-v1",
        "text",
        None,
        label=None,
        metric="mlm-accuracy",
        test_split=None,
        objective="masked-lm",
    ),
    "cifar10": HubTask(
        "uoft-cs/cifar10", None, "img", None, test_split="test", objective="image-classification"
    ),
    "cifar100": HubTask(
        "uoft-cs/cifar100",
        None,
        "img",
        None,
        label="fine_label",
        test_split="test",
        objective="image-classification",
    ),
    "svhn": HubTask(
        "ufldl-stanford/svhn",
        "cropped_digits",
        "image",
        None,
        test_split="test",
        objective="image-classification",
    ),
}


def load_hub_task(
    name: str, *, split_seed: int, say: Callable[[str], None], source: str | None = None
) -> TaskData:
    """Load a named task from the hub, or from a folder in the hub's layout.

    Args:
        name: a key of :data:`HUB_TASKS`.
        split_seed: decides what of train becomes validation.
        say: given a line about the download.
        source: a folder or another id instead of the task's own.

    Raises:
        DataError: it could not be loaded; says what to do.
    """
    task = HUB_TASKS[name]
    shown = task.source if task.config is None else f"{task.source} ({task.config})"
    say(f"loading {shown} from the Hugging Face hub, or its cache ...")
    try:
        return load_file(
            source or task.source,
            text_column=task.text,
            text_pair_column=task.pair,
            label_column=task.label,
            objective=task.objective,
            config=task.config,
            test_split=task.test_split,
            metric=task.metric,
            name=name,
            seed=split_seed,
            drop_empty=True,
        )
    except DataError as error:
        raise DataError(
            f"task {name!r}: {str(error).rstrip('.')}. It needs the network once, or "
            f"HF_DATASETS_CACHE with {task.source} in it; a folder in the hub's layout goes to "
            f"--data FOLDER{_options(task)}."
        ) from error


def _options(task: HubTask) -> str:
    """Return the options that go with a folder in place of a task's data set."""
    config = "" if task.config is None else f" --data-config {task.config}"
    return config + ("" if task.objective == "classification" else f" --objective {task.objective}")
