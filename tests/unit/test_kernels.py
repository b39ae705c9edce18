"""Kernels that a mask empties: by hand, against chance, and drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ticketry.core.kernels import has_kernels, kept_by_kernel, kernel_counts
from ticketry.core.mask import Mask
from ticketry.core.select import random_global
from ticketry.errors import MaskError
from ticketry.report.kernels import (
    MOST_CELLS,
    draw_kernel_maps,
    kernel_facts,
    kernel_maps,
    zero_kernel_lines,
    zero_kernels,
)


def by_hand() -> Mask:
    """Two outputs, three inputs, kernels of 1 × 2: one is whole, one half, four are zero."""
    bits = torch.zeros(2, 3, 1, 2, dtype=torch.bool)
    bits[0, 0] = True
    bits[0, 2, 0, 1] = True
    return Mask({"conv": bits, "pointwise": torch.zeros(4, 4, 1, 1, dtype=torch.bool),
                 "linear": torch.ones(3, 3, dtype=torch.bool)})  # fmt: skip


def test_kernels_by_hand() -> None:
    mask = by_hand()
    assert kept_by_kernel(mask, "conv").tolist() == [[2, 0, 1], [0, 0, 0]]
    (count,) = kernel_counts(mask)
    assert (count.name, count.kernels, count.size) == ("conv", 6, 2)
    assert (count.zero, count.empty_outputs) == (4, 1)
    # 3 of 12 are kept, so a kernel of two is zero with probability 9/12 · 8/11.
    assert count.zero_expected == pytest.approx(6 * 9 / 12 * 8 / 11)


def test_tensors_without_kernels_are_refused_by_name() -> None:
    for name in ("linear", "pointwise", "absent"):
        with pytest.raises(MaskError, match=f"'{name}' has no kernels; expected a tensor"):
            kept_by_kernel(by_hand(), name)
    assert [has_kernels(s) for s in ((3,), (3, 3), (3, 3, 1, 1), (3, 3, 3), (3, 3, 1, 2))] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_random_masks_empty_as_many_as_chance_says() -> None:
    mask = random_global({"conv": (64, 64, 3, 3)}, 0.2, torch.Generator().manual_seed(0))
    (count,) = kernel_counts(mask)
    assert count.zero_expected == pytest.approx(4096 * 0.8**9, rel=0.01)
    spread = math.sqrt(count.zero_expected)
    assert abs(count.zero - count.zero_expected) < 4 * spread


def test_a_whole_and_an_empty_tensor() -> None:
    shape = (4, 2, 3, 3)
    whole, empty = (Mask({"c": torch.full(shape, kept)}) for kept in (True, False))
    assert [(c.zero, c.zero_expected) for c in kernel_counts(whole)] == [(0, 0.0)]
    assert [(c.zero, c.zero_expected, c.empty_outputs) for c in kernel_counts(empty)] == [(8, 8, 4)]


def mapped(masks: dict[str, Mask]) -> dict[str, Any] | None:
    return kernel_maps(masks, kernel_facts(masks))


def test_the_tensor_with_most_zero_kernels_is_mapped_coarsely() -> None:
    generator = torch.Generator().manual_seed(1)
    kept = torch.rand(50, 30, 3, 3, generator=generator) < 0.5
    bits = {"dense": torch.ones(8, 8, 3, 3, dtype=torch.bool), "sparse": kept}
    bits["sparse"][:25] = False
    masks = {"a": Mask(bits), "b": ~Mask(bits)}
    found = mapped({"a": masks["a"]})
    assert found is not None
    assert (found["name"], found["shape"]) == ("sparse", [50, 30, 3, 3])
    rows = found["kept"]["a"]
    assert (len(rows), len(rows[0])) == (MOST_CELLS, MOST_CELLS)
    assert all(share == 0 for row in rows[:12] for share in row)
    # Cells of equal size would have the mean of all; these differ by one row or column.
    mean = sum(map(sum, rows)) / MOST_CELLS**2
    assert mean == pytest.approx(float(kept.float().mean()), abs=0.02)
    svg = draw_kernel_maps(mapped(masks) or {})
    assert "Map of the kernels of" in svg
    assert svg.count("<path") < 60  # one a shade, not one a cell


def test_shares_are_said_beside_chance() -> None:
    facts = kernel_facts({"one": by_hand(), "two": ~by_hand()})
    assert [row["name"] for row in facts] == ["conv"]
    assert zero_kernels(facts)["one"][0] == pytest.approx(4 / 6)
    assert zero_kernels(facts)["two"][0] == pytest.approx(1 / 6)
    said = zero_kernel_lines(facts)
    assert said[0].startswith("zero kernels, of 6 of more than one weight")
    assert said[1].split() == ["one", "66.67%", "(chance", "54.55%)"]
    assert zero_kernel_lines(kernel_facts({"one": Mask({"w": torch.ones(2, 2).bool()})})) == []
    assert mapped({"one": Mask({"w": torch.ones(2, 2).bool()})}) is None
