"""The metric of segmentation: mean intersection over union of label maps."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ticketry.errors import InputError
from ticketry.metrics.classes import check_length
from ticketry.metrics.resampling import Resampled, extremes, resample_weighted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Pixels = NDArray[np.uint8]

VOID = 255
"""The class of pixels that nothing is asked of, as in PASCAL VOC."""

_MOST_PIXELS = 1 << 26


def encode_map(classes: Pixels) -> str:
    """Return a label map as text: ``HEIGHTxWIDTH:`` and the base64 of its bytes, deflated.

    Args:
        classes: of each pixel, uint8 of shape (height, width); 255 is void.
    """
    height, width = classes.shape
    packed = zlib.compress(classes.astype("uint8", casting="safe").tobytes(), 9)
    return f"{height}x{width}:{base64.b64encode(packed).decode()}"


def decode_map(text: str) -> Pixels:
    """Return a label map of :func:`encode_map`.

    Raises:
        InputError: it is none.
    """
    import numpy as np

    shape, _, data = text.partition(":")
    try:
        height, width = (int(size) for size in shape.split("x"))
        if not 0 < height * width <= _MOST_PIXELS:
            raise ValueError
        reader = zlib.decompressobj()
        # One byte more than there may be: a bomb is not unpacked to see that it is too large.
        pixels = reader.decompress(base64.b64decode(data, validate=True), height * width + 1)
        return np.frombuffer(pixels, dtype=np.uint8).reshape(height, width)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise InputError(
            f"a label map begins with {text[:20]!r}; expected HEIGHTxWIDTH: and base64 of that "
            "many classes, deflated."
        ) from error


def counts_of(truth: Pixels, found: Pixels, classes: int) -> Floats:
    """Return how many pixels of each class are both, found and true, shape (3, classes).

    Void pixels of the truth do not count, whatever was found there.
    """
    import numpy as np

    asked = truth != VOID
    t, f = truth[asked], found[asked]
    rows = (t[t == f], f, t)
    return np.stack([np.bincount(row, minlength=VOID + 1)[:classes] for row in rows]).astype(float)


def iou_of_sums(sums: Floats) -> Floats:
    """Return the mean over classes of intersection / union; classes that are nowhere are left out.

    Args:
        sums: pixels of each class that are both, found and true, shape (…, 3 · classes).
    """
    import numpy as np

    both, found, true = np.split(sums, 3, axis=-1)
    union = found + true - both
    there = union > 0
    shares = np.divide(both, union, out=np.zeros(union.shape), where=there)
    mean: Floats = shares.sum(-1) / np.maximum(there.sum(-1), 1)
    return mean


def mean_iou(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Return mean intersection over union, pixels of all images together.

    Args:
        labels: label maps as text (:func:`encode_map`).
        predictions: the same, of the same sizes.

    Source: Everingham et al. 2015 (PASCAL VOC, IJCV 111), section 4.2.2. Differs: a class that is
        neither true nor found anywhere is left out, where theirs would be undefined.
    """
    truth, runs = MapCounts().read(labels, {"the run": predictions})
    return float(MapCounts().scores(truth, runs["the run"][None])[0])


class MapCounts:
    """Outputs that are label maps; images are drawn anew."""

    def read(
        self, labels: Sequence[Any], predictions: Mapping[str, Sequence[Any]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Return pixels of each class (images, classes), and runs' counts (images, 3 · classes)."""
        import numpy as np

        if not labels or not all(isinstance(text, str) for text in labels):
            raise InputError("the test labels are empty or not label maps.")
        truth = [decode_map(text) for text in labels]
        counts: dict[str, Floats] = {}
        for who, values in predictions.items():
            check_length(who, values, len(truth))
            if not all(isinstance(value, str) for value in values):
                raise InputError(f"{who} has predictions of another kind; expected label maps.")
            counts[who] = _run_counts(who, truth, values)
        classes = max([_classes(truth), *(run.shape[-1] for run in counts.values())])
        runs = {
            who: np.pad(run, ((0, 0), (0, 0), (0, classes - run.shape[-1]))).reshape(len(run), -1)
            for who, run in counts.items()
        }
        own = np.stack([counts_of(true, true, classes)[2] for true in truth])
        return own, runs

    def scores(self, labels: Floats, runs: Floats) -> Floats:
        """Return the scores of runs."""
        return iou_of_sums(runs.sum(-2))

    def resample(
        self,
        sign: float,
        labels: Floats,
        reference: Floats,
        candidate: Floats,
        *,
        samples: int,
        rng: np.random.Generator,
    ) -> Resampled:
        """Bootstrap the mean gain over images."""
        import numpy as np

        features = np.concatenate([reference, candidate]).swapaxes(0, 1)
        table = features.reshape(len(features), -1)
        width = features.shape[-1]

        def scores(weights: Floats) -> Floats:
            return iou_of_sums((weights @ table).reshape(len(weights), -1, width))

        return resample_weighted(
            scores,
            extremes(iou_of_sums, features, _right_and_missed(labels, len(reference)), sign),
            sign=sign,
            examples=len(labels),
            samples=samples,
            rng=rng,
        )


def _classes(maps: Sequence[Pixels]) -> int:
    return 1 + max(int(one[one != VOID].max(initial=0)) for one in maps)


def _run_counts(who: str, truth: Sequence[Pixels], values: Sequence[str]) -> Floats:
    """Return a run's counts, shape (images, 3, classes that it says or should say)."""
    import numpy as np

    found = [decode_map(value) for value in values]
    for number, (true, said) in enumerate(zip(truth, found, strict=True)):
        if true.shape != said.shape:
            raise InputError(
                f"{who}, image {number}: a label map of {said.shape}; expected {true.shape}, the "
                "size of the true one."
            )
    classes = max(_classes(truth), _classes(found))
    return np.stack([counts_of(*pair, classes) for pair in zip(truth, found, strict=True)])


def _right_and_missed(counts: Floats, replicates: int) -> Floats:
    """Return features of images that one arm has all right and the other all wrong."""
    import numpy as np

    nothing = np.zeros(counts.shape)
    right = np.concatenate([counts, counts, counts], axis=-1)
    missed = np.concatenate([nothing, nothing, counts], axis=-1)
    both = [np.repeat(side[:, None], replicates, axis=1) for side in (right, missed)]
    return np.concatenate(both, axis=1)
