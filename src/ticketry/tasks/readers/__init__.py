"""Readers of image data: each layout of folders is recognised by what lies in it.

A layout is one module with a :class:`~ticketry.tasks.readers.base.Layout`, and its entry in
:data:`LAYOUTS`; docs/adding-an-image-layout.md shows how to add one.
"""

from __future__ import annotations

from pathlib import Path

from ticketry.errors import DataError
from ticketry.tasks.readers.base import Examples, Found, Layout
from ticketry.tasks.readers.cifar import CIFAR
from ticketry.tasks.readers.classfolders import CLASS_FOLDERS
from ticketry.tasks.readers.coco import COCO
from ticketry.tasks.readers.svhn import SVHN
from ticketry.tasks.readers.visda import VISDA
from ticketry.tasks.readers.voc import VOC_BOXES, VOC_MASKS

LAYOUTS: list[Layout] = [CIFAR, SVHN, VISDA, CLASS_FOLDERS, VOC_BOXES, COCO, VOC_MASKS]
"""Tried from the first to the last, so a particular layout stands before a general one."""


def recognise(folder: Path, objective: str) -> Layout:
    """Return the layout of a folder that has labels for an objective.

    Raises:
        DataError: none of the known ones; says what each looks like.
    """
    for layout in LAYOUTS:
        if objective in layout.objectives and layout.holds(folder):
            return layout
    known = "; ".join(
        f"{layout.name} ({layout.what})" for layout in LAYOUTS if objective in layout.objectives
    )
    raise DataError(
        f"{folder} has no layout that --objective {objective} is read from; expected one of: "
        f"{known}."
    )


__all__ = ["LAYOUTS", "Examples", "Found", "Layout", "recognise"]
