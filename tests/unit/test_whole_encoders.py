"""Whole encoders in one call: against float64, on every instruction set of this machine."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ticketry.errors import PackedError
from ticketry.runtime import ops, packing


def layers(hidden: int, inner: int, count: int, sparsity: float, seed: int) -> list[torch.Tensor]:
    """Return the tensors of some layers: packed in all ways, and dense ones between them."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        for i in range(6):
            out, into = inner if i == 4 else hidden, inner if i == 5 else hidden
            weight = torch.randn(out, into, generator=draw) / into**0.5
            mask = torch.rand(out, into, generator=draw) >= sparsity
            how = ("fp32", "bf16", "int8", None)[int(torch.randint(4, (), generator=draw))]
            packed = how and packing.pack(weight, mask, values=how, block=64, panel=48)
            found += [weight * mask if packed is None else packed]
            found += [torch.randn(out, generator=draw)]
        for _ in range(2):
            found += [torch.rand(hidden, generator=draw) + 0.5, torch.randn(hidden, generator=draw)]
    return found


def exact(
    states: torch.Tensor, tensors: list[torch.Tensor], heads: int, scaling: float, activation: int
) -> torch.Tensor:
    state, (batch, length, hidden) = states.double(), states.shape
    parts = [packing.unpack(t) if t.dtype == torch.uint8 else t for t in tensors]
    for start in range(0, len(parts), 16):
        each = [part.double() for part in parts[start : start + 16]]
        q, k, v = (
            functional.linear(state, each[i], each[i + 1])
            .view(batch, length, heads, hidden // heads)
            .transpose(1, 2)
            for i in (0, 2, 4)
        )
        context = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        context = context.transpose(1, 2).reshape(batch, length, hidden)
        mixed = functional.linear(context, each[6], each[7]) + state
        mixed = functional.layer_norm(mixed, [hidden], each[12], each[13], 1e-5)
        wide = ops._activated(functional.linear(mixed, each[8], each[9]), activation)
        outer = functional.linear(wide, each[10], each[11]) + mixed
        state = functional.layer_norm(outer, [hidden], each[14], each[15], 1e-5)
    return state


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([1, 2, 3, 9]),
    st.sampled_from([1, 7, 32, 33, 70, 130]),
    st.sampled_from([(1, 4), (2, 8), (3, 25)]),
    st.sampled_from([1, 5, 100, 260]),
    st.sampled_from([1, 2]),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from([0, 1, 2, 3]),
    st.integers(0, 9),
)
def test_encoders_are_those_of_float64(
    isa: str,
    batch: int,
    length: int,
    shape: tuple[int, int],
    inner: int,
    count: int,
    sparsity: float,
    activation: int,
    seed: int,
) -> None:
    heads, size = shape
    tensors = layers(heads * size, inner, count, sparsity, seed)
    states = drawn(batch, length, heads * size)
    found = ops.encode(states, None, tensors, heads, 0.3, 1e-5, activation)
    right = exact(states, tensors, heads, 0.3, activation)
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=2e-4)


def test_masks_are_kept(isa: str) -> None:
    tensors = layers(16, 40, 2, 0.7, 0)
    states, seen = drawn(3, 50, 16), torch.ones(3, 1, 50, 50, dtype=torch.bool)
    seen[1, :, :, 20:] = False
    causal = torch.ones(50, 50, dtype=torch.bool).tril().expand(3, 1, -1, -1)
    for mask in (seen[:, :, :1], seen, seen.float().log().clamp(min=-1e30), causal):
        found = ops.encode(states, mask, tensors, 2, 0.3, 1e-5, 2)
        right = ops.encode_reference(states, mask, tensors, 2, 0.3, 1e-5, 2)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    other = states.clone()
    other[1, 20:] = 7.0
    one, two = (ops.encode(s, seen, tensors, 2, 0.3, 1e-5, 2) for s in (states, other))
    torch.testing.assert_close(one[1, :20], two[1, :20])
    assert not torch.allclose(one[1, 20:], two[1, 20:])


def test_nan_stays_with_its_example(isa: str) -> None:
    states = drawn(3, 20, 16)
    states[1, 4, 2] = float("nan")
    found = ops.encode(states, None, layers(16, 40, 2, 0.5, 0), 2, 0.3, 1e-5, 2)
    assert found[1].isnan().any()
    assert found[0].isfinite().all()
    assert found[2].isfinite().all()


def test_threads_and_companions_change_no_bit(isa: str) -> None:
    tensors, states = layers(16, 40, 2, 0.7, 0), drawn(9, 70, 16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(ops.encode(states, None, tensors, 2, 0.3, 1e-5, 2))
    finally:
        torch.set_num_threads(before)
    found.append(
        torch.cat([ops.encode(s, None, tensors, 2, 0.3, 1e-5, 2) for s in states[:, None]])
    )
    for one in found[1:]:
        exactly = {} if isa == "none" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(one, found[0], **exactly)


def test_nothing_gives_nothing(isa: str) -> None:
    tensors = layers(16, 40, 1, 0.7, 0)
    for shape in ((0, 5, 16), (5, 0, 16)):
        assert ops.encode(torch.zeros(shape), None, tensors, 2, 0.3, 1e-5, 2).shape == shape


def test_what_does_not_fit_is_refused(isa: str) -> None:
    tensors, states = layers(16, 40, 1, 0.7, 0), drawn(2, 5, 16)

    def refused(
        message: str, states: torch.Tensor, tensors: list[torch.Tensor], heads: int
    ) -> None:
        with pytest.raises(PackedError, match=re.escape(message)):
            ops.encode(states, None, tensors, heads, 0.3, 1e-5, 2)

    refused("float32 states of three axes", states.double(), tensors, 2)
    refused("16 tensors a layer, and heads that divide", states, tensors[:15], 2)
    refused("16 tensors a layer, and heads that divide", states, tensors, 3)
    for place, message in ((0, "must be 16 x 16"), (11, "must be 16 x 40"), (14, "16 features")):
        wrong = [*tensors[:place], torch.zeros(3), *tensors[place + 1 :]]
        refused(message, states, wrong, 2)
    packed = packing.pack(torch.ones(16, 16))
    refused("another shape than its layer", states, [*tensors[:8], packed, *tensors[9:]], 2)
    packed[64 + 16] += 1
    refused("its counts do not add up", states, [packed, *tensors[1:]], 2)


def test_the_operator_is_sound() -> None:
    arguments = (drawn(2, 5, 16), None, layers(16, 40, 1, 0.7, 0), 2, 0.3, 1e-5, 2)
    torch.library.opcheck(ops.encode, arguments, test_utils=("test_schema", "test_faketensor"))
