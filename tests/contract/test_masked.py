"""Masked language modelling: loss, held-out masks, the head, and that it is rewound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

import ticketry.training
from architectures import ARCHITECTURES
from ticketry.bench import Bench
from ticketry.companions import Capture
from ticketry.config import DataSpec, SearchSpec, fingerprint
from ticketry.connectivity import connectivity_steps
from ticketry.errors import ConfigError, ModelError, TrainingError
from ticketry.execute import execute
from ticketry.models import lean
from ticketry.models.filling import logits_at
from ticketry.models.heads import pretrained_head, warms_head
from ticketry.models.loading import canonical_tensors, load_backbone, resolve
from ticketry.models.weights import HEAD, base_part
from ticketry.recipes import Recipe
from ticketry.scene import Scene, prepare
from ticketry.search import Sizes, plan_search, warm_head_step
from ticketry.store import Store
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.masked import HeadOnly, MaskedLM
from ticketry.tasks.masking import IGNORED
from ticketry.training import train
from ticketry.verification import Start, plan_verification
from tiny import tiny_bert
from tiny_language import tiny_gpt2
from tiny_masked import documents, documents_file

RECIPE = Recipe(epochs=2, batch_size=4, max_length_tokens=16, learning_rate=3e-3, dtype="float32")
MASKED = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta")


def task(train_texts: int = 40) -> TaskData:
    texts = documents(train_texts + 20)
    parts = texts[:train_texts], texts[train_texts : train_texts + 10], texts[train_texts + 10 :]
    train, validation, test = (Split(tuple(part), None, ()) for part in parts)
    return TaskData(
        "talk", "made up", (), "mlm-accuracy", 0.005, train, validation, test,
        objective="masked-lm",
    )  # fmt: skip


def with_head(folder: Path, kind: str, tokenizer: Path) -> Path:
    """Write a tiny model of a family with its pre-trained head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(ARCHITECTURES[kind].build_config())
    model.save_pretrained(folder)
    BertTokenizerFast.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def workload(tiny_model: Path) -> MaskedLM:
    torch.set_num_threads(1)
    return MaskedLM(resolve(str(tiny_model)), task(), RECIPE)


@pytest.mark.parametrize("kind", MASKED)
def test_the_loss_is_that_of_transformers(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = with_head(tmp_path / kind, kind, tiny_model)
    found = MaskedLM(resolve(str(folder)), task(), RECIPE)
    model, reference = found.build(1), AutoModelForMaskedLM.from_pretrained(folder).eval()
    batch = found.batches(1)[0]
    expected = reference(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    assert found.loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    logits = logits_at(model, {"input_ids": batch["input_ids"]}, batch["labels"] != IGNORED)
    assert len(logits) == 4 * 2  # 15% of 14 tokens, of each of four blocks, and no others
    assert not model.base_model._forward_hooks


SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "pad_token_id": 1, "attn_implementation": "eager",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config"), [(BertForMaskedLM, BertConfig), (RobertaForMaskedLM, RobertaConfig)]
)
@pytest.mark.parametrize("frozen", [True, False])
def test_the_lean_way_has_the_same_loss_and_gradients(kind: Any, config: Any, frozen: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config(**SIZES)).train()
    model.base_model.embeddings.requires_grad_(not frozen)
    draw = torch.Generator().manual_seed(1)
    inputs = {"input_ids": torch.randint(5, 40, (5, 11), generator=draw)}
    chosen = torch.zeros(5, 11, dtype=torch.bool)
    for row, places in enumerate([(0, 3), (10, 1), (4, 5), (2, 9), (0, 10)]):
        chosen[row, list(places)] = True
    labels = inputs["input_ids"][chosen]
    assert lean.fits(model, inputs, (kind.__name__,))

    def seen(logits: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        found = logits()
        nn.functional.cross_entropy(found, labels).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return found.detach(), gradients

    ours, gradients = seen(lambda: logits_at(model, inputs, chosen))
    theirs, expected = seen(lambda: model(**inputs).logits[chosen])
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-6), name


def test_masks_are_drawn_anew_for_each_batch_and_fixed_where_held_out(
    workload: MaskedLM, tiny_model: Path
) -> None:
    plan = workload.batches(3)
    assert torch.equal(plan[2]["labels"], workload.batches(3)[2]["labels"])
    assert torch.equal(plan[1:][1]["labels"], plan[2]["labels"])
    assert not torch.equal(plan[2]["labels"], workload.batches(4)[2]["labels"])
    blocks = len(workload._blocks["train"])
    where = {int(b): [] for b in range(blocks)}
    for number, rows in enumerate(plan.order):
        for row, block in enumerate(rows):
            where[int(block)].append(plan[number]["labels"][row])
    twice = [labels for labels in where.values() if len(labels) == 2]
    assert len(twice) > blocks / 2
    # Two of 12 or 13 tokens, drawn twice: seldom the same ones.
    assert sum(torch.equal(*labels) for labels in twice) < len(twice) / 4
    other = MaskedLM(resolve(str(tiny_model)), task(30), RECIPE)
    texts = task()
    same = MaskedLM(
        resolve(str(tiny_model)),
        dataclasses.replace(texts, train=texts.train.take(range(20))),
        dataclasses.replace(RECIPE, epochs=5),
    )
    for name in ("validation", "test"):
        for part, held_out in workload._held_out[name].items():
            assert torch.equal(same._held_out[name][part], held_out)
    assert not torch.equal(other._held_out["test"]["labels"][:5],
                           workload._held_out["test"]["labels"][:5])  # fmt: skip


def test_predictions_of_blocks_are_those_of_a_plain_loop(workload: MaskedLM) -> None:
    model = workload.build(0)
    found = workload.evaluate(model, "test")
    nats = MaskedLM(
        workload.base, dataclasses.replace(workload.data, metric="loss"), RECIPE
    ).evaluate(model, "test")
    masked = workload._held_out["test"]
    assert len(found.predictions) == len(workload._blocks["test"]) == len(masked["labels"])
    right = 0
    for row, (ids, labels) in enumerate(zip(masked["input_ids"], masked["labels"], strict=True)):
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        hidden = labels != IGNORED
        hits = int((logits.argmax(-1) == labels)[hidden].sum())
        assert found.predictions[row] == (hits, 2)
        losses = nn.functional.cross_entropy(logits[hidden], labels[hidden], reduction="sum")
        assert nats.predictions[row] == (pytest.approx(losses.item(), rel=1e-4), 2)
        right += hits
    assert found.score == right / (2 * len(masked["labels"]))
    assert nats.score == pytest.approx(math.log(28), abs=0.3)  # untrained: any of 28 words


def test_it_is_learned_and_counted(workload: MaskedLM) -> None:
    outcome = train(workload, RECIPE, seed=1)
    assert outcome.train_tokens == outcome.steps * 4 * 16
    assert outcome.train_examples == outcome.steps * 4
    # One batch by heart: loss and gradients fit together.
    model, batch = outcome.model.eval(), workload.batches(1)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = workload.loss(model, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    half = dataclasses.replace(RECIPE, max_length_tokens=8)
    with pytest.raises(ConfigError, match="cut into blocks for --max-length 16; a recipe with 8 n"):
        workload.batches(0, half)
    assert MaskedLM(
        workload.base, workload.data, dataclasses.replace(RECIPE, max_length_tokens=64)
    ).notes == (
        f"{workload.base.name} reads at most 32 tokens; --max-length 64 was capped to that",
    )


def test_a_head_of_its_own_is_theta0(tiny_model: Path, tmp_path: Path) -> None:
    for kind in ("bert", "roberta", "electra"):
        folder = with_head(tmp_path / kind, kind, tiny_model)
        base = resolve(str(folder))
        assert not warms_head(base, "masked-lm")
        reference = AutoModelForMaskedLM.from_pretrained(folder)
        model = MaskedLM(base, task(), RECIPE).build(7)
        for name, tensor in reference.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), (kind, name)
    headless = resolve(str(tiny_model))
    assert warms_head(headless, "masked-lm")
    assert pretrained_head(headless, "masked-lm") == {}
    assert not warms_head(headless, "classification")


def test_the_base_is_whole_also_where_the_task_model_lacks_its_pooler(
    tiny_model: Path, tmp_path: Path
) -> None:
    albert = tmp_path / "albert"
    from transformers import AlbertModel

    AlbertModel(ARCHITECTURES["albert"].build_config()).save_pretrained(albert)
    BertTokenizerFast.from_pretrained(tiny_model).save_pretrained(albert)
    for folder in (tiny_model, albert):
        found = MaskedLM(resolve(str(folder)), task(), RECIPE)
        whole = canonical_tensors(load_backbone(found.base))
        model = found.build(0)
        mine = canonical_tensors(model)
        assert any("pooler" in name for name in whole)
        assert set(mine) == set(whole)
        assert all(torch.equal(mine[name], whole[name]) for name in whole)
        assert math.isfinite(found.loss(model.train(), found.batches(0)[0]).item())


def test_bases_that_fill_in_no_words_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a gpt2 model, for which transformers has no masked "):
        MaskedLM(resolve(str(tiny_gpt2(tmp_path / "gpt2"))), task(), RECIPE)
    decoder = tiny_bert(tmp_path / "decoder")
    config = BertConfig.from_pretrained(decoder)
    config.is_decoder = True
    config.save_pretrained(decoder)
    with pytest.raises(ModelError, match="is a bert model set up as a decoder"):
        MaskedLM(resolve(str(decoder)), task(), RECIPE)


def test_outputs_that_are_not_finite_are_said(workload: MaskedLM) -> None:
    model = workload.build(0)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="outputs on the test split are not finite"):
        workload.evaluate(model, "test")


def test_the_warm_up_moves_the_head_alone(workload: MaskedLM) -> None:
    outcome = train(HeadOnly(workload), RECIPE, seed=0)
    fresh = workload.build(ticketry.training.derive_seed(0, "head"))
    whole = canonical_tensors(fresh)
    for name, tensor in canonical_tensors(outcome.model).items():
        assert torch.equal(tensor, whole[name]), name
    moved = dict(outcome.model.named_parameters())["cls.predictions.transform.dense.weight"]
    assert not torch.equal(moved, dict(fresh.named_parameters())[
        "cls.predictions.transform.dense.weight"])  # fmt: skip
    # No dropout and no base to learn: two passes over one batch see the same states.
    batch = workload.batches(0)[0]
    model = outcome.model.train()
    losses = {HeadOnly(workload).loss(model, batch).item() for _ in range(2)}
    assert len(losses) == 1


# --- γ0 in a run -------------------------------------------------------------------------------


def scene_of(folder: Path, text: Path, recipe: Recipe = RECIPE) -> Scene:
    return prepare(
        str(folder), None, DataSpec(data=str(text), objective="masked-lm"), recipe, ("encoder",),
        device="cpu", threads=1, say=lambda line: None,
    )  # fmt: skip


def test_every_start_at_theta0_is_theta0_and_gamma0_bit_for_bit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    scene = scene_of(tiny_model, documents_file(tmp_path / "a.txt"))
    assert scene.warms_head
    assert scene.head == warm_head_step(RECIPE, scene.sizes, scene.context_key)
    search = plan_search(
        SearchSpec(sparsity=0.5, levels=2), RECIPE, 3, scene.sizes, scene.context_key,
        scene.head_key,
    )  # fmt: skip
    snip = plan_search(
        SearchSpec(sparsity=0.5, method="one-shot", source="theta0", criterion="snip"),
        RECIPE, 3, scene.sizes, scene.context_key, scene.head_key,
    )  # fmt: skip
    verification = plan_verification(
        Start(search.mask_key, 0.5), RECIPE, (1, 2), ("reinit",), scene.sizes, scene.context_key,
        head_key=scene.head_key,
    )  # fmt: skip
    ends = connectivity_steps(
        None, RECIPE, (5, 6), scene.sizes, scene.context_key, scene.head_key
    ).ends
    steps = [scene.head, *search.steps, *snip.steps, *verification.steps, *ends]
    for step in steps[1:]:
        assert step.needs[-1] == step.params["head"] == scene.head_key
    assert search.steps[1].needs == (search.steps[0].key, scene.head_key)

    starts: list[dict[str, torch.Tensor]] = []
    real = train

    def watched(workload: Any, recipe: Recipe, **options: Any) -> Any:
        capture = Capture(0)
        options["companions"] = [*options["companions"], capture]
        outcome = real(workload, recipe, **options)
        starts.append(capture.weights)
        return outcome

    monkeypatch.setattr(ticketry.training, "train", watched)
    store = Store(tmp_path / "store")
    store.write_data(scene.context.data_sha256, scene.data.to_json())
    execute(steps, scene.context, store, workers=0)
    bench = Bench(scene.context, store)
    gamma = bench.weights_of(scene.head_key)
    assert gamma
    assert all(name.startswith(HEAD) for name in gamma)
    theta = canonical_tensors(bench.backbone)
    trained = [step for step in steps if step.train_passes]
    assert len(starts) == 1 + len(trained)  # the warm-up itself comes first
    fresh = {name: tensor for name, tensor in starts[0].items() if name.startswith(HEAD)}
    assert any(not torch.equal(fresh[name], gamma[name]) for name in gamma)
    for step, start in zip(trained, starts[1:], strict=True):
        assert set(start) == {*theta, *gamma}, step.name
        for name, tensor in gamma.items():
            assert torch.equal(start[name], tensor), (step.name, name)
        if step in verification.controls["reinit"]:
            continue
        mask = bench.mask_of(step.needs[0]) if len(step.needs) > 1 else None
        for name, tensor in base_part(start).items():
            kept = theta[name] if mask is None or name not in mask else theta[name] * mask[name]
            assert torch.equal(tensor, kept), (step.name, name)
    warm = store.record(scene.head_key)
    assert warm["seed"] == 0
    assert warm["steps"] == store.record(search.steps[0].key)["steps"]


def test_rounds_that_go_on_take_their_own_head() -> None:
    sizes = Sizes(100, 10, 20)
    for rewind, options in (("lr", {}), ("none", {}), ("step", {"rewind_step": 2})):
        search = plan_search(
            SearchSpec(sparsity=0.5, levels=3, rewind=rewind, **options), RECIPE, 0, sizes, "c", "H"
        )
        assert search.steps[0].needs == ("H",)
        assert all("head" not in step.params for step in search.steps[1:])
        assert all("H" not in step.needs for step in search.steps[1:])
    (gradual,) = plan_search(
        SearchSpec(sparsity=0.5, method="gradual"), RECIPE, 0, sizes, "c", "H"
    ).steps
    assert gradual.needs == ("H",)
    # One-shot on θ0 by magnitude reads no head, so its mask is that of the control of its name.
    (plain,) = plan_search(
        SearchSpec(sparsity=0.5, method="one-shot", source="theta0"), RECIPE, 0, sizes, "c", "H"
    ).steps
    verification = plan_verification(
        Start("m", 0.5, weights_key="w", rewind_step=2), RECIPE, (1,), ("oneshot-theta0",), sizes,
        "c", head_key="H",
    )  # fmt: skip
    assert plain.needs == ()
    assert verification.mask_steps[0].key == plain.key
    assert verification.ticket[0].needs == ("m", "w", "H")


def test_steps_of_other_objectives_keep_their_keys() -> None:
    sizes, keys = Sizes(100, 10, 20), []
    for options in (
        {},
        {"rewind": "step", "rewind_step": 2},
        {"rewind": "lr"},
        {"rewind": "none"},
        {"method": "gradual"},
        {"method": "one-shot", "source": "theta0", "criterion": "snip"},
    ):
        search = plan_search(SearchSpec(sparsity=0.5, **options), Recipe(), 3, sizes, "context")
        keys += [step.key for step in search.steps]
    verification = plan_verification(
        Start(search.mask_key, 0.5, "unstructured", "w", 4), Recipe(), (1, 2),
        ("random-layerwise", "oneshot-theta0", "reinit"), sizes, "context",
    )  # fmt: skip
    keys += [step.key for step in verification.steps]
    # As they were before there was a head to warm up.
    assert fingerprint(keys) == "b4c9e12c3016ef90e7ab1997d945a5036c3e7cd4c0c306102ba14594433f9b3c"


def test_the_head_is_part_of_what_decides_a_run(tiny_model: Path, tmp_path: Path) -> None:
    text = documents_file(tmp_path / "a.txt")
    folder = with_head(tmp_path / "bert", "bert", tiny_model)
    before = scene_of(folder, text)
    assert (before.warms_head, before.head, before.head_key) == (False, None, None)
    assert before.sizes == Sizes(*before.blocks)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.cls.predictions.bias += 1
    model.save_pretrained(folder)
    after = scene_of(folder, text)
    assert before.base.sha256 == after.base.sha256
    assert before.context.base_sha256 != after.context.base_sha256


def test_blocks_are_shuffled_and_each_comes_once_an_epoch(workload: MaskedLM) -> None:
    plan = workload.batches(3)
    blocks = len(workload._blocks["train"])
    assert len(plan) == workload.steps == round(2 * blocks / 4)
    seen = np.concatenate(list(plan.order))[:blocks]
    assert sorted(seen.tolist()) == list(range(blocks))
    assert not np.array_equal(workload.batches(4).order, plan.order)
    assert workload.count(plan[0]) == (4, 64)
