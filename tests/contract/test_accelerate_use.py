"""What people do with a model, done with an accelerated one: pipelines, batches, threads, bits."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ticketry.runtime import native
from ticketry.runtime.accelerating import accelerate
from ticketry.runtime.encoders import TokensLast
from tiny import tiny_bert

pytestmark = pytest.mark.skipif(native.library().handle is None, reason="no kernel library")

TEXTS = ["good", "the film was very dull and the plot was awful", "a bright story with some actors"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model") / "base")


def both(folder: Path, values: str = "fp32") -> tuple[Any, Any]:
    """Return a model with zeros, and the same accelerated."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for name, weight in plain.named_parameters():
        if "encoder.layer" in name and weight.dim() == 2:
            draw = torch.Generator().manual_seed(weight.numel())
            weight.data[torch.rand(weight.shape, generator=draw) < 0.7] = 0
            weight.data.mul_(8)  # or the layers would say next to nothing
    model = copy.deepcopy(plain)
    accelerate(model, always=True, values=values)
    assert isinstance(model.bert.encoder, TokensLast)
    if values != "fp32":
        plain.load_state_dict(model.state_dict())  # what the rounded weights give
    return plain, model


def test_a_pipeline_says_the_same(folder: Path) -> None:
    plain, model = both(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for size in (1, 3):
        one, other = (
            pipeline("text-classification", model=each, tokenizer=tokenizer, device="cpu")(
                TEXTS, batch_size=size, top_k=None
            )
            for each in (plain, model)
        )
        for theirs, ours in zip(one, other, strict=True):
            assert [label["label"] for label in theirs] == [label["label"] for label in ours]
            assert [label["score"] for label in theirs] == pytest.approx(
                [label["score"] for label in ours], abs=1e-4
            )
    assert one[0] != one[1]


@pytest.mark.parametrize("values", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 2), (1, 32), (2, 17), (5, 1), (40, 9)])
def test_any_batch_and_length(folder: Path, values: str, batch: int, length: int) -> None:
    plain, model = both(folder, values)
    draw = torch.Generator().manual_seed(batch + length)
    ids = torch.randint(5, 25, (batch, length), generator=draw)
    seen = torch.ones_like(ids)
    seen[-1, length - length // 3 :] = 0
    with torch.inference_mode():
        found, right = (m(input_ids=ids, attention_mask=seen).logits for m in (model, plain))
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
        alone = model(input_ids=ids[:1], attention_mask=seen[:1]).logits
    torch.testing.assert_close(alone, found[:1], rtol=1e-5, atol=1e-5)


def test_several_threads_share_a_model(folder: Path) -> None:
    _, model = both(folder)
    inputs = [torch.randint(5, 25, (2, length)) for length in (1, 8, 20, 32)]
    with torch.inference_mode():
        right = [model(input_ids=ids).logits.clone() for ids in inputs]
    wrong = []

    def call(index: int) -> None:
        with torch.inference_mode():
            for _ in range(10):
                if not torch.equal(model(input_ids=inputs[index]).logits, right[index]):
                    wrong.append(index)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_the_number_of_threads_changes_no_bit(folder: Path) -> None:
    _, model = both(folder)
    before, found = torch.get_num_threads(), []
    with torch.inference_mode():
        embedded = model.bert.embeddings(torch.randint(5, 25, (9, 32)))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                found.append(model.bert.encoder(embedded, None)[0].clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("isa", native.library().isas)
def test_each_instruction_set_gives_the_model_s_outputs(
    folder: Path, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.ISA_VARIABLE, isa)
    plain, model = both(folder)
    ids = torch.randint(5, 25, (3, 19))
    with torch.inference_mode():
        torch.testing.assert_close(
            model(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )
