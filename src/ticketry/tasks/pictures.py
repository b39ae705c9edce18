"""Picture files as pixels: what is read in which way, and what is refused.

Pillow decodes; formats that it hands to other programs (EPS) are not opened.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ticketry.errors import DataError
from ticketry.files import most_here, sha256_bytes
from ticketry.tasks.base import MOST_BYTES
from ticketry.tasks.pixels import encode_image, refer_to

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm",
            ".pgm", ".pbm")  # fmt: skip
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow's decoders that may be used."""

SHORT = 256
"""Pixels of the shorter side of a picture that is to be classified, at most."""

_ODD_MODES = {
    "palette": ("P",),
    "CMYK": ("CMYK",),
    "16 bits": ("I;16", "I;16B", "I;16L", "I;16N"),
}

MOST_PIXELS = 1 << 26
MOST_SAID = 5

_UNUSUAL = {
    "palette": "have a palette and were read as RGB",
    "transparent": "are transparent in parts and were laid on white",
    "CMYK": "are CMYK and were read as RGB",
    "16 bits": "have 16 bits a pixel, of which the upper 8 were read",
    "frames": "are moving pictures, of which the first was read",
    "shrunk": "were shrunk until their shorter side had {short} pixels",
}


MOST_KEPT = 2 << 30
"""Bytes of prepared pictures from which on those of a folder are left in their files."""

_refers: ContextVar[bool] = ContextVar("refers", default=False)


class TooManyPicturesError(DataError):
    """A folder's pictures are too many to keep; they can be read by reference."""


@contextlib.contextmanager
def by_reference() -> Iterator[None]:
    """Meanwhile leave the pictures that are read in their files."""
    token = _refers.set(True)
    try:
        yield
    finally:
        _refers.reset(token)


class PictureReader:
    """Reads pictures, counts what is unusual, and gathers all faults before it refuses.

    Args:
        short: shrink pictures whose shorter side is longer than this; None: never.

    Attributes:
        faults: of pictures that cannot be used, one sentence each.
    """

    def __init__(self, short: int | None = None) -> None:
        self.short = short
        self.faults: list[str] = []
        self.unusual: Counter[str] = Counter()
        self._channels: Counter[int] = Counter()
        self._bytes = 0

    def read(self, file: Path | bytes, where: str) -> str | None:
        """Return a picture as it stands in a split; None, and a fault more, where it is none.

        Args:
            file: its path or its content.
            where: what it is called in messages.

        Raises:
            TooManyPicturesError: the pictures so far take more than is kept, and could be left in
                their files.
            DataError: they take more memory than prepared data may.
        """
        try:
            data = file if isinstance(file, bytes) else file.read_bytes()
            if _refers.get() and isinstance(file, Path):
                return self._reference(data, file)
            pixels = self._pixels(data)
        except OSError as error:
            self.faults.append(f"{where} cannot be read: {error.strerror}")
            return None
        except ValueError as error:
            self.faults.append(f"{where} {error}")
            return None
        self._channels[pixels.shape[2] if pixels.ndim == 3 else 1] += 1
        text = encode_image(pixels)
        self._bytes += len(text)
        if isinstance(file, Path) and self._bytes > most_here(MOST_KEPT):
            raise TooManyPicturesError(f"{where} and those before it are too many to keep.")
        if self._bytes > (most := most_here(MOST_BYTES)):
            raise DataError(
                f"the first {self._channels.total():,} images take {self._bytes / 1e9:.3g} GB as "
                f"they are prepared, and a run holds all of them in memory; here at most "
                f"{most / 1e9:.3g} GB may be (16 GiB, or half of the memory). Give fewer images, "
                "or smaller ones."
            )
        return text

    def _pixels(self, data: bytes) -> NDArray[np.uint8]:
        image, first = open_picture(data)
        size = self._size(image)
        if size != image.size:
            image = _shrunk(image, size)
            self.unusual["shrunk"] += 1
        self.unusual.update(first)
        pixels: NDArray[np.uint8] = np.asarray(image)
        return pixels

    def _size(self, image: Any) -> tuple[int, int]:
        """Return the width and height with which a picture is read."""
        width, height = image.size
        if self.short is None or min(width, height) <= self.short:
            return width, height
        scale = self.short / min(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _reference(self, data: bytes, file: Path) -> str:
        """Return a picture as it stands in a split, its pixels left in its file.

        Its header alone is read, but where only the pixels say what it is.
        """
        image = _opened(data, FORMATS)
        unusual: list[str] = []
        mode = image.mode
        see_through = "A" in mode or "a" in mode or "transparency" in image.info
        if see_through or mode in ("I", "F"):
            image, unusual = open_picture(data)  # or says what is wrong with it
            mode = image.mode
        elif kind := next((kind for kind, modes in _ODD_MODES.items() if mode in modes), None):
            unusual = [kind]
        self.unusual.update(unusual)
        width, height = size = self._size(image)
        if size != image.size:
            self.unusual["shrunk"] += 1
        channels = 1 if mode in ("1", "L") or mode.startswith("I;16") else 3
        self._channels[channels] += 1
        return refer_to((height, width, channels), sha256_bytes(data), file.absolute())

    def notes(self) -> list[str]:
        """Say what was unusual, with counts."""
        whole = f"of {self._channels.total():,} images"
        said = [
            f"{count:,} {whole} {_UNUSUAL[kind].format(short=self.short)}"
            for kind, count in sorted(self.unusual.items())
        ]
        if len(self._channels) > 1:
            said.append(f"{self._channels[1]:,} {whole} are grey, the others are not")
        return said

    def refuse_faults(self, source: str) -> None:
        """Refuse data with faults.

        Raises:
            DataError: names the first few pictures and counts the rest.
        """
        refuse_all(self.faults, source, "image", "Mend or remove them.")


def _shrunk(image: Any, size: tuple[int, int]) -> Any:
    return image.resize(size, resample=2, reducing_gap=3.0)  # 2: bilinear


def pixels_in(path: Path, sha256: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the pixels of a picture that stands in a split by reference.

    Args:
        path: of its file.
        sha256: of the file.
        shape: (height, width, channels) that it is read with.

    Raises:
        DataError: the file is gone, has changed, or is damaged.
    """
    remedy = "Put it back as it was, or start a run of its own with the data as they are."
    try:
        data = path.read_bytes()
        if sha256_bytes(data) != sha256:
            raise ValueError("is another file than when the data were prepared")
        remedy = "Mend or remove it, and start a run of its own."
        image, _ = open_picture(data)
        if image.size != (shape[1], shape[0]):
            image = _shrunk(image, (shape[1], shape[0]))
        pixels: NDArray[np.uint8] = np.asarray(image)
        return pixels.reshape(shape)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    except ValueError as error:
        raise DataError(f"{path} {error}. {remedy}") from error


def refuse_all(faults: list[str], source: str, what: str, remedy: str) -> None:
    """Refuse data with faults.

    Args:
        faults: clauses without a full stop.
        source: the data.
        what: the kind of thing that has one.
        remedy: a sentence on what to do.

    Raises:
        DataError: says the first few, and counts the rest.
    """
    if not faults:
        return
    some = "; ".join(faults[:MOST_SAID])
    rest = f"; and {len(faults) - MOST_SAID:,} more" if len(faults) > MOST_SAID else ""
    number = f"{len(faults):,} {what}{'s' if len(faults) > 1 else ''}"
    raise DataError(f"{source} has {number} that cannot be used: {some}{rest}. {remedy}")


def open_picture(data: bytes) -> tuple[Any, list[str]]:
    """Decode a picture.

    Returns:
        A picture of Pillow's with mode ``L`` or ``RGB``, and what was unusual about the file (keys
        of the notes).

    Raises:
        ValueError: it is no picture, is cut short, or its values have no known meaning; a clause
            that follows its name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _opened(data, FORMATS)
        if image.mode in ("I", "F"):
            raise ValueError(
                f"has 32 bits a pixel (mode {image.mode}), of which nothing says what is white; "
                "expected 8 or 16"
            )
        try:
            image.load()
            return _plain(image)
        except Exception as error:  # decoders raise a dozen kinds
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"is damaged or cut short ({line[:80]})") from error


def _plain(image: Any) -> tuple[Any, list[str]]:
    image_module = _pillow()
    mode, unusual = image.mode, []
    if getattr(image, "n_frames", 1) > 1:
        unusual.append("frames")
    if mode.startswith("I;16"):
        upper = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return image_module.fromarray(upper), [*unusual, "16 bits"]
    if mode == "P":
        unusual.append("palette")
    if "transparency" in image.info or "A" in mode or "a" in mode:
        coloured = image.convert("RGBA")
        if coloured.getextrema()[3][0] < 255:
            unusual.append("transparent")
            white = image_module.new("RGBA", image.size, (255, 255, 255, 255))
            coloured = image_module.alpha_composite(white, coloured)
        grey = mode in ("L", "LA", "La", "1") and "transparent" not in unusual
        return coloured.convert("L" if grey else "RGB"), unusual
    if mode == "CMYK":
        unusual.append("CMYK")
    return image.convert("L" if mode in ("1", "L") else "RGB"), unusual


def open_map(data: bytes) -> NDArray[np.uint8]:
    """Decode a picture whose values are classes: with a palette, or grey of 8 bits.

    Returns:
        uint8 of shape (height, width): indices into the palette, or the grey values.

    Raises:
        ValueError: it is no picture, is cut short, or is coloured; a clause that follows its name.
    """
    image = _opened(data, ("PNG", "BMP", "TIFF", "GIF"))
    if image.mode not in ("P", "L", "1"):
        raise ValueError(
            f"is of mode {image.mode}; expected a palette or 8 bits of grey, whose values are "
            "classes"
        )
    try:
        pixels: NDArray[np.uint8] = np.asarray(image).astype(np.uint8)
    except Exception as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"is damaged or cut short ({line[:80]})") from error
    return pixels


def _opened(data: bytes, formats: Sequence[str]) -> Any:
    """Read a picture's header."""
    image_module = _pillow()
    if not data:
        raise ValueError("is empty (0 bytes)")
    try:
        image = image_module.open(io.BytesIO(data), formats=formats)
        width, height = image.size
    except image_module.DecompressionBombError:
        width = height = MOST_PIXELS
    except Exception as error:
        raise ValueError(f"is no picture ({', '.join(formats)} are read)") from error
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"has too many pixels; expected at most {MOST_PIXELS:,}")
    return image


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "images need Pillow; install it with: pip install 'ticketry[vision]'"
        ) from error
    return Image
