"""The sequence classification workload, with a real tokenizer and tiny real models."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
)

from small_task import small_task
from ticketry.errors import ConfigError, DataError, TrainingError
from ticketry.models.loading import load_backbone, resolve, tensor_hashes
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split
from ticketry.tasks.classification import SequenceClassification
from ticketry.tasks.encoding import BatchPlan, Encoded
from ticketry.tasks.workload import training_steps

RECIPE = Recipe(epochs=2, batch_size=8, max_length_tokens=16)


@pytest.fixture(scope="module")
def workload(tiny_model: Path) -> SequenceClassification:
    torch.set_num_threads(1)
    return SequenceClassification(resolve(str(tiny_model)), small_task(), RECIPE)


def content(plan: BatchPlan) -> list[dict[str, list[object]]]:
    return [{name: tensor.tolist() for name, tensor in batch.items()} for batch in plan]


def test_batches_hold_what_the_tokenizer_gives(
    workload: SequenceClassification, tiny_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    plan = workload.batches(3)
    texts = workload.data.train.texts
    for indices, batch in zip(plan.order, plan, strict=True):
        wanted = tokenizer(
            [texts[i] for i in indices],
            padding=True,
            truncation=True,
            max_length=16,
            return_tensors="pt",
        )
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert torch.equal(batch[name], wanted[name])
        assert batch["labels"].tolist() == [workload.data.train.labels[i] for i in indices]


def test_every_epoch_sees_every_example_once(workload: SequenceClassification) -> None:
    plan = workload.batches(3)
    assert len(plan) == workload.steps == 16
    seen, times = np.unique(plan.order, return_counts=True)
    assert seen.tolist() == list(range(64))
    assert set(times.tolist()) == {2}


def test_batches_are_decided_by_the_seed_alone(workload: SequenceClassification) -> None:
    torch.manual_seed(5)
    first = workload.batches(3)
    state = torch.get_rng_state()
    assert content(workload.batches(3)) == content(first)
    assert torch.equal(torch.get_rng_state(), state)
    assert content(workload.batches(4)) != content(first)
    assert content(first[2:4]) == content(first)[2:4]


def test_batches_are_bucketed_by_length(workload: SequenceClassification) -> None:
    plan = workload.batches(3)
    lengths = plan.encoded.lengths
    padded = sum(int(lengths[row].max()) * len(row) - int(lengths[row].sum()) for row in plan.order)
    rows = np.random.default_rng(0).permutation(lengths)[:64].reshape(-1, 8)
    unsorted = 2 * int((rows.max(axis=1, keepdims=True) - rows).sum())
    assert padded < 0.25 * unsorted
    widths = [int(lengths[row].max()) for row in plan.order]
    assert widths != sorted(widths)  # batches themselves come in random order


@pytest.mark.parametrize(
    ("epochs", "examples", "batch", "steps"),
    [
        (2, 64, 8, 16),
        (1, 64, 8, 8),
        (0.5, 64, 8, 4),
        (1, 100, 32, 3),
        (0.01, 64, 8, 1),
        (3, 5, 8, 3),
    ],
)
def test_steps_of_a_budget(epochs: float, examples: int, batch: int, steps: int) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=epochs, batch_size=batch)
    assert training_steps(recipe, examples) == steps


def test_half_the_budget_is_half_the_steps_in_the_same_order(
    workload: SequenceClassification,
) -> None:
    half = workload.batches(3, dataclasses.replace(RECIPE, epochs=1))
    assert len(half) == 8
    assert sorted(half.order.flatten().tolist()) == list(range(64))
    with pytest.raises(ConfigError, match="--max-length 16"):
        workload.batches(3, dataclasses.replace(RECIPE, max_length_tokens=8))


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    draw=st.randoms(use_true_random=False),
)
def test_collate_keeps_every_token_and_pads_the_rest(lengths: list[int], draw: object) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    encoded = Encoded(
        ids=np.arange(10, 10 + starts[-1], dtype=np.int32),
        types=None,
        starts=starts,
        labels=np.zeros(len(lengths), dtype=np.int64),
        truncated=0,
    )
    order = list(range(len(lengths)))
    draw.shuffle(order)  # type: ignore[attr-defined]
    batch = encoded.collate(np.array(order, dtype=np.int64), pad_id=7)
    assert batch["input_ids"].shape == (len(lengths), max(lengths))
    for row, i in enumerate(order):
        tokens = encoded.ids[starts[i] : starts[i + 1]].tolist()
        rest = max(lengths) - len(tokens)
        assert batch["input_ids"][row].tolist() == tokens + [7] * rest
        assert batch["attention_mask"][row].tolist() == [1] * len(tokens) + [0] * rest


def test_long_texts_are_cut_and_counted(tiny_model: Path) -> None:
    data = small_task(6, 4, 4)
    long = " ".join(["film"] * 40)
    exact = " ".join(["film"] * 6)  # 8 tokens with [CLS] and [SEP]
    data = dataclasses.replace(data, test=Split((long, exact, "good", long), None, (0, 1, 0, 1)))
    recipe = dataclasses.replace(RECIPE, max_length_tokens=8)
    workload = SequenceClassification(resolve(str(tiny_model)), data, recipe)
    short = sum(len(text.split()) > 6 for text in data.train.texts)
    assert workload.truncated["test"] == 2
    assert workload.truncated["train"] == short
    lengths = workload._splits["test"].lengths.tolist()
    assert lengths == [8, 8, 3, 8]
    assert workload.notes == ()


def test_a_length_beyond_the_model_is_capped_and_said(tiny_model: Path) -> None:
    data = dataclasses.replace(
        small_task(4, 4, 4), test=Split((" ".join(["film"] * 60),), None, (0,))
    )
    workload = SequenceClassification(
        resolve(str(tiny_model)), data, dataclasses.replace(RECIPE, max_length_tokens=128)
    )
    assert workload.max_length == 32
    assert len(workload.notes) == 1
    assert "reads at most 32 tokens; --max-length 128 was capped" in workload.notes[0]
    assert workload.truncated["test"] == 1
    workload.evaluate(workload.build(0), "test")


def test_pairs_share_a_text_with_types(tiny_model: Path) -> None:
    data = small_task(8, 4, 4, pairs=True)
    workload = SequenceClassification(resolve(str(tiny_model)), data, RECIPE)
    plan = workload.batches(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert data.train.pairs is not None
    for indices, batch in zip(plan.order, plan, strict=True):
        wanted = tokenizer(
            [data.train.texts[i] for i in indices],
            [data.train.pairs[i] for i in indices],
            padding=True,
            truncation=True,
            max_length=16,
            return_tensors="pt",
        )
        assert torch.equal(batch["input_ids"], wanted["input_ids"])
        assert torch.equal(batch["token_type_ids"], wanted["token_type_ids"])
    assert int(plan[0]["token_type_ids"].sum()) > 0


def test_build_rewinds_bit_for_bit(workload: SequenceClassification, tiny_model: Path) -> None:
    torch.manual_seed(1)
    first = workload.build(5)
    wanted = {name: t.clone() for name, t in [*first.named_parameters(), *first.named_buffers()]}
    with torch.no_grad():
        for tensor in [*first.parameters(), *first.buffers()]:
            tensor.add_(1)  # what a training may do to the model
    torch.manual_seed(2)
    again = workload.build(5)
    fresh = SequenceClassification(resolve(str(tiny_model)), small_task(), RECIPE).build(5)
    for model in (again, fresh):
        found = dict([*model.named_parameters(), *model.named_buffers()])
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert tensor_hashes(again) == tensor_hashes(load_backbone(resolve(str(tiny_model))))


def test_loss_and_counts(workload: SequenceClassification) -> None:
    model = workload.build(0)
    batch = workload.batches(0)[0]
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.detach()
    wanted = -torch.log_softmax(logits, -1)[torch.arange(8), batch["labels"]].mean()
    torch.testing.assert_close(workload.loss(model, batch).detach(), wanted)
    real = [workload._splits["train"].lengths[i] for i in workload.batches(0).order[0]]
    assert workload.count(batch) == (8, sum(real))


def test_evaluate_keeps_the_splits_order(workload: SequenceClassification) -> None:
    model = workload.build(0).train()
    found = workload.evaluate(model, "test")
    assert model.training
    model.eval()
    one_by_one = []
    for text in workload.data.test.texts:
        tokens = workload.tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
        one_by_one.append(int(model(**tokens).logits.argmax()))
    assert list(found.predictions) == one_by_one
    right = sum(a == b for a, b in zip(one_by_one, workload.data.test.labels, strict=True))
    assert found.score == pytest.approx(right / 40)
    assert workload.evaluate(model, "test") == found


def test_outputs_that_are_not_finite_are_named(workload: SequenceClassification) -> None:
    model = workload.build(0)
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="outputs on the validation split are not finite"):
        workload.evaluate(model, "validation")


def test_an_empty_split_is_refused(tiny_model: Path) -> None:
    data = dataclasses.replace(small_task(4, 4, 4), validation=Split((), None, ()))
    with pytest.raises(DataError, match="validation split has no examples"):
        SequenceClassification(resolve(str(tiny_model)), data, RECIPE)


def test_the_saved_model_loads_in_plain_transformers(
    workload: SequenceClassification, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = workload.build(0)
    expected = copy.deepcopy(model)
    capfd.readouterr()
    files = workload.model_files(model)
    assert capfd.readouterr() == ("", "")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert b"/tmp" not in data
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name])
    text = workload.data.test.texts[0]
    assert tokenizer(text)["input_ids"] == workload.tokenizer(text)["input_ids"]


def test_a_decoder_without_padding_token(tiny_model: Path, tmp_path: Path) -> None:
    """GPT-2 reads the class at the last real token, so a batch must not change its answer."""
    folder = tmp_path / "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        bos_token_id=3,
        eos_token_id=3,
        pad_token_id=None,
    )
    GPT2Model(config).save_pretrained(folder)
    data = small_task(16, 8, 8)
    workload = SequenceClassification(resolve(str(folder)), data, RECIPE)
    model = workload.build(0).eval()
    batch = workload.batches(0)[0]
    assert "token_type_ids" not in batch
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    together = model(**inputs).logits
    for row in range(len(together)):
        size = int(batch["attention_mask"][row].sum())
        alone = model(**{k: v[row : row + 1, :size] for k, v in inputs.items()}).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
