"""``ticketry pretrain``: from an architecture to a base, interrupted, repeated, refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_timm_models import tiny_folder

from little_images import class_folders
from ticketry import api
from ticketry.errors import ConfigError, DataError, InputError, ModelError, RunError
from ticketry.execute import Silent
from ticketry.jobs import Place
from ticketry.models.contrastive import own_projection
from ticketry.models.fresh import fresh_model
from ticketry.models.heads import pretrained_head
from ticketry.models.loading import canonical_tensors, load_backbone, resolve
from ticketry.pretrain import build_pretrain_spec, run_pretrain
from ticketry.steps import Step
from ticketry.tasks.base import TaskData
from ticketry.tasks.registry import TASKS, TaskInfo, load_task, register_task
from ticketry.tasks.supervised import SupervisedPretraining
from tiny_images import image_task

OPTIONS: dict[str, Any] = {
    "model": "resnet10t", "data": "stripes", "epochs": 2, "batch_size": 8, "queue": 16,
    "dtype": "float32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _stripes() -> Iterator[None]:
    kept = dict(TASKS)

    def load(**_: Any) -> TaskData:
        return image_task(32)

    register_task(TaskInfo("stripes", "made up", "accuracy", load, "image-classification"))
    torch.set_num_threads(1)
    yield
    TASKS.clear()
    TASKS.update(kept)


class Stop(Silent):
    """Presses Ctrl-C after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def progress(self, step: Step, done: int, total: int) -> None:
        if done == self.at:
            raise KeyboardInterrupt


def pretrain(out: Path, objective: str = "simclr", stop: int = 0, **more: Any) -> Any:
    spec = build_pretrain_spec({**OPTIONS, "objective": objective, **more})
    return run_pretrain(spec, Place(out, workers=0, events=Stop(stop)))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "times.json"}


# --- what it leaves -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["simclr", "moco", "supervised"])
def test_the_result_is_a_base_as_any_other(objective: str, tmp_path: Path) -> None:
    out = tmp_path / "model"
    record = pretrain(out, objective)
    assert not (tmp_path / "model.work").exists()
    assert (record["objective"], record["steps"], record["metric"]) == (objective, 8, "retrieval")
    assert record["recipe"]["image_size_px"] == 8  # that of the images
    assert record == json.loads((out / "pretraining.json").read_text())
    base = resolve(str(out))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name, data in fresh_model("resnet10t", 8, 0).items():
        (fresh / name).write_bytes(data)
    trained, start = (canonical_tensors(load_backbone(resolve(str(f)))) for f in (out, fresh))
    assert trained.keys() == start.keys()
    assert not torch.equal(trained["layer1.0.conv1.weight"], start["layer1.0.conv1.weight"])
    assert bool(own_projection(base, objective)) == (objective != "supervised")
    text = b"".join(files(out).values())
    assert str(tmp_path).encode() not in text
    for task in (f"{objective}/stripes", "stripes"):
        ticket = api.find(
            str(out), task, method="one-shot", sparsity=0.36, replicates=2, recipe="pretrain",
            epochs=1, batch_size=8, queue=16, dtype="float32", controls=["random-layerwise"],
            workers=0, out=tmp_path / task.replace("/", "-"),
        )  # fmt: skip
        assert ticket.base.name == str(out)
        assert ticket.verdict.metric == ("retrieval" if "/" in task else "accuracy")


def test_a_model_that_was_pre_trained_can_be_the_base_of_both_losses(tmp_path: Path) -> None:
    pretrain(tmp_path / "moco", "moco")
    base = resolve(str(tmp_path / "moco"))
    assert own_projection(base, "moco")
    assert not own_projection(base, "simclr")


def renamed_labels(data: TaskData) -> tuple[str, ...]:
    return tuple(f"other {name}" for name in data.labels)


def test_the_own_objective_goes_on_from_its_classifier(tmp_path: Path) -> None:
    pretrain(tmp_path / "model", "supervised")
    base, data = resolve(str(tmp_path / "model")), load_task("supervised/stripes")
    held = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    (classifier,) = (t for name, t in held.items() if name.endswith("fc.weight"))
    found = pretrained_head(base, "supervised", data.labels)
    assert sorted(name.rpartition(".")[2] for name in found) == ["bias", "weight"]
    recipe = build_pretrain_spec({**OPTIONS, "objective": "supervised"}).recipe
    work = SupervisedPretraining(base, data, recipe)
    for seed in (1, 2):
        assert torch.equal(work.build(seed).timm_model.get_classifier().weight, classifier)
    # Another task's classifier is drawn from the seed, also one that is of as many classes.
    renamed = dataclasses.replace(data, labels=renamed_labels(data))
    assert pretrained_head(base, "supervised", renamed.labels) == {}
    assert pretrained_head(base, "supervised", data.labels[:-1]) == {}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    unnamed = {**config, "label_names": [f"LABEL_{n}" for n in range(len(data.labels))]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(unnamed))
    assert pretrained_head(resolve(str(tmp_path / "model")), "supervised", renamed_labels(data))
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert pretrained_head(base, "image-classification", data.labels) == {}
    one, other = (SupervisedPretraining(base, renamed, recipe).build(n) for n in (1, 2))
    assert not torch.equal(
        one.timm_model.get_classifier().weight, other.timm_model.get_classifier().weight
    )
    assert not torch.equal(one.timm_model.get_classifier().weight, classifier)


# --- again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["simclr", "moco"])
def test_an_interrupted_run_ends_as_if_undisturbed(objective: str, tmp_path: Path) -> None:
    pretrain(tmp_path / "whole", objective)
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            pretrain(tmp_path / "cut", objective, stop)
        assert not (tmp_path / "cut").exists()
    pretrain(tmp_path / "cut", objective)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_kill_minus_nine_and_again(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "things", {"a": 60, "b": 60})

    def command(out: str) -> list[str]:
        return [
            sys.executable, "-m", "ticketry.cli", "pretrain", "--objective", "moco", "--model",
            "resnet10t", "--data", str(data), "--epochs", "2", "--batch-size", "8", "--dtype",
            "float32", "--queue", "16", "--workers", "0", "--out", str(tmp_path / out), "--json",
        ]  # fmt: skip

    killed = subprocess.Popen(
        command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (tmp_path / "cut.work" / "run.json").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    for out in ("cut", "whole"):
        done = subprocess.run(command(out), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["steps"] > 10
        assert "steps = " in done.stderr
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_one_is_not_done_again_unless_it_was_damaged(tmp_path: Path) -> None:
    out = tmp_path / "model"
    record = pretrain(out)
    before = files(out)
    assert pretrain(out, stop=1) == record  # would stop, if it trained
    (out / "model.safetensors").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        pretrain(out, stop=1)
    pretrain(out)
    assert files(out) == before


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    spec = build_pretrain_spec({**OPTIONS, "objective": "moco"})
    place = Place(tmp_path / "model", workers=0, say=said.append, plan_only=True)
    priced = run_pretrain(spec, place)
    assert (priced["steps"], priced["train_passes"]) == (8, 64)
    # Validation and test, and the images that each is looked up among.
    assert priced["eval_passes"] == 16 + 16 + 2 * 32
    assert priced["estimated_seconds"] is not None
    assert "8 steps = 64 training and 96 evaluation passes, about" in "\n".join(said)
    assert list(tmp_path.iterdir()) == []


def test_it_may_end_early_or_before_its_first_step(tmp_path: Path) -> None:
    whole = pretrain(tmp_path / "whole")
    early = pretrain(tmp_path / "early", stop_at=0.25)
    none = pretrain(tmp_path / "none", stop_at=0)
    assert [record["steps"] for record in (whole, early, none)] == [8, 2, 0]
    assert (none["final_loss"], none["stop_at"], early["stop_at"]) == (None, 0.0, 0.25)
    assert none["validation_score"] == none["untrained_validation_score"]
    assert none["untrained_validation_score"] == whole["untrained_validation_score"]
    assert "stop_at" not in whole
    fresh = fresh_model("resnet10t", 8, 0)
    assert files(tmp_path / "none")["model.safetensors"] == fresh["model.safetensors"]
    conv = "layer1.0.conv1.weight"
    start, begun, done = (
        canonical_tensors(load_backbone(resolve(str(tmp_path / name))))[conv]
        for name in ("none", "early", "whole")
    )
    assert not torch.equal(start, begun)
    assert 0 < float((begun - start).norm()) < float((done - start).norm())
    assert pretrain(tmp_path / "none", stop_at=0) == none  # finished; nothing is done again
    with pytest.raises(RunError):
        pretrain(tmp_path / "early")  # another run's folder
    for bad in (-0.1, 1.5, "half", True):
        with pytest.raises(ConfigError, match=r"--stop-at is .* expected a share of the steps"):
            build_pretrain_spec({**OPTIONS, "objective": "simclr", "stop_at": bad})


# --- what it begins with ------------------------------------------------------------------------


def test_fresh_weights_are_the_seeds(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (fresh_model("resnet10t", 8, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == same
    assert one["model.safetensors"] != other["model.safetensors"]
    assert json.loads(one["config.json"])["pretrained_cfg"]["input_size"] == [3, 8, 8]


def test_a_config_says_what_is_built(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8,
        "layer_type": "basic",
    }))  # fmt: skip
    pretrain(tmp_path / "model", model=str(config))
    assert load_backbone(resolve(str(tmp_path / "model"))).config.model_type == "resnet"
    folder = tiny_folder(tmp_path / "timm", "resnet10t")
    made = fresh_model(str(folder), 8, 0)
    assert made == fresh_model("resnet10t", 8, 0)  # the weights beside it are not read


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "simclrr"}, r"unknown --objective 'simclrr'.*simclr"),
        ({"objective": None}, r"--objective is missing; give one of simclr, moco, supervised"),
        ({"model": None}, r"--model is missing"),
        ({"data": None}, r"--data is missing"),
        ({"data": "stripe"}, r"--data 'stripe' is neither a folder nor .*Did you mean 'stripes'"),
        ({"data": "movies"}, r"--data movies: that task is for classification; expected images"),
        ({"label_column": "x"}, r"--label-column go with a hub data set; stripes knows its"),
        ({"epochs": 0}, r"--epochs is 0; expected a finite number above 0"),
        ({"epochs": "many"}, r"--epochs is 'many'; expected a number"),
        ({"recipe": "pretain"}, r"unknown --recipe 'pretain'"),
        ({"levels": 3, "sparsity": 0.5}, r"levels, sparsity decide nothing of a pre-training"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_pretrain_spec({**OPTIONS, "objective": "simclr", **options})


def test_all_faults_of_the_options_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        build_pretrain_spec({"objective": "x", "epochs": -1, "seed": -1, "threads": 0})
    assert len(found.value.faults) == 6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "resnet10"}, ModelError, r"timm has no architecture 'resnet10'.*resnet10t"),
        ({"model": "no/such"}, ModelError, r"names no config\.json that is there"),
        ({"batch_size": 64}, ConfigError, r"32 training images, fewer than the --batch-size of 64"),
        ({"augment": "crop"}, ConfigError, r"--augment crop is for classification"),
        ({"data": "{tmp}/none"}, DataError, r"there is no folder"),
    ],
)
def test_models_and_data_that_cannot_be_used(
    options: dict[str, Any], error: type[InputError], message: str, tmp_path: Path
) -> None:
    given = {name: str(v).format(tmp=tmp_path) if name == "data" else v
             for name, v in options.items()}  # fmt: skip
    with pytest.raises(error, match=message):
        pretrain(tmp_path / "model", **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", r"names neither an architecture \(timm\) nor a model_type"),
        (b"{", r"cannot be read .* expected a model's configuration in JSON"),
        (b'{"model_type": "nothing"}', r"transformers cannot build it"),
        (b'{"model_type": "resnet", "num_layers": 99999}', r"'num_layers' = 1e\+05; expected"),
        (b'{"model_type": "vit", "hidden_size": 1200000, "intermediate_size": 8}',
         r"parameters; expected at most 1,000,000,000|transformers cannot build it"),
        (b'{"architecture": "resnet10t", "model_args": {"block_args": 1}}', r"has model_args"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_used(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        fresh_model(str(path), 8, 0)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    pretrain(tmp_path / "model")
    before = files(tmp_path / "model")
    with pytest.raises(RunError, match=r"- objective: there \"simclr\", here \"moco"):
        pretrain(tmp_path / "model", "moco")
    assert files(tmp_path / "model") == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"is not empty and is no ticketry run \(it holds 'thesis"):
        pretrain(tmp_path / "full")
    with pytest.raises(RunError, match=r"is a file"):
        pretrain(tmp_path / "full" / "thesis.tex")
