"""Question answering in every architecture: trained under a mask, saved, loaded, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForQuestionAnswering, BertTokenizerFast

from architectures import ARCHITECTURES, IMAGES
from ticketry import find
from ticketry.config import Recipe
from ticketry.core.select import select_global
from ticketry.errors import ModelError
from ticketry.models.heads import check_task_model
from ticketry.models.loading import canonical_parameters, load_backbone, prunable, resolve
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.objectives import workload_for
from ticketry.training import train
from tiny_answers import questions, squad_file

RECIPE = Recipe(epochs=1, batch_size=16, learning_rate=0.01, max_length_tokens=16)
LOADERS = {"extractive-qa-v2": AutoModelForQuestionAnswering}


def base_folder(name: str, tiny_model: Path, out: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(ARCHITECTURES[name].build_config())
    model.save_pretrained(out)
    BertTokenizerFast.from_pretrained(tiny_model).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskData]:
    folder = tmp_path_factory.mktemp("data")
    asked = squad_file(folder / "squad.json", questions(90, none=True))
    data = {"extractive-qa-v2": str(asked)}
    return {objective: load_file(path, objective=objective) for objective, path in data.items()}


@pytest.mark.parametrize("objective", sorted(LOADERS))
@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(IMAGES)))
def test_trained_under_a_mask_and_saved(
    name: str, objective: str, tiny_model: Path, tasks: dict[str, TaskData], tmp_path: Path
) -> None:
    base = resolve(str(base_folder(name, tiny_model, tmp_path / name)))
    data = tasks[objective]
    backbone = load_backbone(base)
    pretrained = canonical_parameters(backbone)
    mask = select_global({n: pretrained[n].detach() for n in prunable(backbone, "encoder")}, 0.5)
    workload = workload_for(base, data, RECIPE)
    model = train(workload, RECIPE, seed=1, mask=mask).model
    trained = canonical_parameters(model)
    moved = 0
    for tensor in mask:
        assert (trained[tensor][~mask[tensor]] == 0).all()
        moved += int((trained[tensor] != pretrained[tensor])[mask[tensor]].sum())
    assert moved > 0.9 * mask.kept
    found = workload.evaluate(model, "test")
    assert len(found.predictions) == len(data.test)

    saved = tmp_path / "saved"
    saved.mkdir()
    for file, content in workload.model_files(model).items():
        (saved / file).write_bytes(content)
    loaded = LOADERS[objective].from_pretrained(saved)
    again = workload.evaluate(loaded, "test")
    assert again.predictions == found.predictions


@pytest.mark.parametrize("objective", sorted(LOADERS))
@pytest.mark.parametrize("name", IMAGES)
def test_what_transformers_has_no_head_for_is_refused(
    name: str, objective: str, tmp_path: Path
) -> None:
    AutoModel.from_config(ARCHITECTURES[name].build_config()).save_pretrained(tmp_path / name)
    kind = {"extractive-qa-v2": "question-answering model"}[objective]
    with pytest.raises(ModelError, match=rf"{name} model, for which transformers has no {kind}; "):
        check_task_model(resolve(str(tmp_path / name)), objective, ("O", "B-X"))


def test_a_whole_run_of_questions(tiny_model: Path, tmp_path: Path) -> None:
    path = squad_file(tmp_path / "a.json", questions(300))
    options: dict[str, Any] = {"data": str(path), "objective": "extractive-qa", "workers": 0}
    ticket = find(
        str(tiny_model),
        sparsity=0.3,
        method="one-shot",
        source="theta0",
        replicates=2,
        epochs=12,
        batch_size=8,
        learning_rate=4e-3,
        max_length=20,
        keep_model=True,
        controls="none",
        out=tmp_path / "run",
        **options,
    )
    assert ticket.evidence is not None
    assert ticket.evidence["metric"] == "squad-f1"
    assert ticket.evidence["dense"]["mean"] > 0.8
    assert ticket.evidence["command"].count("--objective extractive-qa") == 1
    assert (
        "pipeline_tag: question-answering"
        in (tmp_path / "run" / "ticket" / "README.md").read_text()
    )
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "run" / "model")
    for name in ticket.mask:
        assert not model.bert.state_dict()[name][~ticket.mask[name]].any()


def test_every_criterion_reads_questions(tiny_model: Path, tmp_path: Path) -> None:
    path = squad_file(tmp_path / "a.json", questions(60))
    for criterion in ("synflow", "grasp"):
        ticket = find(
            str(tiny_model),
            data=str(path),
            objective="extractive-qa",
            workers=0,
            sparsity=0.3,
            method="one-shot",
            source="theta0",
            criterion=criterion,
            replicates=2,
            epochs=1,
            batch_size=8,
            max_length=20,
            controls="none",
            out=tmp_path / criterion,
        )
        assert ticket.mask.sparsity == pytest.approx(0.3, abs=0.001)
