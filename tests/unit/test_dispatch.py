"""Operators are called past torch's dispatcher only where nobody would notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ticketry.runtime import dispatch, packing
from ticketry.runtime.modules import SparseLinear


def layer() -> SparseLinear:
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < 1] = 0
    return SparseLinear(packing.pack(weight), torch.ones(30)).eval()


class Seen(TorchDispatchMode):
    """Notes the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_the_dispatcher_is_left_out_where_it_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    bodies = {
        operator: lambda *arguments, body=body: calls.append(1) or body(*arguments)
        for operator, body in dispatch._BODIES.items()
    }
    monkeypatch.setattr(dispatch, "_BODIES", bodies)
    inputs = torch.randn(3, 40)
    found = layer()(inputs)
    assert calls == [1]
    with_gradient = layer()(inputs.clone().requires_grad_())
    assert calls == [1]
    assert torch.equal(found, with_gradient.detach())
    with torch.no_grad():
        layer()(inputs.clone().requires_grad_())
    assert calls == [1, 1]


def test_whoever_watches_sees_the_operator() -> None:
    module, inputs = layer(), torch.randn(3, 40)
    graph = make_fx(module)(inputs)
    assert "ticketry.sparse_linear" in graph.code
    other = torch.randn(3, 40)
    torch.testing.assert_close(graph(other), module(other))
    with Seen() as seen:
        module(inputs)
    assert "ticketry.sparse_linear.default" in seen.names


@pytest.mark.filterwarnings("ignore")  # torch's tracer is old
def test_a_trace_keeps_the_operator() -> None:
    module = layer()
    traced = torch.jit.trace(module, torch.randn(3, 40))
    other = torch.randn(3, 40)
    torch.testing.assert_close(traced(other), module(other))


def test_tensors_elsewhere_go_the_long_way() -> None:
    found = layer().to("meta")(torch.randn(3, 40, device="meta"))
    assert found.is_meta
    assert found.shape == (3, 30)
