"""An image as text, and as what a model reads.

An image stands in a split as text: ``HEIGHTxWIDTHxCHANNELS:`` and the base64 of its uint8 pixels,
rows first, channels last. So data of any kind are hashed, split and stored in one way. Where a
folder holds too many to keep, ``HEIGHTxWIDTHxCHANNELS:@``, the file's SHA-256, ``:`` and its path
stand there instead: all the same but for where the file lies.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ticketry.errors import DataError, ModelError
from ticketry.files import most_here
from ticketry.models.sources import BaseRef, read_config
from ticketry.tasks.ahead import Numbered
from ticketry.tasks.base import is_referred

PROCESSOR_FILE = "preprocessor_config.json"
_DEFAULT = (0.5, 0.5, 0.5)
_MOST_PIXELS = 1 << 26
MOST_PREPARED = 4 << 30
"""Bytes of a split's images as float32 that are held, at most; more are prepared batch by batch."""


def encode_image(pixels: NDArray[np.uint8]) -> str:
    """Return an image as it stands in a split.

    Args:
        pixels: uint8 of shape (height, width) or (height, width, channels).
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(
            f"an image has dtype {pixels.dtype} and {pixels.ndim} dimensions; expected uint8 "
            "pixels of (height, width) or (height, width, channels)."
        )
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    shape = "x".join(map(str, pixels.shape))
    return f"{shape}:{base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode()}"


def refer_to(shape: tuple[int, int, int], sha256: str, path: Path) -> str:
    """Return an image as it stands in a split, its pixels left in their file.

    Args:
        shape: (height, width, channels) that it is read with.
        sha256: of the file.
        path: of the file.
    """
    return f"{'x'.join(map(str, shape))}:@{sha256}:{path}"


def decode_image(text: str) -> NDArray[np.uint8]:
    """Return an image of :func:`encode_image` or :func:`refer_to`, (height, width, channels).

    Raises:
        DataError: it is none, or its file is gone or has changed.
    """
    shape, _, data = text.partition(":")
    if is_referred(text):
        from ticketry.tasks.pictures import pixels_in

        height, width, channels = (int(size) for size in shape.split("x"))
        sha256, _, path = data[1:].partition(":")
        return pixels_in(Path(path), sha256, (height, width, channels))
    try:
        height, width, channels = (int(size) for size in shape.split("x"))
        if not 0 < height * width * channels <= _MOST_PIXELS:
            raise ValueError
        pixels = np.frombuffer(base64.b64decode(data, validate=True), dtype=np.uint8)
        return pixels.reshape(height, width, channels)
    except (ValueError, binascii.Error) as error:
        raise DataError(
            f"an example is no image: it begins with {text[:20]!r}; expected "
            "HEIGHTxWIDTHxCHANNELS: and base64 of that many pixels."
        ) from error


@dataclass(frozen=True)
class Processing:
    """How pixels become a model's input.

    Attributes:
        size: (height, width) that images are resized to.
        channels: of the model.
        mean, std: of each channel, of pixels in [0, 1].
        stated: whether the base's folder says mean and std.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stated: bool

    def apply(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return images as one float32 tensor [images, channels, height, width]."""
        return torch.stack([self._one(image) for image in images])

    def _one(self, image: NDArray[np.uint8]) -> Tensor:
        # Copied: the bytes of a string cannot be written to, which torch warns of.
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255.0
        if pixels.shape[0] == 1 and self.channels > 1:
            pixels = pixels.expand(self.channels, -1, -1)
        if pixels.shape[0] != self.channels:
            raise DataError(
                f"an image has {pixels.shape[0]} channels, the model reads {self.channels}; "
                "expected as many, or 1 (grey)."
            )
        if pixels.shape[1:] != self.size:
            pixels = interpolate(
                pixels[None], self.size, mode="bilinear", antialias=True, align_corners=False
            )[0]
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels - mean[:, None, None]) / std[:, None, None]


def processing_of(base: BaseRef, image_size: int | None = None) -> Processing:
    """Read how a base wants its images.

    Mean and standard deviation come from ``preprocessor_config.json`` (0.5 each where it is
    missing), the size from there or from the model's configuration; all of them from timm's own
    configuration where the model is one of timm.

    Args:
        base: the base model.
        image_size: pixels of either side, instead of what the base says.

    Raises:
        ModelError: the file is not JSON, or its values do not fit.
    """
    config = read_config(base)
    timm = config.get("pretrained_cfg") or {}
    wanted = list(timm.get("input_size") or ())
    channels = int(config.get("num_channels", wanted[0] if wanted else 3))
    path = Path(base.path) / PROCESSOR_FILE
    stated: dict[str, Any] = {}
    if path.is_file():
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is not JSON: {error}.") from error
    size = stated.get("size", config.get("image_size", wanted[1:] or 224))
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [size.get("height", edge), size.get("width", edge)]
    elif isinstance(size, int):
        size = [size, size]
    if image_size is not None:
        size = [image_size, image_size]
    mean = stated.get("image_mean", timm.get("mean") or _DEFAULT[:1] * channels)
    std = stated.get("image_std", timm.get("std") or _DEFAULT[:1] * channels)
    try:
        found = Processing(
            (int(size[0]), int(size[1])),
            channels,
            tuple(float(value) for value in mean),
            tuple(float(value) for value in std),
            "image_mean" in stated or "mean" in timm,
        )
        fits = len(found.mean) == len(found.std) == channels and min(found.std) > 0
        if not (fits and min(found.size) > 0 and max(found.size) <= 4096):
            raise ValueError
    except (TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path} does not fit the model: size {size}, image_mean {mean}, image_std {std}; "
            f"expected a height and width, and {channels} numbers each, the last above 0."
        ) from error
    return found


class Pixels:
    """The images of a split as a model reads them: prepared once where that fits, else each time.

    Args:
        texts: images as they stand in a split.
        processing: how they become the model's input.
    """

    def __init__(self, texts: Sequence[str], processing: Processing) -> None:
        self._texts, self._processing = texts, processing
        height, width = processing.size
        needed = 4 * len(texts) * processing.channels * height * width
        self._whole = self._read(range(len(texts))) if needed <= _most_prepared() else None

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, rows: Tensor | Sequence[int]) -> Tensor:
        """Return some of them, float32 [images, channels, height, width].

        Raises:
            DataError: one is no image.
        """
        if self._whole is not None:
            return self._whole[rows]
        return self._read(rows.tolist() if isinstance(rows, Tensor) else rows)

    @property
    def costly(self) -> bool:
        """Whether they are prepared each time (:func:`ticketry.tasks.ahead.in_order`)."""
        return self._whole is None

    def split(self, count: int) -> Numbered[Tensor]:
        """Return all in their order, ``count`` at once, as :meth:`torch.Tensor.split`."""
        return _Parts(self, count) if self._whole is None else self._whole.split(count)

    def _read(self, rows: Sequence[int]) -> Tensor:
        texts = [self._texts[row] for row in rows]
        if not any(map(is_referred, texts)):
            return self._processing.apply([decode_image(text) for text in texts])
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow lets others run
            return self._processing.apply(list(pool.map(decode_image, texts)))


class _Parts:
    """Images a few at once, prepared when they are asked for."""

    costly = True

    def __init__(self, images: Pixels, count: int) -> None:
        self._images, self._count = images, count

    def __len__(self) -> int:
        return -(-len(self._images) // self._count)

    def __getitem__(self, number: int) -> Tensor:
        start = range(len(self))[number] * self._count
        return self._images[range(start, min(start + self._count, len(self._images)))]


class Decoded(Sequence[NDArray[np.uint8]]):
    """The images of a split as arrays: kept, or where they stand in files read when asked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        referred = any(map(is_referred, texts))
        self._kept = None if referred else [decode_image(text) for text in texts]

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, row: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[NDArray[np.uint8]]: ...
    def __getitem__(self, row: int | slice) -> Any:
        if self._kept is not None:
            return self._kept[row]
        if isinstance(row, slice):
            return [decode_image(text) for text in self._texts[row]]
        return decode_image(self._texts[row])


def _most_prepared() -> int:
    """Return how many bytes a split may take as the model reads it: an eighth of the memory."""
    return min(MOST_PREPARED, most_here(1 << 62) // 4)
