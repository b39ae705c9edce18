"""Language modelling: blocks, the base's own head, nats of each document, and a whole run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2Model

from ticketry.errors import ConfigError, DataError, ModelError, TrainingError
from ticketry.models.heads import pretrained_head
from ticketry.models.loading import resolve
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.language import CausalLM, stream
from ticketry.tasks.objectives import block_counts
from ticketry.training import train
from tiny_language import WORDS, tales, tales_file, tiny_gpt2, tiny_llama, tiny_tokenizer

RECIPE = Recipe(epochs=2, batch_size=4, max_length_tokens=16, learning_rate=3e-3)


def task(train_texts: int = 40) -> TaskData:
    texts = tales(train_texts + 18)
    parts = texts[:train_texts], texts[train_texts : train_texts + 8], texts[train_texts + 8 :]
    train, validation, test = (Split(tuple(part), None, ()) for part in parts)
    return TaskData(
        "tales", "made up", (), "loss", 0.01, train, validation, test, objective="causal-lm"
    )


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / request.param
    return {"gpt2": tiny_gpt2, "llama": tiny_llama}[request.param](out)


@pytest.fixture(scope="module")
def workload(folder: Path) -> CausalLM:
    torch.set_num_threads(1)
    return CausalLM(resolve(str(folder)), task(), RECIPE)


def test_documents_stand_end_to_end_with_an_end_of_text_between(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = stream(tokenizer, Split(("the cat", "the dog ."), None, ()), "train")
    # <end> 0, the 2, . 3, cat 4, dog 5.
    assert found.ids.tolist() == [0, 2, 4, 0, 2, 5, 3, 0]
    assert found.documents.tolist()[1:] == [0, 0, 0, 1, 1, 1, 1]
    assert (found.targets, found.count, found.blocks(3), found.blocks(100)) == (7, 2, 2, 1)


def test_blocks_are_full_and_each_comes_once_an_epoch(workload: CausalLM) -> None:
    plan = workload.batches(3)
    tokens = workload._streams["train"]
    blocks = tokens.targets // 16
    assert len(plan) == workload.steps == round(2 * blocks / 4)
    for batch in plan:
        assert batch["input_ids"].shape == batch["labels"].shape == (4, 16)
        assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
    seen = np.concatenate(list(plan.order))[:blocks]
    assert sorted(seen.tolist()) == list(range(blocks))
    first = plan[0]
    start = int(plan.order[0][0]) * 16
    assert first["labels"][0].tolist() == tokens.ids[start + 1 : start + 17].tolist()
    assert workload.count(first) == (4, 64)
    assert [int(i) for i in plan[1:3].order.ravel()] == plan.order[1:3].ravel().tolist()
    assert not np.array_equal(workload.batches(4).order, plan.order)


def test_the_model_at_theta0_is_the_pretrained_one_head_included(
    workload: CausalLM, folder: Path
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder)
    for seed in (1, 2):
        model = workload.build(seed)
        for name, tensor in reference.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied is (folder.name == "gpt2")
    assert set(pretrained_head(resolve(str(folder)), "causal-lm")) == (
        set() if tied else {"lm_head.weight"}
    )


def test_nats_of_documents_are_those_of_a_plain_loop(workload: CausalLM, folder: Path) -> None:
    model = workload.build(0)
    found = workload.evaluate(model, "test")
    source = workload._streams["test"]
    nats = torch.zeros(source.count)
    for start in range(0, source.targets, 16):
        ids = torch.from_numpy(source.ids[start : start + 17].astype(np.int64))
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0]
        for at, loss in enumerate(cross_entropy(logits, ids[1:], reduction="none")):
            nats[source.documents[start + 1 + at]] += loss
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [n for n, _ in found.predictions] == pytest.approx(nats.tolist(), rel=1e-5)
    assert [t for _, t in found.predictions] == [
        len(tokenizer(text)["input_ids"]) + 1 for text in workload.data.test.texts
    ]
    total = sum(t for _, t in found.predictions)
    assert found.score == pytest.approx(float(nats.sum()) / total, rel=1e-5)
    # Untrained, every word is about as likely as any other.
    assert found.score == pytest.approx(math.log(len(WORDS)), abs=0.2)


def test_no_token_sees_what_comes_after_it(workload: CausalLM) -> None:
    model = workload.build(0).eval()
    batch = workload.batches(0)[0]["input_ids"][:1]
    other = batch.clone()
    other[0, 10] = (other[0, 10] + 1) % 12
    before, after = model(batch).logits[0], model(other).logits[0]
    assert torch.allclose(before[:10], after[:10], atol=1e-6)
    assert not torch.allclose(before[10:], after[10:], atol=1e-6)


def test_training_lowers_the_loss_and_records_its_tokens(workload: CausalLM) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=20, learning_rate=1e-2)
    outcome = train(workload, recipe, seed=1)
    before = workload.evaluate(workload.build(0), "validation").score
    after = workload.evaluate(outcome.model, "validation").score
    assert after < 0.6 * before
    assert outcome.train_tokens == outcome.steps * 4 * 16
    assert outcome.train_examples == outcome.steps * 4


def test_counts_of_blocks(folder: Path) -> None:
    tokenizer, data = AutoTokenizer.from_pretrained(folder), task()
    lengths = [
        sum(len(tokenizer(text)["input_ids"]) + 1 for text in getattr(data, name).texts)
        for name in ("train", "validation", "test")
    ]
    assert block_counts(data, tokenizer, 16) == (
        lengths[0] // 16, -(-lengths[1] // 16), -(-lengths[2] // 16)
    )  # fmt: skip
    labelled = dataclasses.replace(data, objective="classification")
    assert block_counts(labelled, tokenizer, 16) is None


def test_a_length_that_the_model_caps_is_noted(folder: Path) -> None:
    long = dataclasses.replace(RECIPE, max_length_tokens=100)
    capped = CausalLM(resolve(str(folder)), task(), long)
    assert capped.max_length == 32
    assert "reads at most 32 tokens; --max-length 100 was capped" in capped.notes[0]
    with pytest.raises(ConfigError, match="cut into blocks for --max-length 100; a recipe with 16"):
        capped.batches(0, RECIPE)


def test_outputs_that_are_not_finite_are_said(workload: CausalLM) -> None:
    model = workload.build(0)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="outputs on the test split are not finite"):
        workload.evaluate(model, "test")


def test_a_base_that_cannot_predict_the_next_token_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is a bert model, whose tokens see those after them"):
        CausalLM(resolve(str(tiny_model)), task(), RECIPE)
    headless = tiny_llama(tmp_path / "headless", head=False)
    with pytest.raises(ModelError, match=r"has no language-modelling head: it lacks lm_head.weig"):
        CausalLM(resolve(str(headless)), task(), RECIPE)
    unfinished = tiny_gpt2(tmp_path / "unfinished")
    for path in unfinished.glob("*token*"):
        path.unlink()
    tiny_tokenizer(unfinished, end=False)
    with pytest.raises(ModelError, match="the tokenizer has no end-of-text token"):
        CausalLM(resolve(str(unfinished)), task(), RECIPE)
    with pytest.raises(DataError, match="the train split has no documents"):
        CausalLM(
            resolve(str(tiny_gpt2(tmp_path / "g"))),
            dataclasses.replace(task(), train=Split((), None, ())),
            RECIPE,
        )


def test_a_tied_base_without_its_task_model_is_enough(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2Model(config).save_pretrained(tmp_path / "base")
    assert pretrained_head(resolve(str(tmp_path / "base")), "causal-lm") == {}


def test_a_head_of_its_own_is_part_of_what_decides_a_run(tmp_path: Path) -> None:
    from ticketry.config import DataSpec
    from ticketry.scene import prepare

    folder = tiny_llama(tmp_path / "llama")
    spec = DataSpec(data=str(tales_file(tmp_path / "a.txt")), objective="causal-lm")

    def keys() -> tuple[str, str]:
        scene = prepare(
            str(folder), None, spec, RECIPE, ("layers.*.weight",),
            device="cpu", threads=1, say=lambda line: None,
        )  # fmt: skip
        assert scene.sizes.train == scene.blocks[0]
        return scene.base.sha256, scene.context.base_sha256

    before = keys()
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(folder)
    after = keys()
    assert before[0] == after[0]
    assert before[1] != after[1]
