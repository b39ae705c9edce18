"""What a model reads, made while it works on what came before, so that a GPU need not wait."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ticketry.errors import TicketryError

T_co = TypeVar("T_co", covariant=True)

MOST_READERS = 8
"""Processes that make batches for one training, at most."""


class Numbered(Protocol[T_co]):
    """Things that are had by their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> T_co: ...


def is_costly(items: object) -> bool:
    """Say whether making one of some items takes longer than passing it on: their ``costly``."""
    return bool(getattr(items, "costly", False))


def in_order(
    items: Numbered[T_co], device: torch.device, first: int = 0, end: int | None = None
) -> Iterator[T_co]:
    """Yield items from ``first`` on; on a GPU, those that are ``costly`` ahead of time.

    Args:
        items: each must depend on its number alone, as the batches of a workload do. Those
            that say nothing of being ``costly`` are not (:func:`is_costly`).
        device: of the model that reads them. On a CPU nothing is made ahead: the cores are busy.
        first: number of the first that is wanted; those before it are not made.
        end: number after the last that is wanted.

    Raises:
        TicketryError: what making an item raised, when its turn comes.
    """
    numbers = range(first, len(items) if end is None else end)
    readers = readers_beside(device) if is_costly(items) else 0
    if not readers or not numbers:
        yield from (items[number] for number in numbers)
        return
    # Processes, not threads: augmentations draw from generators that a process has but one of. A
    # generator is given, or starting would draw from the training's own.
    loader = DataLoader(
        _Told(items),
        batch_size=None,
        sampler=numbers,
        num_workers=min(readers, len(numbers)),
        multiprocessing_context="fork",
        generator=torch.Generator(),
    )
    with warnings.catch_warnings():
        # Readers touch nothing of what other threads of this process may hold.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=Warning)
        made = iter(loader)
    try:
        for item in made:
            if isinstance(item, TicketryError):
                raise item
            yield item
    finally:
        del made  # ends the processes now, though an exception may hold on to this frame


def readers_beside(device: torch.device) -> int:
    """Return how many processes make batches for a model on a device; 0 for none."""
    if device.type == "cpu" or os.name != "posix":
        return 0
    return min(MOST_READERS, (os.cpu_count() or 1) - 1)


class _Told(Dataset[Any]):
    """Items, or what making one raised: a DataLoader would bury that in a traceback."""

    def __init__(self, items: Numbered[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.items[number]
        except TicketryError as error:
            return error
