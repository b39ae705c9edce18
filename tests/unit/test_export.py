"""What an export refuses before it spends anything, and what it says of its source."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from test_packed import sparse_bert
from transformers import AutoModel, BertConfig, BertModel, T5Config, T5Model

from ticketry.errors import ExportError, ModelError, UnknownNameError
from ticketry.export import export
from ticketry.export.onnx import NEEDS
from ticketry.export.source import inputs_of, length_limit, load_source


def test_an_unknown_target_shows_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown target 'onxx'\. Did you mean 'onnx'\?"):
        export("/nowhere", tmp_path / "out", to="onxx")


def test_missing_libraries_are_named_with_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name in NEEDS else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(
        ExportError,
        match=r"the export to ONNX needs onnx, onnxruntime, onnxscript, not installed here; run: "
        r"pip install 'ticketry\[onnx\]'",
    ):
        export("/nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="is not empty and holds no export of ticketry; nothing"):
        export("/nowhere", tmp_path)
    with pytest.raises(ExportError, match="is a file; nothing was written"):
        export("/nowhere", tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_neither_a_model_nor_a_ticket(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder '/no/model'"):
        export("/no/model", tmp_path / "out")


def test_sizes_of_a_sparse_model_dense_and_packed(tmp_path: Path) -> None:
    from ticketry.packed.packer import pack_folder

    sparse_bert(tmp_path / "model")
    packing = pack_folder(tmp_path / "model", tmp_path / "packed")
    for folder in ("model", "packed"):
        source = load_source(str(tmp_path / folder), None, None)
        assert type(source.model).__name__ == "BertForSequenceClassification"
        assert source.dense_bytes == packing.dense_bytes
        # A header more or less: names of the file's tensors and their order are the same.
        assert source.packed_bytes() == packing.file_bytes
        assert 0.2 < source.zeros() < 0.6


def test_a_dense_model_is_not_packed(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=23, hidden_size=16, num_hidden_layers=1, intermediate_size=16,
                        num_attention_heads=2)  # fmt: skip
    model = BertModel(config)
    model.save_pretrained(tmp_path)
    source = load_source(str(tmp_path), None, None)
    assert source.packed_bytes() is None
    assert isinstance(source.model, BertModel)
    assert (source.what, source.mask) == ("model", None)


def test_inputs_have_what_the_model_reads() -> None:
    with torch.device("meta"):
        bert = AutoModel.from_config(BertConfig(max_position_embeddings=24))
        t5 = T5Model(T5Config(num_layers=1, d_model=16, d_ff=16, vocab_size=30))
    found = inputs_of(bert, 3, 8)
    assert list(found) == ["input_ids", "attention_mask", "token_type_ids"]
    assert found["attention_mask"].sum(1).tolist() == [8, 8, 4]
    assert found["token_type_ids"][0].tolist() == [0] * 4 + [1] * 4
    assert length_limit(bert) == 24
    assert list(inputs_of(t5, 1, 4)) == ["input_ids", "attention_mask", "decoder_input_ids"]
    assert length_limit(t5) is None
