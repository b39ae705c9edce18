"""Several tasks at once: one base, a batch of each part a step, and where they are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ticketry
from small_task import small_task
from ticketry.config import fingerprint
from ticketry.core.mask import Mask
from ticketry.errors import ConfigError, DataError, UnknownNameError
from ticketry.metrics import METRICS
from ticketry.models.loading import (
    base_model,
    canonical_parameters,
    canonical_tensors,
    load_backbone,
    prunable,
    resolve,
)
from ticketry.models.weights import put_weights_, take_weights
from ticketry.recipes import RECIPES, Recipe
from ticketry.sensitivity import synflow
from ticketry.studies.planfile import build_plan
from ticketry.tasks.base import SPLITS, Split, TaskData
from ticketry.tasks.joint import Joint, join, part_of
from ticketry.tasks.objectives import workload_for
from ticketry.tasks.registry import TASKS, TaskInfo, joint_parts, load_task, register_task
from ticketry.training import train
from tiny_masked import documents

RECIPE = dataclasses.replace(
    RECIPES["paper"], epochs=2.0, batch_size=8, max_length_tokens=16, learning_rate=5e-3
)


def masked_task() -> TaskData:
    texts = tuple(documents(120))
    first, second, third = (
        Split(texts[a:b], None, ()) for a, b in ((0, 80), (80, 100), (100, 120))
    )
    metric = METRICS["mlm-accuracy"]
    return TaskData(
        "hidden", "made up", (), metric.name, metric.margin, first, second, third,
        notes=("20 words were left out",), objective="masked-lm",
    )  # fmt: skip


def both() -> TaskData:
    return join("hidden+small", [masked_task(), small_task()])


@pytest.fixture(scope="module")
def joint(tiny_model: Path) -> Joint:
    found = workload_for(resolve(str(tiny_model)), both(), RECIPE)
    assert isinstance(found, Joint)
    return found


@pytest.fixture(scope="module")
def mask(tiny_model: Path) -> Mask:
    backbone = load_backbone(resolve(str(tiny_model)))
    names = prunable(backbone, ("encoder",))
    shapes = {name: tuple(canonical_parameters(backbone)[name].shape) for name in names}
    generator = torch.Generator().manual_seed(0)
    return Mask({n: torch.rand(s, generator=generator) < 0.5 for n, s in shapes.items()})


@pytest.fixture
def _own_tasks() -> Iterator[None]:
    kept = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(kept)


@pytest.mark.parametrize("turned", [False, True])
def test_the_base_is_one_object_at_theta0(tiny_model: Path, turned: bool) -> None:
    parts = [masked_task(), small_task()]
    data = join("two", parts[::-1] if turned else parts)
    base = resolve(str(tiny_model))
    model = workload_for(base, data, RECIPE).build(3)
    assert all(base_model(part) is base_model(model) for part in model.parts)
    pretrained = canonical_tensors(load_backbone(base))
    found = canonical_tensors(model)
    assert all(torch.equal(found[name], tensor) for name, tensor in pretrained.items())
    masked = next(part for part in model.parts if type(part).__name__ == "BertForMaskedLM")
    # Its head is tied to the embeddings, also where it was given another base.
    embeddings = canonical_parameters(model)["embeddings.word_embeddings.weight"]
    assert masked.get_output_embeddings().weight is embeddings
    parameters = list(model.parameters())
    assert len(parameters) == len({id(p) for p in parameters})
    # A part's fresh head is that of a training by itself.
    alone = workload_for(base, parts[1], RECIPE).build(3)
    own = next(part for part in model.parts if hasattr(part, "classifier"))
    assert torch.equal(own.classifier.weight, alone.classifier.weight)


def test_the_loss_is_the_mean_of_the_parts_and_reaches_base_and_heads(joint: Joint) -> None:
    model = joint.build(0).eval()
    batch = joint.batches(5)[0]
    name = "encoder.layer.0.intermediate.dense.weight"
    gradients = []
    for number, part in enumerate(joint.parts):
        model.zero_grad()
        part.loss(model.parts[number], part_of(batch, number)).backward()
        gradients.append(canonical_parameters(model)[name].grad.clone())
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    model.zero_grad()
    loss = joint.loss(model, batch)
    alone = [
        part.loss(model.parts[number], part_of(batch, number)).item()
        for number, part in enumerate(joint.parts)
    ]
    assert loss.item() == pytest.approx(sum(alone) / 2)
    loss.backward()
    found = canonical_parameters(model)[name].grad
    torch.testing.assert_close(found, (gradients[0] + gradients[1]) / 2, rtol=1e-3, atol=1e-7)
    assert model.parts[0].cls.predictions.transform.dense.weight.grad.abs().max() > 0
    assert model.parts[1].classifier.weight.grad.abs().max() > 0


def test_steps_are_the_first_parts_and_the_other_goes_round(joint: Joint) -> None:
    plan = joint.batches(5)
    first, second = joint.parts
    assert len(plan) == joint.steps == first.steps == round(2 * first.train_examples / 8)
    assert second.train_examples == 64
    assert len(plan) > second.steps
    for index in (0, len(plan) - 1):
        ours = part_of(plan[index], 0)
        theirs = first.batches(5)[index]
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    # Every example of the other part is seen once an epoch of its own: 8 steps of 8.
    rows = plan.plans[1].order.flatten()
    counts = torch.bincount(torch.from_numpy(rows))
    assert len(rows) == 8 * len(plan)
    assert counts.max() - counts.min() <= 1
    assert joint.count(plan[0])[0] == 16
    assert joint.count(plan[0])[1] == sum(
        part.count(part_of(plan[0], number))[1] for number, part in enumerate(joint.parts)
    )
    later = plan[2:4][1]
    assert all(torch.equal(later[name], tensor) for name, tensor in plan[3].items())


def test_pruned_weights_stay_zero(joint: Joint, mask: Mask) -> None:
    outcome = train(joint, RECIPE, seed=1, mask=mask)
    trained = canonical_parameters(outcome.model)
    start = canonical_parameters(joint.build(1))
    for name in mask:
        assert not trained[name][~mask[name]].any()
        assert (trained[name] != start[name])[mask[name]].float().mean() > 0.8
    assert outcome.train_examples == 16 * outcome.steps


def test_training_lowers_the_loss_and_moves_every_head(joint: Joint) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=12.0, learning_rate=3e-3)
    start, model = joint.build(1).eval(), train(joint, recipe, seed=1).model
    batch = joint.batches(9)[0]
    with torch.no_grad():
        assert joint.loss(model, batch) < joint.loss(start, batch) - 0.05
    before, after = take_weights(start), take_weights(model)
    heads = [name for name in before if name.startswith("head/")]
    assert {name.split(".")[1] for name in heads} == {"0", "1"}
    assert not [name for name in heads if torch.equal(before[name], after[name])]
    found = joint.evaluate(model, "validation")
    assert found.score == pytest.approx(sum(found.predictions) / 2)
    alone = [
        part.evaluate(model.parts[number], "validation").score
        for number, part in enumerate(joint.parts)
    ]
    assert list(found.predictions) == alone


def test_equal_seeds_give_equal_trainings(joint: Joint) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=0.5)
    first, again, other = (train(joint, recipe, seed=seed) for seed in (1, 1, 2))
    assert first.record() == again.record() != other.record()


def test_weights_are_taken_and_put_back_once_each(joint: Joint) -> None:
    model, other = joint.build(0), joint.build(1)
    weights = take_weights(model)
    assert "head/parts.1.classifier.weight" in weights
    assert "head/parts.0.cls.predictions.transform.dense.weight" in weights
    assert not [n for n in weights if n.startswith("head/") and ".bert." in n]
    put_weights_(other, weights)
    found = take_weights(other)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_the_warmed_head_is_that_of_masked_language_modelling(joint: Joint) -> None:
    workload = joint.head_only()
    outcome = train(workload, dataclasses.replace(RECIPE, epochs=1.0), seed=0)
    head = workload.head(outcome.model)
    assert head
    assert all(name.startswith("head/parts.0.cls.") for name in head)
    model = joint.build(4)
    fresh = model.parts[1].classifier.weight.clone()
    put_weights_(model, head)
    assert torch.equal(model.parts[1].classifier.weight, fresh)
    trained = outcome.model.cls.predictions.transform.dense.weight
    assert torch.equal(model.parts[0].cls.predictions.transform.dense.weight, trained)


def test_synflow_sees_every_part(joint: Joint, mask: Mask) -> None:
    model = joint.build(0)
    batch = joint.batches(0)[0]
    flows = synflow(model, batch, list(mask))["synflow"]
    half = synflow(model.parts[1], part_of(batch, 1), list(mask))
    assert all(flow.max() > 0 for flow in flows.values())
    assert any(not torch.allclose(flows[n], half["synflow"][n]) for n in flows)


def test_plain_data_are_hashed_and_stored_as_before(tmp_path: Path) -> None:
    plain = small_task()
    fields = dataclasses.asdict(plain)
    del fields["parts"]
    assert plain.to_json() == {**fields, "sha256": plain.sha256}
    assert list(plain.to_json()) == [*fields, "sha256"]
    splits = {name: fields[name] for name in SPLITS}
    assert plain.sha256 == fingerprint({"labels": ["bad", "good"], **splits})


def test_joint_data_are_stored_in_parts_and_checked(tmp_path: Path) -> None:
    data = both()
    assert data.notes == ("hidden: 20 words were left out",)
    stored = json.loads(json.dumps(data.to_json()))
    assert "train" not in stored
    assert TaskData.from_json(stored) == data
    assert join("x", list(data.parts[::-1])).sha256 != data.sha256 != data.parts[0].sha256
    stored["parts"][1]["train"]["texts"][0] = "other"
    with pytest.raises(DataError, match="they do not fit their hash"):
        TaskData.from_json(stored)
    few = data.limited(10, 0)
    assert [len(part.train) for part in few.parts] == [10, 10]
    assert few.train == few.parts[0].train
    assert data.limited(70, 0).parts[1] == data.parts[1]


def test_names_of_joint_tasks(tmp_path: Path) -> None:
    assert joint_parts("mlm+movies") == ("mlm", "movies")
    assert joint_parts("movies") == joint_parts("a+b.yaml") == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlm+movis", r"unknown task 'movis'.*movies"),
        ("mlm+", r"unknown task ''"),
        (
            "movies+digits",
            r"has the part digits, which is on images; expected named tasks on texts",
        ),
        ("movies+movies", r"task 'movies\+movies' names a part twice; expected different tasks\."),
        ("mlm+wikitext", r"has several parts of masked language modelling; expected one\."),
    ],
)
def test_what_cannot_be_joined_is_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        load_task(name)


@pytest.mark.usefixtures("_own_tasks")
def test_a_metric_that_is_better_when_lower_is_refused() -> None:
    def load(**options: Any) -> TaskData:
        raise AssertionError

    register_task(TaskInfo("next-word", "made up", "loss", load, "causal-lm"))
    with pytest.raises(
        UnknownNameError, match=r"next-word, whose metric loss is better when lower"
    ):
        load_task("movies+next-word")


def test_nothing_is_verified_on_a_joint_task(tiny_model: Path, tmp_path: Path) -> None:
    message = (
        r"task 'mlm\+movies' is a joint one: a source of masks, on which nothing is verified\. "
        r"Name it among the sources of a study, with targets such as mlm, movies\."
    )
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=message):
        ticketry.find(str(tiny_model), "mlm+movies", sparsity=0.5, out=out)
    with pytest.raises(ConfigError, match=r"unknown task 'movis'"):
        ticketry.find(str(tiny_model), "mlm+movis", sparsity=0.5, out=out)
    assert not out.exists()
    plan: dict[str, Any] = {
        "study": "B-multi", "model": "minilm", "sources": ["mlm+movies"], "targets": ["movies"],
        "sparsities": [0.5], "arms": {"imp": {"method": "imp", "grid": [0.3, 0.5]}},
    }  # fmt: skip
    assert build_plan(plan).arms[0].sources == ("mlm+movies",)
    for changes in ({"targets": "same"}, {"targets": ["movies", "mlm+movies"]}):
        with pytest.raises(ConfigError, match=message):
            build_plan({**plan, **changes})
    with pytest.raises(ConfigError, match=r"unknown task 'movis'.*movies"):
        build_plan({**plan, "sources": ["mlm+movis"]})


def test_a_recipe_of_another_length_is_refused(joint: Joint) -> None:
    longer: Recipe = dataclasses.replace(RECIPE, max_length_tokens=24)
    with pytest.raises(ConfigError, match="needs a workload of its own"):
        joint.batches(0, longer)
