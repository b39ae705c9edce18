"""Pre-training objectives as tasks: losses, what is rewound, masks, the probe, bad inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_timm_models import tiny_folder
from torch import Tensor, nn
from torch.nn.functional import normalize

from little_images import class_folders
from ticketry import api
from ticketry.companions import Capture, GradualPruning
from ticketry.config import PRETRAINING, derive_seed
from ticketry.core.mask import Mask
from ticketry.course import Course
from ticketry.errors import ConfigError, DataError, InputError, ModelError
from ticketry.metrics import METRICS, metrics_for
from ticketry.models import contrastive
from ticketry.models.contrastive import MoCo, SimCLR, features
from ticketry.models.loading import base_model, canonical_parameters, prunable, resolve
from ticketry.models.weights import take_weights
from ticketry.recipes import RECIPES, Recipe
from ticketry.sensitivity import gradients
from ticketry.tasks import ahead
from ticketry.tasks.base import TaskData
from ticketry.tasks.contrastive import ContrastiveLearning
from ticketry.tasks.files import load_file
from ticketry.tasks.pretraining import as_pretraining, check_channels
from ticketry.tasks.registry import TASKS, TaskInfo, load_task, register_task
from ticketry.tasks.retrieval import gallery_rows, retrieve
from ticketry.tasks.workload import Batch
from ticketry.training import train
from tiny_images import image_task

RECIPE = dataclasses.replace(
    RECIPES["pretrain"],
    batch_size=8,
    epochs=1,
    image_size_px=8,
    learning_rate=0.05,
    queue=20,
    key_momentum=0.9,
    dtype="float32",
)
BOTH = pytest.mark.parametrize("objective", ["simclr", "moco"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_folder(tmp_path_factory.mktemp("timm") / "resnet10", "resnet10t")


def workload_of(objective: str, folder: Path, recipe: Recipe = RECIPE) -> ContrastiveLearning:
    return ContrastiveLearning(
        resolve(str(folder)), as_pretraining(image_task(32), objective), recipe
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


def half(model: nn.Module) -> Mask:
    draw = torch.Generator().manual_seed(0)
    parameters = canonical_parameters(model)
    names = prunable(model, "encoder")
    return Mask({n: torch.rand(parameters[n].shape, generator=draw) < 0.5 for n in names})


def stop_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, steps: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


# --- losses -------------------------------------------------------------------------------------


def test_the_loss_of_simclr_is_nt_xent(folder: Path) -> None:
    work = workload_of("simclr", folder, dataclasses.replace(RECIPE, temperature=0.3))
    model, batch = work.build(0).train(), work.batches(1)[0]
    found = work.loss(model, batch)
    again = work.build(0).train()
    assert isinstance(again, SimCLR)
    both = normalize(again.encoder(torch.cat([batch["pixel_values"], batch["other_views"]])))
    count = len(both) // 2
    terms = []
    for row in range(len(both)):
        alike = torch.exp(both[row] @ both.T / 0.3)
        partner = (row + count) % len(both)
        terms.append(-torch.log(alike[partner] / (alike.sum() - alike[row])))
    assert found.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)


def test_the_loss_of_moco_is_over_a_queue_of_the_slow_encoders_keys(folder: Path) -> None:
    work = workload_of("moco", folder)
    model, batches = work.build(0).train(), work.batches(1)
    assert isinstance(model, MoCo)
    bank = model.criterion.memory_bank
    queue = bank.bank.clone()
    keys = []
    for step in range(3):
        found = work.loss(model, batches[step])
        probe = work.build(0).train()  # by hand: the encoder has not been updated
        assert isinstance(probe, MoCo)
        queries = normalize(probe.encoder(batches[step]["pixel_values"]))
        own = normalize(model.encode_keys(batches[step]["other_views"]))
        positive = (queries * own).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ queue.T], 1) / 0.2
        expected = nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
        if step == 0:  # later steps normalise by statistics that the first ones have moved
            assert found.item() == pytest.approx(expected.item(), rel=1e-4)
        queue = bank.bank.clone()
        keys.append(own)
    # 20 places: two whole batches, then what is left of the third.
    assert torch.allclose(queue, torch.cat([*keys[:2], keys[2][:4]]), atol=1e-5)
    assert int(bank.bank_ptr) == 0


def test_the_momentum_encoder_trails_the_encoder(folder: Path) -> None:
    model = workload_of("moco", folder).build(0)
    assert isinstance(model, MoCo)
    own = model._own()
    model.follow()
    assert all(torch.equal(key, own[name]) for name, key in model._keys().items())
    start = {name: tensor.clone() for name, tensor in own.items()}
    weight = own["base.timm_model.layer1.0.conv1.weight"]
    statistic = own["base.timm_model.bn1.running_mean"]
    with torch.no_grad():
        weight += 1.0
        statistic += 2.0
    model.follow()
    keys = model._keys()
    name = "base.timm_model.layer1.0.conv1.weight"
    assert torch.allclose(keys[name], start[name] + 0.1)
    name = "base.timm_model.bn1.running_mean"
    assert torch.allclose(keys[name], start[name] + 0.2)


def test_views_are_the_steps_and_leave_the_global_generators_alone(folder: Path) -> None:
    work = workload_of("simclr", folder)
    batches = work.batches(1)
    torch.manual_seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    first = batches[2]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert first["pixel_values"].shape == (8, 3, 8, 8)
    assert not torch.equal(first["pixel_values"], first["other_views"])
    later = batches[1:][1]  # the same step of a training that goes on
    assert all(torch.equal(later[name], tensor) for name, tensor in first.items())
    other = work.batches(2)[2]
    assert not torch.equal(other["pixel_values"], first["pixel_values"])


# --- rewinding ----------------------------------------------------------------------------------

PARTS = {
    "weights": lambda n: n.startswith("encoder.base.") and n.endswith("conv1.weight"),
    "batch statistics": lambda n: n.startswith("encoder.base.") and n.endswith("running_mean"),
    "projection head": lambda n: n.startswith("encoder.head."),
    "queue": lambda n: n.startswith("criterion.memory_bank."),
    "momentum encoder": lambda n: n.startswith("key_") or n == "begun",
}


@BOTH
def test_views_drawn_ahead_are_the_same(
    objective: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = workload_of(objective, folder)
    plain = train(workload, RECIPE, seed=1)
    monkeypatch.setattr(ahead, "readers_beside", lambda device: 2)
    assert same(state(train(workload, RECIPE, seed=1).model), state(plain.model))


@BOTH
def test_every_training_starts_anew(objective: str, folder: Path) -> None:
    """The queue, momentum encoder, statistics and head of one training reach no other."""
    work = workload_of(objective, folder)
    start = state(work.build(7))
    mask = half(work.build(7))
    kept = train(work, RECIPE, seed=7, mask=mask)
    moved = state(kept.model)
    for part, belongs in PARTS.items():
        names = [name for name in start if belongs(name)]
        if objective == "simclr" and part in ("queue", "momentum encoder"):
            continue
        changed = [name for name in names if not torch.equal(start[name], moved[name])]
        assert changed, part  # else what follows would say nothing
    train(work, RECIPE, seed=8)
    again = state(work.build(7))
    for part, belongs in PARTS.items():
        for name in filter(belongs, start):
            assert torch.equal(again[name], start[name]), part
    assert same(state(train(work, RECIPE, seed=7, mask=mask).model), moved)


def test_moco_normalises_queries_and_keys_in_groups_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "GROUP", 4)
    work = workload_of("moco", folder)
    batch = work.batches(1)[0]
    found = work.loss(work.build(0).train(), batch)
    model = work.build(0).train()  # by hand
    assert isinstance(model, MoCo)
    queue = model.criterion.memory_bank.bank.clone()
    first, second = batch["pixel_values"], batch["other_views"]
    queries = normalize(torch.cat([model.encoder(first[:4]), model.encoder(first[4:])]))
    keys = torch.empty_like(queries)
    with torch.no_grad():
        keys[::2], keys[1::2] = model.encoder(second[::2]), model.encoder(second[1::2])
    keys = normalize(keys)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], 1) / 0.2
    expected = nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    # Keys leave the averaged statistics of both encoders alone.
    model.follow()
    before = state(model)
    model.encode_keys(second, 2)
    assert same(state(model), before)


def test_a_rewind_to_a_step_resets_queue_and_momentum_encoder(folder: Path) -> None:
    work = workload_of("moco", folder)
    capture = Capture(2)
    train(work, RECIPE, seed=3, companions=[capture])
    assert not [name for name in capture.weights if "key_" in name or "bank" in name]
    assert [name for name in capture.weights if name.endswith("bn1.running_mean")]
    assert [name for name in capture.weights if name.startswith("head/encoder.head.")]
    first: list[dict[str, Tensor]] = []

    class Look(ContrastiveLearning):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            if not first:
                first.append(state(model))
            return super().loss(model, batch)

    again = Look(work.base, work.data, RECIPE)
    train(again, RECIPE, seed=3, course=Course(weights=capture.weights, first_step=2))
    fresh = state(work.build(derive_seed(3, "head")))
    for name in fresh:
        if PARTS["queue"](name) or PARTS["momentum encoder"](name):
            assert torch.equal(first[0][name], fresh[name]), name
    name = "encoder.head.layers.0.weight"
    assert torch.equal(first[0][name], capture.weights["head/" + name])


@BOTH
def test_a_stopped_training_goes_on_bit_for_bit(
    objective: str, folder: Path, tmp_path: Path
) -> None:
    work = workload_of(objective, folder)
    mask = half(work.build(0))
    whole = train(work, RECIPE, seed=3, mask=mask)
    options: dict[str, Any] = {"seed": 3, "mask": mask, "checkpoint": tmp_path / "scratch"}
    for step in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(work, RECIPE, progress=stop_at(step), **options)
    resumed = train(work, RECIPE, **options)
    assert resumed.resumed_at_step == 3
    assert resumed.record() == whole.record()
    assert same(state(resumed.model), state(whole.model))


# --- masks --------------------------------------------------------------------------------------


def assert_pruned(model: nn.Module, mask: Mask) -> None:
    assert isinstance(model, MoCo)
    parameters = canonical_parameters(model)
    for name in mask:
        parameter = parameters[name]
        key = model.followers[id(parameter)]
        assert int(parameter.detach()[~mask[name]].count_nonzero()) == 0
        assert int(key[~mask[name]].count_nonzero()) == 0
        assert int(key[mask[name]].count_nonzero()) > 0


def test_the_mask_prunes_the_momentum_encoder_too(folder: Path) -> None:
    work = workload_of("moco", folder)
    mask = half(work.build(0))
    assert_pruned(train(work, RECIPE, seed=1, mask=mask).model, mask)


def test_a_mask_that_shrinks_prunes_the_momentum_encoder_at_once(folder: Path) -> None:
    work = workload_of("moco", folder)
    names = prunable(work.build(0), "encoder")

    def smallest(weights: Any, density: float, within: Mask) -> Mask:
        return Mask({n: within[n] & (w.abs() > w.abs().quantile(1 - density))
                     for n, w in weights.items()})  # fmt: skip

    pruning = GradualPruning(names, 0.6, start=0.0, end=1.0, updates=2, choose=smallest)
    outcome = train(work, RECIPE, seed=1, companions=[pruning])
    assert_pruned(outcome.model, pruning.finish())


def test_a_key_that_comes_back_is_noticed(folder: Path) -> None:
    from ticketry.enforce import MaskEnforcer

    model = workload_of("moco", folder).build(0)
    assert isinstance(model, MoCo)
    mask = half(model)
    with MaskEnforcer(model, mask) as enforcer:
        model.follow()
        assert enforcer.revived() == {}
        name = next(iter(mask))
        model.followers[id(canonical_parameters(model)[name])].fill_(1.0)
        assert set(enforcer.revived()) == {name}


@BOTH
def test_scoring_weights_changes_nothing(objective: str, folder: Path) -> None:
    work = workload_of(objective, folder)
    model = train(work, RECIPE, seed=1).model
    before = state(model)
    found = gradients(work, model, work.batches(4)[:2], prunable(model, "encoder"))
    assert any(tensor.abs().sum() > 0 for tensor in found["gradient"].values())
    assert same(state(model), before)


# --- heads --------------------------------------------------------------------------------------


@BOTH
def test_a_projection_head_that_was_saved_is_part_of_theta0(
    objective: str, folder: Path, tmp_path: Path
) -> None:
    work = workload_of(objective, folder)
    model = train(work, RECIPE, seed=1).model
    saved = tmp_path / "saved"
    saved.mkdir()
    for name, data in work.model_files(model).items():
        (saved / name).write_bytes(data)
    again = workload_of(objective, saved)
    for seed in (0, 1):
        built = take_weights(again.build(seed))
        for name, tensor in take_weights(model).items():
            assert torch.equal(built[name], tensor), name
    other = workload_of("moco" if objective == "simclr" else "simclr", saved)
    heads = [take_weights(other.build(s))["head/encoder.head.layers.0.weight"] for s in (0, 1)]
    assert not torch.equal(*heads)
    (saved / "projection.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"projection\.safetensors of .* cannot be read"):
        workload_of(objective, saved)


def test_a_projection_head_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "other")
    work = workload_of("simclr", other)
    files = work.model_files(work.build(0))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in folder.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "projection.safetensors").write_bytes(files["projection.safetensors"])
    with pytest.raises(ModelError, match=r"does not fit the model: it has \d+ tensors"):
        workload_of("simclr", mixed).build(0)


# --- the probe ----------------------------------------------------------------------------------


def test_the_nearest_neighbour_is_by_cosine() -> None:
    gallery = normalize(torch.tensor([[1.0, 0.0], [0.0, 5.0], [-1.0, 0.1], [0.0, 5.0]]))
    queries = normalize(torch.tensor([[9.0, 1.0], [0.1, 0.2], [-3.0, -1.0]]))
    assert retrieve(gallery, [7, 8, 9, 6], queries) == [7, 8, 9]  # of equals the first


def test_the_gallery_is_the_same_each_time_and_no_larger_than_the_split() -> None:
    assert gallery_rows(10) == list(range(10))
    rows = gallery_rows(9000)
    assert rows == gallery_rows(9000) == sorted(set(rows))
    assert len(rows) == 4096
    assert max(rows) < 9000


@pytest.mark.parametrize("objective", PRETRAINING)
def test_the_probe_reads_features_under_any_head(objective: str, folder: Path) -> None:
    from ticketry.tasks.objectives import workload_for

    data = as_pretraining(image_task(32), objective)
    work = workload_for(resolve(str(folder)), data, RECIPE)
    model = work.build(0)
    found = work.evaluate(model, "test")
    assert len(found.predictions) == len(data.test)
    right = [p == y for p, y in zip(found.predictions, data.test.labels, strict=True)]
    assert found.score == pytest.approx(np.mean(right))
    assert set(found.predictions) <= {0, 1}
    # By hand: the base's own features, whatever head stands on them.
    pixels = work.processing.apply([_decoded(t) for t in data.train.texts])
    tests = work.processing.apply([_decoded(t) for t in data.test.texts])
    with torch.no_grad():
        net = base_model(work.build(5)).eval()
        gallery, queries = (normalize(features(net, part)) for part in (pixels, tests))
    labels = [data.train.labels[i] for i in (queries @ gallery.T).argmax(1).tolist()]
    assert list(found.predictions) == labels


def _decoded(text: str) -> Any:
    from ticketry.tasks.pixels import decode_image

    return decode_image(text)


def test_the_metric_and_the_tasks_are_registered() -> None:
    for objective in PRETRAINING:
        assert metrics_for(objective) == ("retrieval",)
        for name in ("fashion-mnist", "mnist", "digits"):
            task = TASKS[f"{objective}/{name}"]
            assert (task.metric, task.objective) == ("retrieval", objective)
    assert METRICS["retrieval"].margin == 0.01
    data = load_task("moco/digits")
    plain = load_task("digits")
    assert (data.name, data.train) == ("moco/digits", plain.train)
    assert data.sha256 != plain.sha256


def test_images_of_ones_own_are_pre_trained_on_too(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "things", {"a": 30, "b": 30})
    data = load_file(str(folder), objective="moco")
    plain = load_file(str(folder), objective="image-classification")
    assert (data.objective, data.metric, data.name) == ("moco", "retrieval", "moco/things")
    assert (data.train, data.labels) == (plain.train, ("a", "b"))


# --- whole runs ---------------------------------------------------------------------------------


@pytest.fixture
def _stripes() -> Iterator[None]:
    kept = dict(TASKS)

    def load(**_: Any) -> TaskData:
        return image_task(32)

    register_task(TaskInfo("stripes", "made up", "accuracy", load, "image-classification"))
    yield
    TASKS.clear()
    TASKS.update(kept)


@pytest.mark.usefixtures("_stripes")
@pytest.mark.parametrize("objective", PRETRAINING)
def test_a_whole_run(objective: str, folder: Path, tmp_path: Path) -> None:
    ticket = api.find(
        str(folder), f"{objective}/stripes", method="imp", levels=2, sparsity=0.36, replicates=2,
        recipe="pretrain", image_size=8, epochs=1, batch_size=8, queue=16, dtype="float32",
        controls=["random-layerwise"], workers=0, out=tmp_path / "run",
    )  # fmt: skip
    assert ticket.verdict.metric == "retrieval"
    assert ticket.verdict.test_examples == 16
    assert ticket.mask.sparsity == pytest.approx(0.36, abs=1e-4)


@pytest.mark.usefixtures("_stripes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 64}, r"stripes has 32 training images, fewer than the --batch-size of 64"),
        ({"batch_size": 1}, r"--batch-size is 1; simclr tells an image from others, so it needs 2"),
        ({"augment": "crop"}, r"--augment crop is for classification; simclr draws two views"),
        ({"temperature": 0.0}, r"--temperature is 0\.0; expected 0\.01 to 100"),
        ({"queue": 0}, r"--queue is 0; expected at least 1"),
        ({"key_momentum": 1.0}, r"--key-momentum is 1\.0; expected 0 up to below 1"),
    ],
)
def test_what_is_refused(
    options: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    chosen = {"batch_size": 8, **options}
    with pytest.raises(InputError, match=message):
        api.find(
            str(folder), "simclr/stripes", sparsity=0.36, recipe="pretrain", image_size=8,
            out=tmp_path / "run", **chosen,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_all_faults_are_said_at_once(folder: Path) -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=64, augment="crop")
    with pytest.raises(ConfigError) as found:
        workload_of("moco", folder, recipe)
    assert len(found.value.faults) == 2


def test_only_images_with_classes_are_pre_trained_on() -> None:
    data = dataclasses.replace(image_task(8), objective="detection")
    with pytest.raises(DataError, match=r"data of stripes are for detection; moco needs images"):
        as_pretraining(data, "moco")
    bad = dataclasses.replace(image_task(8).train, texts=("8x8x4:",))
    with pytest.raises(DataError, match=r"train image 0 has 4 channels, the model reads 3"):
        check_channels(dataclasses.replace(image_task(8), train=bad), 3)
