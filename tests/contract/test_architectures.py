"""Every architecture: find, exact counts, zeros kept through training, save, load, apply."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertTokenizerFast,
)

from architectures import ARCHITECTURES, IMAGES
from ticketry.core.select import select_global
from ticketry.models.loading import (
    base_sha256,
    canonical_parameters,
    load_backbone,
    prunable,
    resolve,
    tensor_hashes,
)
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.objectives import workload_for
from ticketry.ticket import Base, Ticket
from ticketry.training import train
from tiny import sentence
from tiny_images import image_task

TASK_MODELS = {
    "classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def folder(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp(request.param) / request.param
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(ARCHITECTURES[request.param].build_config())
    model.save_pretrained(out)
    if request.param not in IMAGES:
        BertTokenizerFast.from_pretrained(tiny_model).save_pretrained(out)
    return out


@pytest.fixture
def data(folder: Path) -> TaskData:
    if folder.name in IMAGES:
        return image_task(48)
    draw = random.Random(0)
    texts = tuple(sentence(i % 2, draw) for i in range(48))
    whole = Split(texts, None, tuple(i % 2 for i in range(48)))
    part = whole.take(range(8))
    return TaskData("toy", "toy", ("neg", "pos"), "accuracy", 0.01, whole, part, part)


def test_find_train_save_load_apply(folder: Path, data: TaskData, tmp_path: Path) -> None:
    tensors, weights = ARCHITECTURES[folder.name].tensors, ARCHITECTURES[folder.name].weights
    base = resolve(str(folder))
    backbone = load_backbone(base)
    names = prunable(backbone, "encoder")
    assert len(names) == tensors
    pretrained = canonical_parameters(backbone)
    assert sum(pretrained[name].numel() for name in names) == weights

    # Found on trained weights, nested over two levels, exactly as many as asked for.
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.01, max_length_tokens=16)
    workload = workload_for(base, data, recipe)
    dense = canonical_parameters(train(workload, recipe, seed=0).model)
    first = select_global({n: dense[n].detach() for n in names}, 0.8)
    mask = select_global({n: dense[n].detach() for n in names}, 0.5, within=first)
    assert (first.kept, mask.kept) == (round(0.8 * weights), round(0.5 * weights))
    assert mask.is_subset_of(first)

    # Zeros stay zero through a training, and everything else moves.
    model = train(workload, recipe, seed=1, mask=mask).model
    trained = canonical_parameters(model)
    for name in names:
        assert (trained[name][~mask[name]] == 0).all()
    moved = sum(int((trained[n] != pretrained[n])[mask[n]].sum()) for n in names)
    assert moved > 0.9 * mask.kept

    # Saved, loaded, applied to the base and to a task model; their keys stay as they were.
    hashes = tensor_hashes(backbone)
    kind = backbone.config.model_type
    ticket = Ticket(mask, Base(str(folder), None, base_sha256(hashes), hashes, kind, weights))
    ticket.save_pretrained(tmp_path / "ticket")
    loaded = Ticket.from_pretrained(tmp_path / "ticket")
    assert loaded.mask == mask
    for load in (AutoModel, TASK_MODELS[data.objective]):
        target = load.from_pretrained(folder)
        keys = list(target.state_dict())
        loaded.apply_(target)
        assert list(target.state_dict()) == keys
        applied = canonical_parameters(target)
        for name in names:
            assert (applied[name] == pretrained[name] * mask[name]).all()
