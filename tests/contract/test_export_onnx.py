"""Exports to ONNX are run under ONNX Runtime: outputs, zeros, sizes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from architectures import ARCHITECTURES
from ticketry import Mask, Ticket
from ticketry.errors import ExportError
from ticketry.export import export
from ticketry.export import onnx as target
from ticketry.export.source import inputs_of, load_source
from ticketry.models.loading import base_sha256, canonical_tensors, load_backbone, prunable, resolve
from ticketry.models.loading import tensor_hashes as hashes_of
from ticketry.ticket import Base


@pytest.fixture(scope="module")
def ticket(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_backbone(resolve(str(tiny_model)))
    tensors, draw = canonical_tensors(base), torch.Generator().manual_seed(0)
    mask = Mask(
        {n: torch.rand(tensors[n].shape, generator=draw) < 0.3 for n in prunable(base, "encoder")}
    )
    hashes = hashes_of(base)
    folder = tmp_path_factory.mktemp("ticket") / "ticket"
    pointer = Base(str(tiny_model), None, base_sha256(hashes), hashes, "bert", 1)
    Ticket(mask, pointer).save_pretrained(folder)
    return folder


def run_onnx(folder: Path, inputs: dict[str, torch.Tensor]) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def test_a_ticket_s_base_gives_the_same_outputs_and_keeps_its_zeros(
    ticket: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    import onnx
    from onnx import numpy_helper

    out = tmp_path / "exported"
    said = run("export", ticket, "--to", "onnx", "--out", out, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.onnx", "ticketry_export.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.txt"
    }  # fmt: skip
    loaded = Ticket.from_pretrained(ticket)
    model = loaded.apply_(load_backbone(resolve(loaded.base.name))).eval()
    inputs = dict(inputs_of(model, 2, 11))  # a shape that the export did not see
    with torch.inference_mode():
        wanted = model(**inputs)
    states, pooled = run_onnx(out, inputs)
    np.testing.assert_allclose(states, wanted.last_hidden_state, atol=1e-5)
    np.testing.assert_allclose(pooled, wanted.pooler_output, atol=1e-5)
    assert found["outputs"] == ["last_hidden_state", "pooler_output"]
    assert 0 < found["largest_difference"] < 1e-5 < found["largest_output"]
    assert found["compared"] == [[1, 1], [2, 16], [3, 32], [1, 32]]
    assert found["zeros"] == pytest.approx(loaded.sparsity)
    assert found["packed_bytes"] < found["dense_bytes"] < found["file_bytes"]
    assert found["file_bytes"] == (out / "model.onnx").stat().st_size
    # Zeros are stored as numbers, each of them.
    arrays = [numpy_helper.to_array(t) for t in onnx.load(out / "model.onnx").graph.initializer]
    matrices = [a for a in arrays if a.dtype == np.float32 and a.ndim == 2]
    assert sum(int((a == 0).sum()) for a in matrices) >= loaded.mask.pruned
    # What the exporter notes for its developers tells the paths of this machine.
    data = (out / "model.onnx").read_bytes()
    assert b"site-packages" not in data
    assert str(Path(target.__file__).parent).encode() not in data
    words = run("export", ticket, "--to", "onnx", "--out", out)  # in place of the older one
    assert "differ from torch's by at most" in words.out
    assert "ONNX Runtime stores and multiplies them like other numbers" in words.out


def test_outputs_that_differ_are_refused_and_nothing_is_left(
    ticket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = target._export

    def other(wrapped: Any, source: Any, path: Path) -> None:
        with torch.no_grad():
            weight = source.model.encoder.layer[0].output.dense.weight
            before = weight.clone()
            weight.mul_(-9)
            real(wrapped, source, path)
            weight.copy_(before)

    monkeypatch.setattr(target, "_export", other)
    with pytest.raises(ExportError, match="under ONNX Runtime last_hidden_state differs from tor"):
        export(ticket, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_torch_cannot_export(tmp_path: Path, tiny_model: Path) -> None:
    source = load_source(str(tiny_model), None, None)

    class Odd(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.config, self.inside = source.model.config, source.model

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            if input_ids.sum().item() > 3:  # asks for a value while it is traced
                return self.inside(input_ids)
            return self.inside(input_ids + 1)

    odd = type(source)("odd", Odd().eval(), source.folder, None, "model")
    with pytest.raises(ExportError, match=r"torch cannot export a Odd to ONNX: .*Nothing was"):
        target.write_onnx(odd, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "auto"),
    [
        ("roberta", "AutoModelForSequenceClassification"),
        ("bert", "AutoModelForQuestionAnswering"),
        ("gpt2", "AutoModelForCausalLM"),
        ("vit", "AutoModelForImageClassification"),
    ],
)
def test_task_models(family: str, auto: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(ARCHITECTURES[family].build_config())
    model.save_pretrained(tmp_path / "model")
    found = export(tmp_path / "model", tmp_path / "out")
    assert found.largest_difference <= 1e-5 * max(1, found.largest_output)
    wanted = ("start_logits", "end_logits") if "Answering" in auto else ("logits",)
    assert found.outputs == wanted
    assert len(found.compared) >= 2
