"""Masks: bits, counts, immutability, set algebra, overlap."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ticketry.core.mask import LayerCount, Mask, Overlap
from ticketry.errors import MaskError

T, F = True, False


def bits(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.bool)


@st.composite
def masks(draw: st.DrawFn, count: int = 1) -> tuple[Mask, ...]:
    """``count`` masks over the same 1 to 3 tensors, of sizes around whole bytes and 0."""
    shapes = draw(
        st.dictionaries(
            st.sampled_from(["a", "b.weight", "c"]),
            st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple),
            min_size=1,
        )
    )
    found = []
    for _ in range(count):
        tensors = {}
        for name, shape in shapes.items():
            size = math.prod(shape)
            values = draw(st.lists(st.booleans(), min_size=size, max_size=size))
            tensors[name] = torch.tensor(values, dtype=torch.bool).reshape(shape)
        found.append(Mask(tensors))
    return tuple(found)


def test_a_mask_by_hand() -> None:
    mask = Mask({"b": bits(T, T, T), "a": bits([F, T], [T, F])})
    assert list(mask) == ["a", "b"]
    assert torch.equal(mask["a"], bits([F, T], [T, F]))
    assert mask.packed("a") == bytes([0b0110])  # the first weight is the lowest bit
    assert mask.packed("b") == bytes([0b111])
    assert (mask.kept, mask.pruned, mask.prunable) == (5, 2, 7)
    assert mask.density == 5 / 7
    assert mask.sparsity == 2 / 7
    assert mask.kept_in("a") == 2
    assert mask.layers() == (LayerCount("a", (2, 2), 2, 4), LayerCount("b", (3,), 3, 3))
    assert [row.density for row in mask.layers()] == [0.5, 1.0]
    assert repr(mask).startswith("Mask(2 tensors, 5 of 7 kept, sparsity 28.57%, ")


def test_the_digest_is_that_of_names_shapes_and_bits() -> None:
    mask = Mask({"w": bits([F, T], [T, F]), "v": bits(T)})
    expected = hashlib.sha256(b'["v", [1]]\n\x01["w", [2, 2]]\n\x06').hexdigest()
    assert mask.digest() == expected


@pytest.mark.parametrize(
    "other",
    [
        {"w": bits(T, F, F, F)},
        {"w": bits([T, T], [F, F])},
        {"v": bits(T, T, F, F)},
        {"w": bits(T, T, F, F), "v": bits()},
    ],
    ids=["bits", "shape", "name", "another tensor"],
)
def test_masks_differ_by_bits_shape_and_name(other: dict[str, torch.Tensor]) -> None:
    mask = Mask({"w": bits(T, T, F, F)})
    assert mask == Mask({"w": bits(T, T, F, F)})
    assert hash(mask) == hash(Mask({"w": bits(T, T, F, F)}))
    assert mask != Mask(other)
    assert mask != "w"


def test_nobody_can_edit_a_mask() -> None:
    source = bits(T, F, T)
    mask = Mask({"w": source})
    before = mask.digest()
    source[1] = True
    mask["w"].fill_(False)
    assert torch.equal(mask["w"], bits(T, F, T))
    with pytest.raises(AttributeError, match="a Mask is immutable: '_kept' cannot be set"):
        mask._kept = {}  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del mask._packed
    with pytest.raises(TypeError):
        mask._packed["w"] = b"\x00"  # type: ignore[index]
    with pytest.raises(TypeError):
        mask["w"] = source  # type: ignore[index]
    assert mask.digest() == before


def test_bits_given_as_a_bytearray_are_frozen() -> None:
    data = bytearray(b"\x05")
    mask = Mask.from_packed({"w": ((3,), data)})  # type: ignore[dict-item]
    data[0] = 0
    assert torch.equal(mask["w"], bits(T, F, T))


def test_a_mask_survives_copy_and_pickle() -> None:
    mask = Mask({"w": bits([T, F, T])})
    for twin in (copy.copy(mask), copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
        assert twin == mask
        assert torch.equal(twin["w"], mask["w"])


def test_it_is_a_mapping() -> None:
    mask = Mask({"w": bits(T), "v": bits(F)})
    assert len(mask) == 2
    assert "w" in mask
    assert "x" not in mask
    assert [name for name, _ in mask.items()] == ["v", "w"]
    with pytest.raises(KeyError):
        mask["x"]


def test_views_and_transposes_are_read_in_logical_order() -> None:
    matrix = bits([T, T, F], [F, F, T])
    assert torch.equal(Mask({"w": matrix.T})["w"], matrix.T)


@given(masks())
def test_packing_round_trips(found: tuple[Mask, ...]) -> None:
    (mask,) = found
    tensors = dict(mask.items())
    assert Mask(tensors) == mask
    assert Mask.from_packed({n: (mask.shape(n), mask.packed(n)) for n in mask}) == mask
    assert mask.kept == sum(int(tensor.sum()) for tensor in tensors.values())
    assert mask.prunable == sum(tensor.numel() for tensor in tensors.values())
    assert all(tensors[name].shape == mask.shape(name) for name in mask)


@given(masks(count=2))
def test_set_algebra_is_that_of_the_tensors(found: tuple[Mask, ...]) -> None:
    one, two = found
    for name in one:
        assert torch.equal((one & two)[name], one[name] & two[name])
        assert torch.equal((one | two)[name], one[name] | two[name])
        assert torch.equal((~one)[name], ~one[name])
    assert (~one).kept == one.pruned
    assert ~~one == one
    assert (one & two).is_subset_of(one)
    assert one.is_subset_of(one | two)
    assert one.is_subset_of(two) == ((one | two) == two)
    assert one.overlap(two) == two.overlap(one)
    assert one.overlap(one).kept_iou == one.overlap(one).pruned_iou == 1.0


def test_overlap_by_hand() -> None:
    one = Mask({"w": bits(T, T, F, F)})
    two = Mask({"w": bits(T, F, T, F)})
    # Both keep 1, either keeps 3; chance at densities 1/2 and 1/2 gives 1 of 3 as well.
    assert one.overlap(two) == Overlap(1 / 3, 1 / 3, 1 / 3, 1 / 3)
    three = Mask({"w": bits(T, F, F, F)})
    # Chance: both 2·1/4 = 0.5 of either 2.5; both pruned 1.5 of either 3.5.
    assert one.overlap(three) == Overlap(1 / 2, 2 / 3, 0.5 / 2.5, 1.5 / 3.5)


def test_overlap_expects_what_the_layers_densities_give() -> None:
    mask = Mask({"full": bits(T, T), "empty": bits(F, F)})
    assert mask.overlap(mask) == Overlap(1.0, 1.0, 1.0, 1.0)  # no other choice was possible


def test_overlap_of_masks_that_keep_nothing_or_all() -> None:
    full = Mask.full({"w": (3,)})
    assert full.overlap(full) == Overlap(1.0, 1.0, 1.0, 1.0)
    assert full.overlap(~full) == Overlap(0.0, 0.0, 0.0, 0.0)


def test_full_and_empty() -> None:
    full = Mask.full({"w": (3, 3), "scalar": (), "none": (0, 4)})
    assert full.kept == full.prunable == 10
    assert full["w"].all()
    assert full.packed("w") == b"\xff\x01"
    assert full.empty_layers() == ()  # a tensor without weights is not an emptied one
    assert (~full).empty_layers() == ("scalar", "w")
    assert Mask.full({"none": (0,)}).density == 1.0
    assert Mask.full({"none": (0,)}).sparsity == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask({}), "a mask of no tensors was asked for; expected at least one."),
        (
            lambda: Mask({"w": torch.ones(2)}),
            "mask tensor 'w' has dtype float32; expected bool, True = kept. Convert it, for "
            "example with `tensor != 0`.",
        ),
        (
            lambda: Mask.from_packed({"w": ((9,), b"\x00")}),
            "mask tensor 'w' of shape (9,) has 1 bytes of bits; expected 2.",
        ),
        (
            lambda: Mask.from_packed({"w": ((3,), b"\x08")}),
            "mask tensor 'w' of shape (3,) has bits set beyond its 3 weights; expected zeros "
            "there. The bits are damaged or belong to another shape.",
        ),
        (
            lambda: Mask.from_packed({"w": ((-1,), b"")}),
            "mask tensor 'w' has shape (-1,); expected whole numbers of 0 and more.",
        ),
        (
            lambda: Mask.full({"w": (2.0,)}),
            "mask tensor 'w' has shape (2.0,); expected whole numbers of 0 and more.",
        ),
        (
            lambda: Mask.full({"w": (2,)}) & Mask.full({"v": (2,)}),
            "the other mask lacks 1 tensor(s): w; expected the other mask and this mask to be of "
            "the same tensors. Use one scope for both.",
        ),
        (
            lambda: Mask.full({"w": (2,)}) | Mask.full(dict.fromkeys("vwxyz", (2,))),
            "this mask lacks 4 tensor(s): v, x, y, …; expected the other mask and this mask to be "
            "of the same tensors. Use one scope for both.",
        ),
        (
            lambda: Mask.full({"w": (2, 3)}).overlap(Mask.full({"w": (3, 2)})),
            "tensor 'w' has shape (3, 2) in the other mask and (2, 3) in this mask; expected the "
            "same base model in both.",
        ),
        (
            lambda: Mask.full({"w": (2,)}).is_subset_of(Mask.full({"w": (3,)})),
            "tensor 'w' has shape (3,) in the other mask and (2,) in this mask; expected the same "
            "base model in both.",
        ),
    ],
)
def test_faults_are_named(make: object, message: str) -> None:
    with pytest.raises(MaskError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == message


def test_only_masks_combine() -> None:
    with pytest.raises(TypeError):
        Mask.full({"w": (2,)}) & {"w": bits(T, T)}  # type: ignore[operator]
