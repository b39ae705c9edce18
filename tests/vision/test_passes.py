"""What one image costs, against the operations that a training step is seen to run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from test_timm_models import tiny_folder
from torch.utils.flop_counter import FlopCounterMode

from ticketry.models.loading import load_backbone, resolve
from ticketry.recipes import RECIPES
from ticketry.tasks.base import TaskData
from ticketry.tasks.digits import load_digits
from ticketry.tasks.objectives import OBJECTIVES
from ticketry.tasks.passes import image_flops
from ticketry.tasks.pretraining import as_pretraining
from ticketry.tasks.scenes import load_scenes

SIZES = {"train": 8, "validation": 4, "test": 4}
RECIPE = dataclasses.replace(
    RECIPES["images"], image_size_px=64, batch_size=4, epochs=1, dtype="float32"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("timm") / "resnet10", "resnet10t")


def data_of(objective: str) -> TaskData:
    digits = load_digits(split_seed=0).limited(16, 0)
    if objective in ("detection", "segmentation"):
        masks = objective == "segmentation"
        return load_scenes("tiny", digits, masks=masks, split_seed=0, sizes=SIZES, side=64)
    return digits if objective == "image-classification" else as_pretraining(digits, objective)


@pytest.mark.parametrize(
    "objective", ["image-classification", "detection", "segmentation", "simclr", "moco"]
)
def test_an_image_costs_what_a_step_runs(objective: str, model: Path) -> None:
    base, data = resolve(str(model)), data_of(objective)
    recipe = dataclasses.replace(RECIPE, queue=16) if objective == "moco" else RECIPE
    said = image_flops(base, load_backbone(base), data, recipe)
    work = OBJECTIVES[objective](base, data, recipe)
    trained, batch = work.build(0).train(), work.batches(0, recipe)[0]
    with FlopCounterMode(display=False) as counter:
        work.loss(trained, batch).backward()
    # Heads of classes and of projection are small, and the images themselves need no gradient.
    assert counter.get_total_flops() / recipe.batch_size == pytest.approx(said, rel=0.15)


def test_an_image_of_half_the_side_costs_a_quarter(model: Path) -> None:
    base, data = resolve(str(model)), data_of("image-classification")
    backbone = load_backbone(base)
    small, large = (
        image_flops(base, backbone, data, dataclasses.replace(RECIPE, image_size_px=side))
        for side in (64, 128)
    )
    assert large / small == pytest.approx(4, rel=0.02)
