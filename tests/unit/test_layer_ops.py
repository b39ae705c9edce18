"""Attention and normalisation with tokens last: against float64, on every instruction set."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ticketry.runtime import ops


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def masks(kind: str, batch: int, length: int) -> torch.Tensor | None:
    seen = torch.ones(batch, 1, length, length, dtype=torch.bool)
    seen[:, :, :, -(length // 3) or length :] = False
    return {
        "none": None,
        "keys": seen[:, :, :1],
        "keys of each query": seen,
        "added": torch.zeros(seen.shape).masked_fill(~seen, -1e30),
        "causal": torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, -1, -1),
        "nothing seen": torch.zeros_like(seen),
    }[kind]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([1, 3]),
    st.sampled_from([1, 5, 31, 32, 33, 70]),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 4, 13, 32]),
    st.sampled_from(["none", "keys", "keys of each query", "added", "causal", "nothing seen"]),
)
def test_attention(isa: str, batch: int, length: int, heads: int, size: int, kind: str) -> None:
    query, key, value = (drawn(heads * size, batch * length, seed=i) * 2 for i in range(3))
    mask = masks(kind, batch, length)
    found = ops.attend(query, key, value, mask, batch, heads, 0.3)
    exact = None if mask is None or mask.dtype == torch.bool else mask.double()
    right = ops.attend_reference(
        *(query.double(), key.double(), value.double()),
        *(mask if exact is None else exact, batch, heads, 0.3),
    )
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_nan_stays_with_its_example_and_head(isa: str) -> None:
    query, key, value = (drawn(8, 80, seed=i) for i in range(3))
    query[1, 3] = float("nan")  # head 0, example 0, token 3
    found = ops.attend(query, key, value, None, 2, 2, 1.0)
    assert found[:4, 3].isnan().all()
    found[:4, 3] = 0
    assert found.isfinite().all()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from([1, 2, 17, 384]), st.sampled_from([0, 1, 31, 32, 33, 100]))
def test_normalisation(isa: str, features: int, tokens: int) -> None:
    values, residual = drawn(features, tokens) * 3 + 1, drawn(features, tokens, seed=1)
    weight, bias = drawn(features, seed=2), drawn(features, seed=3)
    found = ops.add_norm(values, residual, weight, bias, 1e-5)
    right = ops.add_norm_reference(
        *(values.double(), residual.double(), weight.double(), bias.double()), 1e-5
    )
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)


def test_threads_change_no_bit(isa: str) -> None:
    parts = [drawn(64, 300, seed=i) for i in range(3)]
    norm = drawn(64, seed=4), drawn(64, seed=5)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            attended = ops.attend(*parts, None, 3, 4, 0.25)
            found.append((attended, ops.add_norm(attended, parts[0], *norm, 1e-6)))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **({} if isa == "none" else {"rtol": 0, "atol": 0}))


def test_the_operators_are_sound() -> None:
    parts = [drawn(8, 10, seed=i) for i in range(3)]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.attend, (*parts, None, 2, 2, 0.5), test_utils=checks)
    norm = (parts[0], parts[1], drawn(8), drawn(8, seed=1), 1e-5)
    torch.library.opcheck(ops.add_norm, norm, test_utils=checks)
