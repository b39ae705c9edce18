"""Every architecture: find, exact counts, zeros kept through training, save, load, apply."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertTokenizerFast,
)

import ticketry
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
from ticketry.sensitivity import gradients, hessian_gradients, synflow
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.objectives import workload_for
from ticketry.ticket import Base, Ticket
from ticketry.training import train
from tiny import sentence
from tiny_images import image_task

RECIPE = Recipe(epochs=1, batch_size=8, learning_rate=0.01, max_length_tokens=16)
MORE_SCOPES: dict[str, dict[str, tuple[int, int]]] = {
    # The decoder's attention to itself and to the encoder, 8·16·16, and its MLP 2·16·32: 3,072 in
    # 10 tensors a block, beside the encoder's 4,096 in 12.
    "t5": {"encoder-decoder": (32, 10_240), "encoder-decoder !encoder.*": (20, 6144)},
    # Without the MLPs, q, o 2·16·16 and k, v 2·8·16 are left of each of the two layers.
    "llama": {"encoder !*.mlp.*": (8, 1536)},
    # The Wqkv of both layers, 48·16 each.
    "modernbert": {"layers.*.weight !*Wo* !*Wi* !*norm*": (2, 1536)},
}
"""Scopes beside ``encoder``, by name or by patterns: tensors and weights, by hand."""
TASK_MODELS = {
    "classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def folder(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.set_num_threads(1)
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


def scopes_of(name: str) -> dict[str, tuple[int, int]]:
    tiny = ARCHITECTURES[name]
    return {"encoder": (tiny.tensors, tiny.weights), **MORE_SCOPES.get(name, {})}


def test_find_train_save_load_apply(folder: Path, data: TaskData, tmp_path: Path) -> None:
    for number, (scope, (tensors, weights)) in enumerate(scopes_of(folder.name).items()):
        kept_through(folder, data, tuple(scope.split()), tensors, weights, tmp_path / str(number))


def kept_through(
    folder: Path, data: TaskData, scope: tuple[str, ...], tensors: int, weights: int, out: Path
) -> None:
    base = resolve(str(folder))
    backbone = load_backbone(base)
    names = prunable(backbone, scope)
    assert len(names) == tensors
    pretrained = canonical_parameters(backbone)
    assert sum(pretrained[name].numel() for name in names) == weights

    # Found on trained weights, nested over two levels, exactly as many as asked for.
    workload = workload_for(base, data, RECIPE)
    dense = canonical_parameters(train(workload, RECIPE, seed=0).model)
    first = select_global({n: dense[n].detach() for n in names}, 0.8)
    mask = select_global({n: dense[n].detach() for n in names}, 0.5, within=first)
    assert (first.kept, mask.kept) == (round(0.8 * weights), round(0.5 * weights))
    assert mask.is_subset_of(first)

    # Zeros stay zero through a training, and everything else moves.
    model = train(workload, RECIPE, seed=1, mask=mask).model
    trained = canonical_parameters(model)
    for name in names:
        assert (trained[name][~mask[name]] == 0).all()
    moved = sum(int((trained[n] != pretrained[n])[mask[n]].sum()) for n in names)
    assert moved > 0.9 * mask.kept

    # Saved, loaded, applied to the base and to a task model; their keys stay as they were.
    hashes = tensor_hashes(backbone)
    kind = backbone.config.model_type
    ticket = Ticket(mask, Base(str(folder), None, base_sha256(hashes), hashes, kind, weights))
    ticket.save_pretrained(out)
    loaded = Ticket.from_pretrained(out)
    assert loaded.mask == mask
    for load in (AutoModel, TASK_MODELS[data.objective]):
        target = load.from_pretrained(folder)
        keys = list(target.state_dict())
        loaded.apply_(target)
        assert list(target.state_dict()) == keys
        applied = canonical_parameters(target)
        for name in names:
            assert (applied[name] == pretrained[name] * mask[name]).all()


def test_gradients_reach_every_prunable_tensor(folder: Path, data: TaskData) -> None:
    """What SNIP, Taylor, GraSP and SynFlow are computed from; fused attention has no second one."""
    workload = workload_for(resolve(str(folder)), data, RECIPE)
    model = workload.build(0)
    widest = next(s for s in ("encoder-decoder", "encoder") if s in scopes_of(folder.name))
    names = prunable(model, widest)
    batches = workload.batches(0)[:2]
    statistics = {
        **gradients(workload, model, batches, names),
        **hessian_gradients(workload, model, batches, names),
        **synflow(model, batches[0], names),
    }
    assert set(statistics) == {"gradient", "squared_gradient", "hessian_gradient", "synflow"}
    for statistic, tensors in statistics.items():
        assert set(tensors) == set(names)
        for name in names:
            assert float(tensors[name].abs().max()) > 0, (statistic, name)


def test_a_whole_run(folder: Path, reviews: Path, tmp_path: Path) -> None:
    """``find`` with verification and controls on new weights, and ``train``: to a sparse model."""
    options: dict[str, Any] = (
        {"task": "digits"}
        if folder.name in IMAGES
        else {"data": str(reviews), "text_column": "review", "label_column": "verdict",
              "max_length": 16}
    ) | {"train_samples": 48, "epochs": 1, "batch_size": 8, "workers": 0}  # fmt: skip
    found = ticketry.find(
        str(folder),
        **options,
        sparsity=0.5,
        levels=2,
        replicates=2,
        controls="reinit,reinit-scope,shuffled",
        out=tmp_path / "run",
    )
    weights = ARCHITECTURES[folder.name].weights
    assert (found.mask.prunable, found.mask.kept) == (weights, weights // 2)
    assert found.verdict is not None
    assert found.evidence is not None
    assert list(found.evidence["controls"]) == ["reinit", "reinit-scope", "shuffled"]
    assert ticketry.Ticket.from_pretrained(tmp_path / "run" / "ticket") == found
    ticketry.train(found, **options, out=tmp_path / "model")
    kind = "image-classification" if folder.name in IMAGES else "classification"
    sparse = canonical_parameters(TASK_MODELS[kind].from_pretrained(tmp_path / "model"))
    for name in found.mask:
        assert int(sparse[name][~found.mask[name]].count_nonzero()) == 0
