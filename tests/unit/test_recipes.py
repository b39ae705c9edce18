"""Recipes: what keys hold of them, optimizers, courses of the rate, options."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ticketry import cli, cli_connect, cli_study
from ticketry.config import fingerprint
from ticketry.course import learning_rate, make_optimizer
from ticketry.options import build_find_spec, build_recipe
from ticketry.recipes import FIELD_OF_OPTION, RECIPES, Recipe, check_recipe
from ticketry.reproduce import shared_flags

OLD_KEYS = {
    "paper": "b33a074b",
    "embedded": "9800f746",
    "squad": "04dbb7d1",
}


@pytest.mark.parametrize("name", OLD_KEYS)
def test_later_fields_leave_the_keys_of_earlier_versions_alone(name: str) -> None:
    plain = RECIPES[name].to_json()
    assert set(plain) == {
        "name", "epochs", "learning_rate", "batch_size", "max_length_tokens", "train_samples",
        "weight_decay", "adam_eps", "warmup_fraction", "clip_norm", "dtype", "freeze_embeddings",
    }  # fmt: skip
    assert fingerprint(plain).startswith(OLD_KEYS[name])


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_come_back_and_are_sound(name: str) -> None:
    recipe = RECIPES[name]
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert check_recipe(recipe) == []
    assert recipe.name == name
    assert recipe.describe().startswith(f"{name}: ")


def test_the_cv_papers_rates() -> None:
    cifar = RECIPES["cifar"]
    steps = 182 * 10
    rates = [learning_rate(cifar, epoch * 10, steps) for epoch in (0, 90, 91, 135, 136, 181)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert "SGD, momentum 0.9, learning rate 0.1, ×0.1 at 50%, 75%" in cifar.describe()
    masks = RECIPES["voc-masks"]
    assert (masks.warmup_fraction * 30_000, masks.drops) == (100, (18 / 30, 22 / 30))
    assert "learning rate 0.0001, constant, batch 256" in RECIPES["rounds"].describe()
    visda = RECIPES["visda"]
    assert [learning_rate(visda, step, 20) for step in (9, 10)] == pytest.approx([1e-3, 1e-4])


def test_courses_of_the_rate() -> None:
    cosine = Recipe(learning_rate=1.0, schedule="cosine")
    assert [learning_rate(cosine, s, 4) for s in range(4)] == pytest.approx(
        [1.0, 0.8535534, 0.5, 0.1464466]
    )
    constant = Recipe(learning_rate=0.3, schedule="constant", warmup_fraction=0.5)
    assert [learning_rate(constant, s, 4) for s in range(4)] == pytest.approx([0, 0.15, 0.3, 0.3])
    assert learning_rate(Recipe(learning_rate=1.0), 3, 4) == 0.25


def test_sgd_makes_torchs_steps() -> None:
    recipe = dataclasses.replace(RECIPES["images"], weight_decay=0.1)
    layer, peer = nn.Linear(3, 2), nn.Linear(3, 2)
    peer.load_state_dict(layer.state_dict())
    own = make_optimizer(layer, recipe, torch.device("cpu"))
    other = torch.optim.SGD(
        [{"params": [peer.weight], "weight_decay": 0.1}, {"params": [peer.bias]}],
        lr=0.01, momentum=0.9,
    )  # fmt: skip
    for _ in range(3):
        for model, optimizer in ((layer, own), (peer, other)):
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(layer.weight, peer.weight)
    assert torch.allclose(layer.bias, peer.bias)


def test_options_of_images_reach_the_recipe_and_the_command() -> None:
    spec = build_find_spec(
        {"model": "lite0", "task": "digits", "image_size": 48, "augment": "crop"}
    )
    assert spec.recipe == dataclasses.replace(RECIPES["images"], image_size_px=48, augment="crop")
    flags = " ".join(shared_flags(spec))
    assert "--recipe images --image-size 48 --augment crop" in flags
    assert build_find_spec({"model": "minilm", "task": "movies"}).recipe == RECIPES["embedded"]


@pytest.mark.parametrize("option", FIELD_OF_OPTION)
def test_a_command_that_gives_a_run_again_names_every_change_of_its_recipe(option: str) -> None:
    values = {"dtype": "float32", "augment": "crop", "detector": "retinanet", "epochs": 3.0,
              "learning_rate": 0.03, "weight_decay": 0.003, "temperature": 0.3,
              "key_momentum": 0.5}  # fmt: skip
    value = values.get(option, 33)
    options = {"task": "simclr/fashion-mnist", "model": "some/folder", option: value}
    spec = build_find_spec({**options, "sparsity": 0.5})
    assert getattr(spec.recipe, FIELD_OF_OPTION[option]) == value
    said = value if isinstance(value, str) else f"{value:g}"
    assert f"--{option.replace('_', '-')} {said}" in shared_flags(spec)


def test_a_weight_decay_is_said_where_it_is_not_the_recipe_s_own() -> None:
    named = RECIPES["pretrain"]
    assert "weight decay" not in named.describe()
    changed = dataclasses.replace(named, weight_decay=0.003)
    assert changed.describe() == named.describe().replace("≤", "weight decay 0.003, ≤")


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({"task": "movies"}, "paper"),
        ({"model": "minilm", "task": "movies"}, "embedded"),
        ({"task": "fashion-mnist"}, "photos"),
        ({"model": "lite0", "task": "fashion-mnist"}, "images"),
        ({"task": "fashion-mnist", "recipe": "cifar"}, "cifar"),
        ({"data": "pets", "objective": "segmentation"}, "photos"),
        ({"task": "moco/mnist"}, "pretrain"),
    ],
)
def test_the_usual_recipe_is_the_datas(options: dict[str, Any], recipe: str) -> None:
    spec = build_find_spec({"model": "some/model", "sparsity": 0.4, **options})
    assert spec.recipe.name == recipe


def test_a_task_file_says_what_its_data_are(tmp_path: Path) -> None:
    file = tmp_path / "boxes.yaml"
    file.write_text("name: boxes\ndata: voc\nobjective: detection\n")
    faults: list[str] = []
    assert build_recipe({"model": "m", "task": str(file)}, faults).name == "photos"
    file.write_text("- no task\n")
    assert build_recipe({"model": "m", "task": str(file)}, faults).name == "paper"
    assert build_recipe({"model": "m", "task": str(tmp_path / "none.yaml")}, faults).name == "paper"
    assert faults == []


@pytest.mark.parametrize("command", ["find", "verify", "train", "connect", "transfer"])
def test_every_option_of_a_recipe_is_one_of_the_command(command: str) -> None:
    module = {"connect": cli_connect, "transfer": cli_study}.get(command, cli)
    assert set(FIELD_OF_OPTION) <= set(inspect.signature(getattr(module, command)).parameters)
