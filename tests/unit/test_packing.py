"""The packed form: what goes in comes out, and what is damaged is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ticketry.errors import PackedError, UnknownNameError
from ticketry.runtime import native, packing

SIZES = st.sampled_from([1, 2, 7, 31, 64, 65, 130])


def matrix(
    rows: int, columns: int, sparsity: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw)
    return weight, torch.rand(rows, columns, generator=draw) >= sparsity


@settings(max_examples=60, deadline=None)
@given(
    SIZES,
    SIZES,
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([1, 3, 64, 192, 256]),
    st.sampled_from([1, 5, 48, 256]),
    st.integers(0, 5),
)
def test_what_is_packed_comes_out(
    rows: int, columns: int, sparsity: float, block: int, panel: int, seed: int
) -> None:
    weight, mask = matrix(rows, columns, sparsity, seed)
    packed = packing.pack(weight, mask, block=block, panel=panel)
    assert torch.equal(packing.unpack(packed), weight * mask)
    assert torch.equal(packing.mask_of(packed), mask)
    assert packing.shape_of(packed) == (rows, columns, int(mask.sum()))
    if native.library().handle:
        native.check(packed, rows, columns)


@pytest.mark.parametrize("values", packing.VALUES)
@pytest.mark.parametrize("shape", [(1, 1), (70, 130), (0, 3)])
def test_values_are_rounded_as_said(values: str, shape: tuple[int, int]) -> None:
    weight, mask = matrix(*shape, 0.5, 3)
    mask[5:7] = False  # rows that keep nothing
    packed = packing.pack(weight, mask, values=values)
    assert packing.values_of(packed) == values
    found, kept = packing.unpack(packed), weight * mask
    most = {
        "fp32": torch.zeros(()),
        "bf16": kept.abs() * 2**-8,
        "int8": kept.abs().amax(1, keepdim=True) / 254 * (1 + 1e-6) if kept.numel() else kept,
    }
    assert ((found - kept).abs() <= most[values]).all()
    assert torch.equal(packing.mask_of(packed), mask)
    assert torch.equal(packing.unpack(packing.pack(found, mask, values=values)), found)
    each = {"fp32": 4, "bf16": 2, "int8": 1}[values] * int(mask.sum())
    scales = 4 * shape[0] if values == "int8" else 0
    other = packing.pack(weight, mask)
    assert len(packed) == len(other) - 4 * int(mask.sum()) + each + scales
    if native.library().handle:
        native.check(packed, *shape)


def test_kept_zeros_nan_and_inf_are_kept() -> None:
    weight = torch.tensor([[0.0, float("nan")], [float("inf"), 2.0]])
    mask = torch.tensor([[True, True], [True, False]])
    packed = packing.pack(weight, mask)
    assert torch.equal(packing.mask_of(packed), mask)
    assert torch.equal(packing.mask_of(packing.pack(weight)), weight != 0)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_a_matrix_without_elements(shape: tuple[int, int]) -> None:
    packed = packing.pack(torch.zeros(shape))
    assert packing.unpack(packed).shape == shape


def test_bad_inputs_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown values 'int4'.*Known: bf16, fp32, int8"):
        packing.pack(torch.zeros(1, 1), values="int4")
    with pytest.raises(PackedError, match="NaN or infinite, which int8 cannot hold"):
        packing.pack(torch.tensor([[float("nan")]]), values="int8")
    with pytest.raises(PackedError, match=r"a matrix is packed, not a tensor of shape \(3,\)"):
        packing.pack(torch.zeros(3))
    with pytest.raises(PackedError, match=r"the mask has shape \(2, 2\), the weight \(2, 3\)"):
        packing.pack(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(PackedError, match="at least 64 bytes, not 3"):
        packing.unpack(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(PackedError, match=r"not torch\.float32 of shape"):
        packing.unpack(torch.zeros(80))
    with pytest.raises(PackedError, match="no packed matrix of version 2; pack the weights again"):
        packing.unpack(torch.zeros(80, dtype=torch.uint8))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(packing.VALUES)),
    st.integers(0, 10_000),
    st.integers(0, 255),
    st.integers(-40, 40),
)
def test_a_damaged_matrix_is_refused_or_read(
    values: str, place: int, value: int, change: int
) -> None:
    weight, mask = matrix(40, 70, 0.8, 0)
    packed = packing.pack(weight, mask, values=values, block=32, panel=16)
    damaged = packed.clone()
    damaged[place % len(damaged)] = value
    if change < 0:
        damaged = damaged[:change]
    elif place % 3 == 0:
        damaged = torch.cat([damaged, torch.zeros(change, dtype=torch.uint8)])
    try:
        parts = packing.read(damaged)
    except PackedError:
        accepted = False
    else:
        accepted = True
        assert parts.rows * parts.columns >= len(parts.row)
    if native.library().handle:  # the kernels' own check agrees
        try:
            native.check(damaged.clone(), 40, 70)
        except PackedError:
            assert not accepted or packing.shape_of(damaged)[:2] != (40, 70)
        else:
            assert accepted


def test_every_byte_of_the_counts_is_checked() -> None:
    weight, mask = matrix(20, 30, 0.5, 1)
    packed = packing.pack(weight, mask, block=16, panel=8)
    cells = 3 * 2
    groups = int(packed[20:24].view(torch.int32))
    # One more row or column, or a larger panel or block, can be another matrix that is whole.
    other = {12, 16, 24, 32}
    for place in set(range(64 + 16 * (cells + 1) + 4 * groups)) - other:
        damaged = packed.clone()
        damaged[place] += 1
        with pytest.raises(PackedError):
            packing.read(damaged)
