"""Sparse products against float64, on every instruction set of this machine and without any."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ticketry.errors import ConfigError, PackedError, UnknownNameError
from ticketry.runtime import native, ops, packing
from ticketry.runtime.modules import SparseLinear


def case(
    rows: int, columns: int, tokens: int, sparsity: float, values: str = "fp32"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(rows + 7 * columns + 49 * tokens)
    weight = torch.randn(rows, columns, generator=draw)
    weight[torch.rand(rows, columns, generator=draw) < sparsity] = 0
    bias = torch.randn(rows, generator=draw)
    packed = packing.pack(weight, values=values)
    return packing.unpack(packed), packed, torch.randn(columns, tokens, generator=draw), bias


def expected(
    weight: torch.Tensor, inputs: torch.Tensor, bias: torch.Tensor, activation: str
) -> torch.Tensor:
    found = weight.double() @ inputs.double() + bias.double()[:, None]
    return ops._activated(found, ops.ACTIVATIONS[activation])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([1, 3, 64, 65, 200, 300]),
    st.sampled_from([1, 2, 63, 192, 193, 400]),
    st.sampled_from([0, 1, 2, 5, 16, 17, 63, 64, 65, 100, 130]),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from(sorted(ops.ACTIVATIONS)),
    st.sampled_from(sorted(packing.VALUES)),
    st.booleans(),
)
def test_products_are_those_of_float64(
    isa: str,
    rows: int,
    columns: int,
    tokens: int,
    sparsity: float,
    activation: str,
    values: str,
    tokens_first: bool,
) -> None:
    weight, packed, inputs, bias = case(rows, columns, tokens, sparsity, values)
    given_inputs = inputs.t().contiguous() if tokens_first else inputs
    found = ops.sparse_linear(
        given_inputs, packed, bias, rows, ops.ACTIVATIONS[activation], tokens_first
    )
    found = found.t() if tokens_first else found
    torch.testing.assert_close(
        found.double(), expected(weight, inputs, bias, activation), rtol=1e-5, atol=1e-4
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(1, 300),
    st.integers(1, 450),
    st.integers(0, 140),
    st.floats(0, 1),
    st.integers(0, 9),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0]),
)
def test_random_shapes_with_empty_rows_and_strange_numbers(
    isa: str, rows: int, columns: int, tokens: int, sparsity: float, empty: int, strange: float
) -> None:
    weight, _, inputs, bias = case(rows, columns, tokens, sparsity)
    weight[:empty], weight[:, columns // 2] = 0, 0
    if tokens and isa != "none":  # without kernels zeros are multiplied too
        inputs[columns // 2] = strange  # in a column of which nothing is kept
        inputs[0, 0] = strange
    packed = packing.pack(weight)
    found = ops.sparse_linear(inputs, packed, bias, rows, 0, False)
    right = bias.double()[:, None].repeat(1, tokens)
    for row, kept in enumerate(weight.ne(0)):
        right[row] += weight[row, kept].double() @ inputs[kept].double()
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("tokens", [1, 3, 70])
def test_nan_and_inf_reach_what_they_are_multiplied_with(isa: str, tokens: int) -> None:
    if isa == "none":
        pytest.skip("without kernels zeros are multiplied too, as the reference says")
    weight, packed, inputs, bias = case(150, 210, tokens, 0.9)
    inputs[5], inputs[200], inputs[100] = float("nan"), float("inf"), float("-inf")
    found = ops.sparse_linear(inputs, packed, bias, 150, 0, False)
    kept = weight != 0
    for row in range(150):
        chosen = kept[row]
        right = (weight[row, chosen].double() @ inputs[chosen].double()) + bias[row].double()
        torch.testing.assert_close(found[row].double(), right, rtol=1e-5, atol=1e-4, equal_nan=True)
    assert found.isnan().any()
    assert found.isinf().any()
    assert found.isfinite().any()


def test_activations_of_numbers_that_are_none(isa: str) -> None:
    packed = packing.pack(torch.ones(1, 1))
    inputs = torch.tensor([[float("nan"), -20.0, 20.0, 0.0, -0.5, 1e30, -1e30]])
    endless = torch.tensor([[float("inf")]])  # of which torch's own GELU makes NaN
    for code in ops.ACTIVATIONS.values():
        found = ops.sparse_linear(inputs, packed, None, 1, code, False)
        torch.testing.assert_close(
            found, ops._activated(inputs, code), equal_nan=True, rtol=1e-5, atol=1e-6
        )
        if isa != "none":
            assert torch.equal(ops.sparse_linear(endless, packed, None, 1, code, False), endless)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit(isa: str, threads: int) -> None:
    _, packed, inputs, bias = case(300, 400, 90, 0.7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.sparse_linear(inputs, packed, bias, 300, 2, False)
        torch.set_num_threads(threads)
        found = ops.sparse_linear(inputs, packed, bias, 300, 2, False)
    finally:
        torch.set_num_threads(before)
    if isa == "none":
        torch.testing.assert_close(found, one)
    else:
        assert torch.equal(found, one)


def test_several_callers_at_once(isa: str) -> None:
    _, packed, inputs, bias = case(300, 400, 90, 0.7)
    right = ops.sparse_linear(inputs, packed, bias, 300, 0, False)
    wrong = []

    def call() -> None:
        for _ in range(5):
            if not torch.equal(ops.sparse_linear(inputs, packed, bias, 300, 0, False), right):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_strided_inputs_are_read_where_they_lie(isa: str) -> None:
    weight, packed, inputs, bias = case(30, 40, 20, 0.5)
    for part in (inputs[:, 3:12], inputs[:, ::2], inputs.t().contiguous().t()):
        found = ops.sparse_linear(part, packed, bias, 30, 0, False)
        torch.testing.assert_close(
            found.double(), expected(weight, part, bias, "none"), rtol=1e-5, atol=1e-4
        )


def test_a_damaged_or_foreign_matrix_is_an_error(isa: str) -> None:
    _, packed, inputs, bias = case(30, 40, 20, 0.5)
    damaged = packed.clone()
    damaged[64 + 16] += 1
    with pytest.raises(PackedError, match="its counts do not add up"):
        ops.sparse_linear(inputs, damaged, bias, 30, 0, False)
    with pytest.raises(PackedError, match="another shape than its layer"):
        ops.sparse_linear(inputs, packed, torch.zeros(31), 31, 0, False)
    with pytest.raises(PackedError, match=r"the bias must be float32 of shape \(30,\)"):
        ops.sparse_linear(inputs, packed, torch.zeros(29), 30, 0, False)
    with pytest.raises(PackedError, match="takes float32 of two axes"):
        ops.sparse_linear(inputs.double(), packed, bias, 30, 0, False)
    with pytest.raises(PackedError, match="contiguous uint8"):
        ops.sparse_linear(inputs, packed[::2], bias, 30, 0, False)


def test_the_operator_is_sound() -> None:
    _, packed, inputs, bias = case(30, 40, 20, 0.5)
    torch.library.opcheck(ops.sparse_linear, (inputs, packed, bias, 30, 0, False))
    torch.library.opcheck(
        ops.sparse_linear, (inputs.t().contiguous().requires_grad_(), packed, bias, 30, 0, True)
    )


def test_gradients_pass_to_the_input() -> None:
    weight, packed, inputs, bias = case(30, 40, 20, 0.5)
    layer = SparseLinear(packed, bias)
    ours = inputs.t().contiguous().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    layer(ours).sin().sum().backward()
    functional.linear(theirs, weight, bias).sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_module_is_saved_and_loaded_as_a_dense_layer() -> None:
    weight, packed, inputs, bias = case(30, 40, 20, 0.5)
    layer = SparseLinear(packed, bias)
    dense = torch.nn.Linear(40, 30)
    dense.load_state_dict(layer.state_dict())
    assert torch.equal(dense.weight, weight)
    assert torch.equal(dense.bias, bias)
    other = torch.nn.Linear(40, 30)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(inputs.t()), other(inputs.t()).detach())
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(again(inputs.t()), layer(inputs.t()))
    assert layer.weight.shape == (30, 40)
    with pytest.raises(PackedError, match="a sparse layer of 40 inputs got 39 features"):
        layer(torch.zeros(2, 39))
    with pytest.raises(RuntimeError, match=r"size mismatch|Unexpected key"):
        layer.load_state_dict(torch.nn.Linear(41, 30).state_dict())


def test_the_variable_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.library().isas:
        pytest.skip("no library")
    monkeypatch.delenv(native.ISA_VARIABLE, raising=False)
    assert native.isa() == native.library().isas[-1]
    monkeypatch.setenv(native.ISA_VARIABLE, "plain")
    assert native.isa() == "plain"
    monkeypatch.setenv(native.ISA_VARIABLE, "axv2")
    with pytest.raises(UnknownNameError, match=r"unknown instruction set in TICKETRY_ISA 'axv2'"):
        native.isa()
    lacking = sorted(set(native.ISAS) - set(native.library().isas))[0]  # no machine has them all
    monkeypatch.setenv(native.ISA_VARIABLE, lacking)
    with pytest.raises(
        ConfigError, match=f"TICKETRY_ISA={lacking}, but this machine or this build"
    ):
        native.isa()


def test_a_library_that_is_missing_or_strange_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert "none.so is no file" in native.library().missing
    strange = tmp_path / "strange.so"
    strange.write_bytes(b"not a library")
    monkeypatch.setenv(native.LIBRARY_VARIABLE, str(strange))
    assert "cannot be loaded" in native.library().missing
    assert native.isa() is None


SHARED = """
import os, sys, torch
from ticketry.runtime import native, ops, packing
torch.set_num_threads(3)
packed, inputs = packing.pack(torch.randn(300, 400)), torch.randn(400, 90)
torch.nn.functional.gelu(torch.randn(2000, 2000))
before = len(os.listdir("/proc/self/task"))
right = ops.sparse_linear(inputs, packed, None, 300, 0, False)
print(len(os.listdir("/proc/self/task")) - before, native._team() is not None, flush=True)
child = os.fork()
if child == 0:  # it has none of the threads, and must not wait for them
    same = torch.equal(ops.sparse_linear(inputs, packed, None, 300, 0, False), right)
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_torch_s_threads_do_the_work_and_a_forked_child_needs_none() -> None:
    if native.isa() is None:
        pytest.skip("no library")
    done = subprocess.run(
        [sys.executable, "-c", SHARED], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert last == "0"
    if first.endswith("True"):
        assert first == "0 True"  # no thread but torch's
