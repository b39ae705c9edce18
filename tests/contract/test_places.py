"""Question answering and tags of words in every architecture: trained, saved, or refused."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BertTokenizerFast,
    Qwen2Tokenizer,
)

from architectures import ARCHITECTURES, IMAGES
from ticketry import find
from ticketry import train as train_ticket
from ticketry.core.select import select_global
from ticketry.errors import ModelError
from ticketry.models.heads import check_task_model
from ticketry.models.loading import canonical_parameters, load_backbone, prunable, resolve
from ticketry.recipes import Recipe
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.objectives import workload_for
from ticketry.training import train
from tiny_answers import questions, squad_file
from tiny_tags import conll_file, sentences

RECIPE = Recipe(epochs=1, batch_size=16, learning_rate=0.01, max_length_tokens=32)
LOADERS = {
    "extractive-qa-v2": AutoModelForQuestionAnswering,
    "token-classification": AutoModelForTokenClassification,
}


def base_folder(name: str, tiny_model: Path, out: Path) -> Path:
    config = ARCHITECTURES[name].build_config()
    tokenizer: Any = BertTokenizerFast.from_pretrained(tiny_model)
    if name == "qwen2":
        # transformers reads no other tokenizer beside it: one of letters, and spaces of their own.
        letters = ["<|endoftext|>", "Ġ", *string.ascii_lowercase, *string.digits, "?"]
        vocabulary = {letter: index for index, letter in enumerate(letters)}
        tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=32)
        config.vocab_size = len(letters)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskData]:
    folder = tmp_path_factory.mktemp("data")
    asked = squad_file(folder / "squad.json", questions(90, none=True))
    tagged = conll_file(folder / "a.conll", sentences(90))
    data = {"extractive-qa-v2": str(asked), "token-classification": str(tagged)}
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
    kind = "token classifier" if objective == "token-classification" else "question-answering model"
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


def test_a_whole_run_of_tags(tiny_model: Path, tmp_path: Path) -> None:
    path = conll_file(tmp_path / "a.conll", sentences(200))
    options: dict[str, Any] = {"data": str(path), "objective": "token-classification"}
    ticket = find(
        str(tiny_model),
        sparsity=0.3,
        levels=1,
        replicates=2,
        epochs=14,
        batch_size=8,
        learning_rate=4e-3,
        max_length=16,
        controls="none",
        workers=0,
        out=tmp_path / "run",
        **options,
    )
    evidence = ticket.evidence
    assert evidence is not None
    assert (evidence["metric"], evidence["margin"]) == ("entity-f1", 0.01)
    assert evidence["dense"]["mean"] > 0.8
    assert evidence["data"]["labels"] == ["O", "B-BAD", "I-BAD", "B-GOOD", "I-GOOD"]
    card = (tmp_path / "run" / "ticket" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    record = train_ticket(ticket, workers=0, out=tmp_path / "model", **options)
    assert record["objective"] == "token-classification"
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "model")
    for name in ticket.mask:
        assert not model.bert.state_dict()[name][~ticket.mask[name]].any()


@pytest.mark.parametrize("objective", ["extractive-qa", "token-classification"])
@pytest.mark.parametrize("criterion", ["synflow", "grasp"])
def test_criteria_read_them(
    tiny_model: Path, tmp_path: Path, objective: str, criterion: str
) -> None:
    path = squad_file(tmp_path / "a.json", questions(60))
    if objective == "token-classification":
        path = conll_file(tmp_path / "a.conll", sentences(60))
    ticket = find(
        str(tiny_model),
        data=str(path),
        objective=objective,
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
