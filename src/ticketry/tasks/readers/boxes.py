"""Boxes as files say them, held against their picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ticketry.metrics.boxes import CROWD, DIFFICULT
from ticketry.tasks.pictures import PictureReader, refuse_all

ROUNDING = 1.0
"""Pixels by which a box may reach beyond its picture; it is cut there, and counted."""

NamedBox = tuple[str, float, float, float, float, int]


class BoxReader:
    """Reads pictures with their boxes, and gathers all faults before it refuses.

    Attributes:
        pictures: reads the pictures.
        faults: of boxes and of what belongs to them, one clause each.
    """

    def __init__(self) -> None:
        self.pictures = PictureReader()
        self.faults: list[str] = []
        self._count: Counter[str] = Counter()

    def image(self, file: Path | None, where: str, said: tuple[Any, Any]) -> str | None:
        """Return a picture as it stands in a split; None, and a fault more, where it is none.

        Args:
            file: None where there is none.
            where: what it is called in messages.
            said: width and height as its labels have them; 0 or None where they are silent.
        """
        if file is None or not file.is_file():
            self.faults.append(f"{where}: there is no picture of it")
            return None
        text = self.pictures.read(file, where)
        if text is not None:
            width, height = size_of(text)
            if all(isinstance(side, int) and side for side in said) and said != (width, height):
                self.faults.append(
                    f"{where}: its labels are of {said[0]} × {said[1]} pixels, the picture has "
                    f"{width} × {height}"
                )
                return None
        return text

    def box(
        self, name: str, corners: tuple[float, ...], mark: int, image: str, where: str
    ) -> NamedBox | None:
        """Return a box; None, and a fault more, where it cannot be the picture's.

        Args:
            name: of the class.
            corners: x0, y0, x1, y1 in pixels, counted from 0.
            mark: 0, or one of the marks of what does not count.
            image: the picture, as it stands in a split.
            where: what the box is called in messages.
        """
        width, height = size_of(image)
        shown = ", ".join(f"{value:g}" for value in corners)
        x0, y0, x1, y1 = corners
        if not (x1 > x0 and y1 > y0):
            self.faults.append(f"{where}: the box {shown} has no area")
        elif not min(x0, y0, width - x1, height - y1) >= -ROUNDING:
            self.faults.append(
                f"{where}: the box {shown} lies outside the picture of {width} × {height} pixels"
            )
        else:
            cut = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            if cut != corners:
                self._count["cut"] += 1
            if cut[2] > cut[0] and cut[3] > cut[1]:
                self._count[{0: "counted"}.get(mark, "uncounted")] += 1
                return (name, *cut, mark)
            self.faults.append(f"{where}: the box {shown} has no area inside the picture")
        return None

    def notes(self) -> list[str]:
        """Say what was unusual, with counts."""
        said = self.pictures.notes()
        total = self._count["counted"] + self._count["uncounted"]
        if uncounted := self._count["uncounted"]:
            said.append(
                f"{uncounted:,} of {total:,} objects are crowds or difficult: nothing is learned "
                "of them, and finding them neither helps nor harms"
            )
        if self._count["cut"]:
            said.append(
                f"{self._count['cut']:,} of {total:,} boxes reached up to {ROUNDING:g} pixel "
                "beyond their picture and were cut there"
            )
        return said

    def refuse_faults(self, source: str) -> None:
        """Refuse data with faults.

        Raises:
            DataError: says the first few and counts the rest.
        """
        self.pictures.refuse_faults(source)
        refuse_all(self.faults, source, "label", "Mend or remove them.")


def size_of(image: str) -> tuple[int, int]:
    """Return width and height of a picture as it stands in a split."""
    height, width = image.partition(":")[0].split("x")[:2]
    return int(width), int(height)


__all__ = ["CROWD", "DIFFICULT", "BoxReader", "NamedBox", "size_of"]
