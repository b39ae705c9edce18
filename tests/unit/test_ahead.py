"""Batches made ahead are the batches, in their order, and nobody's random numbers change."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ticketry.errors import DataError
from ticketry.tasks import ahead
from ticketry.tasks.ahead import in_order, readers_beside

CPU = torch.device("cpu")


class Drawn(Sequence[Any]):
    """Each item draws from the one generator that a process has, seeded by its number."""

    costly = True

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.made: list[int] = []

    def __len__(self) -> int:
        return 9

    def __getitem__(self, number: Any) -> dict[str, Tensor]:
        self.made.append(number)
        if number == self.broken:
            raise DataError(f"picture {number} is gone.")
        random.seed(number)
        return {"pixel_values": torch.tensor([random.random(), number])}


@pytest.fixture
def two_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "readers_beside", lambda device: 2)


@pytest.mark.usefixtures("two_readers")
@pytest.mark.parametrize(("first", "end"), [(0, None), (3, None), (2, 7), (4, 4), (9, None)])
def test_items_come_in_order_and_are_the_same(first: int, end: int | None) -> None:
    items = Drawn()
    found = list(in_order(items, CPU, first, end))
    assert not items.made, "they were made in this process"
    plain = Drawn()
    expected = [plain[number] for number in range(first, 9 if end is None else end)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])


@pytest.mark.usefixtures("two_readers")
def test_random_numbers_here_stay_as_they_were() -> None:
    before = torch.random.get_rng_state(), random.getstate()
    assert len(list(in_order(Drawn(), CPU))) == 9
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.usefixtures("two_readers")
def test_what_an_item_raises_comes_when_its_turn_comes() -> None:
    coming = in_order(Drawn(broken=2), CPU)
    assert [int(next(coming)["pixel_values"][1]) for _ in range(2)] == [0, 1]
    with pytest.raises(DataError) as caught:
        next(coming)
    assert str(caught.value) == "picture 2 is gone."


@pytest.mark.usefixtures("two_readers")
def test_stopping_early_leaves_no_process_behind() -> None:
    import multiprocessing

    before = set(multiprocessing.active_children())
    coming = in_order(Drawn(), CPU)
    next(coming)
    assert set(multiprocessing.active_children()) > before
    coming.close()  # type: ignore[attr-defined]  # it is a generator
    assert set(multiprocessing.active_children()) <= before
    failing = in_order(Drawn(broken=1), CPU)
    next(failing)
    with pytest.raises(DataError):
        next(failing)
    assert set(multiprocessing.active_children()) <= before


def test_nothing_is_made_ahead_on_a_cpu_or_where_it_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = Drawn()
    assert next(iter(in_order(items, CPU)))["pixel_values"][1] == 0
    assert items.made == [0]
    monkeypatch.setattr(ahead, "readers_beside", lambda device: 2)
    assert list(in_order([1, 2, 3], CPU)) == [1, 2, 3]


def test_a_gpu_has_readers_where_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, readers in ((1, 0), (2, 1), (16, ahead.MOST_READERS)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert readers_beside(torch.device("cuda")) == readers
        assert readers_beside(CPU) == 0
