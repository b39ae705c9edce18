"""Readers of released image checkpoints: each layout is recognised by its keys, and converted.

A reader is one entry of :data:`READERS`; docs/adding-a-checkpoint-layout.md shows how to add one.
"""

from __future__ import annotations

from ticketry.models.readers.convert import Conversion, convert, read_checkpoint
from ticketry.models.readers.layouts import READERS, Reader, recognise

__all__ = ["READERS", "Conversion", "Reader", "convert", "read_checkpoint", "recognise"]
