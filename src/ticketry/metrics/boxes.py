"""Metrics of detection: average precision as COCO counts it, over images that may be drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import check_length
from ticketry.metrics.pools import RECALLS, Pool
from ticketry.metrics.resampling import Resampled, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Box = tuple[int, float, float, float, float, int]
"""An object: class, x0, y0, x1, y1 in pixels, and a mark: 0 where it counts."""

CROWD, DIFFICULT = 1, 2
"""Marks of what does not count: many objects in one box, as COCO has them, or one that is too hard
to ask for, as VOC has them. Any number of detections may lie on either, unpunished: on a crowd by
their own share that lies inside it, on a difficult object as on any other, by intersection over
union."""

Found = tuple[int, float, float, float, float, float]
"""A detection: class, score, x0, y0, x1, y1 in pixels."""

ALL = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
MOST = 100
"""Detections of one image and class that count, those of the highest scores."""


def need_torchmetrics() -> None:
    """Refuse to go on without torchmetrics and pycocotools.

    Raises:
        InputError: says how to get them.
    """
    try:
        import pycocotools  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise InputError(
            "average precision needs torchmetrics and pycocotools; install them with: "
            "pip install 'ticketry[vision]'"
        ) from error


@dataclass(frozen=True)
class AveragePrecision:
    """Outputs that are the boxes found in each image.

    Attributes:
        thresholds: of intersection over union, over which the mean is taken.

    Source: Lin et al. 2014 (COCO, arXiv 1405.0312) and its ``pycocotools``: precision at 101
        recalls, at most 100 detections an image and class, areas of any size. VOC's difficult
        objects, which these do not know, are ignored as VOC's script does (IJCV 88, section 4.2).
    """

    thresholds: tuple[float, ...] = ALL

    def mean(
        self, labels: Sequence[Sequence[Box]], predictions: Sequence[Sequence[Found]]
    ) -> float:
        """Return the mean over classes and thresholds, by torchmetrics: the metric.

        torchmetrics does not know difficult objects; with any, it is counted here.
        """
        _check_labels(labels)
        if any(box[5] == DIFFICULT for image in labels for box in image):
            counted, runs = self.read(labels, {"the run": predictions})
            return float(self.scores(counted, runs["the run"][None])[0])
        need_torchmetrics()
        import torch
        from torchmetrics.detection import MeanAveragePrecision

        _check_found("the run", predictions, len(labels))
        metric = MeanAveragePrecision(
            iou_thresholds=list(self.thresholds), rec_thresholds=list(RECALLS)
        )
        metric.warn_on_many_detections = False
        metric.update(
            [
                {
                    "boxes": torch.tensor(
                        [found[2:] for found in image], dtype=torch.float64
                    ).reshape(-1, 4),
                    "scores": torch.tensor([found[1] for found in image], dtype=torch.float64),
                    "labels": torch.tensor([found[0] for found in image], dtype=torch.int64),
                }
                for image in predictions
            ],
            [
                {
                    "boxes": torch.tensor([box[1:5] for box in image], dtype=torch.float64).reshape(
                        -1, 4
                    ),
                    "labels": torch.tensor([box[0] for box in image], dtype=torch.int64),
                    "iscrowd": torch.tensor([box[5] for box in image], dtype=torch.int64),
                }
                for image in labels
            ],
        )
        return max(0.0, float(metric.compute()["map"]))

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return objects that count (images, classes), and runs' matched detections.

        A run is an array of objects, one an image: (class, score, hits, ignored) arrays, the last
        two of shape (detections, thresholds), as matching leaves them.
        """
        import numpy as np

        _check_labels(labels)
        classes = 1 + max(box[0] for image in labels for box in image)
        counted = np.zeros((len(labels), classes))
        for row, image in zip(counted, labels, strict=True):
            for box in image:
                row[box[0]] += not box[5]
        runs = {}
        for who, values in predictions.items():
            _check_found(who, values, len(labels))
            run = np.empty(len(labels), dtype=object)
            for number, (image, found) in enumerate(zip(labels, values, strict=True)):
                run[number] = self._matched(image, found, classes)
            runs[who] = run
        return counted, runs

    def _matched(
        self, image: Sequence[Box], found: Sequence[Found], classes: int
    ) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """Match one image's detections with its objects, class by class."""
        import numpy as np

        parts = []
        for kind in sorted({item[0] for item in found if item[0] < classes}):
            own = [item for item in found if item[0] == kind]
            order = np.argsort([-item[1] for item in own], kind="mergesort")[:MOST]
            boxes = [box for box in image if box[0] == kind]
            boxes.sort(
                key=lambda box: box[5] > 0
            )  # those that count come first, else as they stood
            scores = np.array([own[i][1] for i in order])
            hits, ignored = match(
                np.array([own[i][2:] for i in order], dtype=float).reshape(-1, 4),
                np.array([box[1:5] for box in boxes], dtype=float).reshape(-1, 4),
                np.array([box[5] for box in boxes], dtype=np.int64),
                self.thresholds,
            )
            parts.append((np.full(len(order), kind), scores, hits, ignored))
        if not parts:
            none = np.zeros((0, len(self.thresholds)), dtype=bool)
            return np.zeros(0, dtype=np.int64), np.zeros(0), none, none
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]

    def scores(self, labels: NDArray[Any], runs: NDArray[Any]) -> Floats:
        """Return the scores of runs."""
        import numpy as np

        everything = np.ones((1, len(labels)))
        return np.array(
            [Pool(labels, run, len(self.thresholds)).scores(everything)[0] for run in runs]
        )

    def resample(
        self,
        sign: float,
        labels: NDArray[Any],
        reference: NDArray[Any],
        candidate: NDArray[Any],
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain over images.

        The imaginary image is like the one with the most objects: one arm finds them all before
        anything else, with boxes that are exact, and the other finds none.
        """
        import numpy as np

        depth = len(self.thresholds)
        pools = [Pool(labels, run, depth) for run in (*reference, *candidate)]

        def scores(weights: Floats) -> Floats:
            return np.stack([pool.scores(weights) for pool in pools], axis=1)

        fullest = int(labels.sum(1).argmax())
        plain = scores(np.ones((1, len(labels))))[0]
        missed, right = (
            np.array([pool.with_one_more(fullest, found) for pool in pools]) - plain
            for found in (False, True)
        )
        half = len(reference)
        lost = sign * (missed[half:] - right[:half])
        won = sign * (right[half:] - missed[:half])
        return resample_weighted(
            scores, (lost, won), sign=sign, examples=len(labels), samples=samples, rng=rng
        )


def match(
    found: Floats, objects: Floats, marks: NDArray[np.int64], thresholds: Sequence[float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match detections with objects of one image and class, the best score first.

    A detection takes the object that it overlaps most, of those not taken yet; one that does not
    count only where none that counts will do, and as often as wanted.

    Args:
        found: boxes x0, y0, x1, y1 in order of score, shape (detections, 4).
        objects: those that count first, shape (objects, 4).
        marks: of each object: 0, :data:`CROWD` or :data:`DIFFICULT`.
        thresholds: of intersection over union.

    Returns:
        (hits, ignored), shape (detections, thresholds) each.
    """
    import numpy as np

    hits = np.zeros((len(found), len(thresholds)), dtype=bool)
    ignored = hits.copy()
    uncounted = marks > 0
    overlaps = overlap(found, objects, marks == CROWD)
    for level, threshold in enumerate(thresholds):
        taken = np.zeros(len(objects), dtype=bool)
        for row in range(len(found)):
            best, which = min(threshold, 1 - 1e-10), -1
            for column in range(len(objects)):
                if taken[column] and not uncounted[column]:
                    continue
                if which >= 0 and not uncounted[which] and uncounted[column]:
                    break
                if overlaps[row, column] >= best:
                    best, which = overlaps[row, column], column
            if which >= 0:
                taken[which] = True
                hits[row, level] = not uncounted[which]
                ignored[row, level] = uncounted[which]
    return hits, ignored


def overlap(found: Floats, objects: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Return intersection over union of each pair; over the detection alone for a crowd.

    Returns:
        Shape (detections, objects).
    """
    import numpy as np

    low = np.maximum(found[:, None, :2], objects[None, :, :2])
    high = np.minimum(found[:, None, 2:], objects[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    own, other = (np.maximum(side[:, 2:] - side[:, :2], 0).prod(-1) for side in (found, objects))
    union = np.where(crowd[None], own[:, None], own[:, None] + other[None] - shared)
    share: Floats = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    return share


def _check_labels(labels: Sequence[Any]) -> None:
    if not labels or not all(
        isinstance(image, tuple | list) and all(_are_numbers(box, 6) for box in image)
        for image in labels
    ):
        raise InputError(
            "the test labels are empty or not boxes; expected class, x0, y0, x1, y1 and crowd."
        )
    if not any(not box[5] for image in labels for box in image):
        raise InputError("no test image has an object that counts; expected at least one.")


def _check_found(who: str, values: Sequence[Any], images: int) -> None:
    check_length(who, values, images)
    if not all(
        isinstance(image, tuple | list) and all(_are_numbers(found, 6) for found in image)
        for image in values
    ):
        raise InputError(
            f"{who} has predictions of another kind; expected class, score, x0, y0, x1 and y1 of "
            "each box that was found."
        )


def _are_numbers(values: Any, size: int) -> bool:
    return (
        isinstance(values, tuple | list)
        and len(values) == size
        and isinstance(values[0], int)
        and all(isinstance(value, int | float) for value in values)
    )
