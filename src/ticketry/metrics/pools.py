"""Average precision of one run's matched detections, however often each image was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RECALLS = tuple(step / 100 for step in range(101))


class Pool:
    """One run's matched detections of all images, in order of score, class by class.

    Precision is worked out at hits alone: after a miss it is lower than at the hit before, and the
    recall is the same, so no other detection can be the best at any recall.

    Args:
        counted: objects that count, shape (images, classes).
        run: of each image what :meth:`ticketry.metrics.boxes.AveragePrecision.read` returns.
        depth: how many thresholds there are.
    """

    def __init__(self, counted: Floats, run: NDArray[Any], depth: int) -> None:
        import numpy as np

        self.counted = counted
        kinds = np.concatenate([image[0] for image in run])
        scores = np.concatenate([image[1] for image in run])
        hits = np.concatenate([image[2] for image in run])
        ignored = np.concatenate([image[3] for image in run])
        images = np.repeat(np.arange(len(run)), [len(image[0]) for image in run])
        # Classes without an object are left out, as COCO does.
        self.classes = np.flatnonzero(counted.sum(0))
        self.parts = []
        for kind in self.classes:
            own = np.flatnonzero(kinds == kind)
            own = own[np.argsort(-scores[own], kind="mergesort")]
            levels = []
            for level in range(depth):
                right, uncounted = (np.flatnonzero(of[own, level]) for of in (hits, ignored))
                levels.append((right, uncounted, np.searchsorted(uncounted, right)))
            # Of each threshold: hits, what does not count, and how much of that is before each hit.
            self.parts.append((images[own], levels))
        self.depth = depth

    def scores(self, weights: Floats) -> Floats:
        """Return scores when each image counts as often as it was drawn.

        Args:
            weights: shape (draws, images).

        Returns:
            Shape (draws,); a draw without any object scores 0.
        """
        import numpy as np

        objects = weights @ self.counted
        total = np.zeros(len(weights))
        there = np.zeros(len(weights))
        none = np.zeros((1, len(weights)))
        for kind, (images, levels) in zip(self.classes, self.parts, strict=True):
            own = objects[:, kind]
            there += own > 0
            answered = recalls_reached(own)
            drawn = weights.T[images]
            whole = drawn.cumsum(0)
            for hits, uncounted, before in levels:
                seen = whole[hits]
                if len(uncounted):
                    skipped = np.concatenate([none, drawn[uncounted].cumsum(0)])
                    seen = seen - skipped[before]
                total += area(drawn[hits].cumsum(0), seen, answered)
        return total / np.maximum(there * self.depth, 1)

    def with_one_more(self, image: int, found: bool) -> float:
        """Return the score with one image more, of which all is found first, or nothing."""
        import numpy as np

        total = 0.0
        extra = self.counted[image]
        objects = self.counted.sum(0) + extra
        for kind, (_, levels) in zip(self.classes, self.parts, strict=True):
            first = int(extra[kind]) if found else 0
            answered = recalls_reached(objects[[kind]])
            for hits, _, before in levels:
                right = np.arange(1.0, first + len(hits) + 1)
                seen = np.append(right[:first], first + hits + 1 - before)
                total += float(area(right[:, None], seen[:, None], answered)[0])
        return total / (len(self.classes) * self.depth)


def recalls_reached(objects: Floats) -> NDArray[np.int64]:
    """Return how many of the 101 recalls any number of hits reaches.

    Args:
        objects: whole numbers, shape (draws,).

    Returns:
        Shape (the most objects + 1, draws): by hits and draw; 0 where there are no objects.
    """
    import numpy as np

    hits = np.arange(int(objects.max()) + 1)[:, None]
    reached = np.searchsorted(RECALLS, hits / np.maximum(objects, 1), side="right")
    return np.where(objects > 0, reached, 0)


def area(right: Floats, seen: Floats, answered: NDArray[np.int64]) -> Floats:
    """Return the mean, over 101 recalls, of the best precision at that recall or a higher one.

    Args:
        right: hits up to each hit, itself among them, in order of score, shape (hits, draws).
        seen: detections that count, hit or miss, up to each hit, same shape.
        answered: of :func:`recalls_reached`.

    Returns:
        Shape (draws,).
    """
    import numpy as np

    if not len(right):
        return np.zeros(right.shape[1])
    precision = right / np.maximum(seen, np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # A recall that is asked for is answered by the first detection that reaches it.
    reached = np.take_along_axis(answered, right.astype(np.int64), axis=0)
    mean: Floats = (precision * np.diff(reached, axis=0, prepend=0)).sum(0) / len(RECALLS)
    return mean
