"""The whole main job on a tiny real BERT and a CSV, in this process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ticketry import Ticket, find, train, verify
from ticketry.errors import (
    BaseMismatchError,
    ConfigError,
    RunError,
    RunMismatchError,
    TrainingError,
)
from ticketry.execute import Silent
from ticketry.jobs import Place, run_find
from ticketry.options import build_find_spec

COLUMNS = {"text_column": "review", "label_column": "verdict"}
SMALL = {
    **COLUMNS,
    "sparsity": 0.4,
    "levels": 2,
    "replicates": 2,
    "controls": "random-layerwise,random,oneshot-theta0",
    "recipe": "paper",
    "epochs": 5.0,
    "batch_size": 8,
    "learning_rate": 0.004,
    "max_length": 16,
}
WEIGHTS = 16_384  # 2 layers x (4*32*32 + 2*32*64)
KEPT = 9_830  # round(0.6 * 16384) = round(9830.4)


class Heard(Silent):
    """Remember what was run."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.damages: list[str] = []

    def finished(self, step: Any, record: Any, seconds: float) -> None:
        self.names.append(step.name)

    def damaged(self, step: Any, damage: Any) -> None:
        self.damages.append(f"{step.name}: {damage.file.name}")


@pytest.fixture(scope="module")
def run(tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("main") / "run"
    find(str(tiny_model), data=str(reviews), out=out, workers=0, **SMALL)
    return out


def again(run: Path, tiny_model: Path, reviews: Path, **changes: Any) -> tuple[Ticket, Heard]:
    heard = Heard()
    options = {**SMALL, "out": run, "workers": 0, **changes}
    return find(str(tiny_model), data=str(reviews), events=heard, **options), heard


def snapshot(run: Path) -> dict[str, bytes]:
    files = [*(run / "ticket").iterdir()]
    return {path.name: path.read_bytes() for path in files}


def test_the_run_leaves_ticket_report_and_times(run: Path) -> None:
    ticket = Ticket.from_pretrained(run / "ticket")
    assert (ticket.mask.kept, ticket.mask.prunable) == (KEPT, WEIGHTS)
    evidence = ticket.evidence
    assert evidence is not None
    assert (evidence["kept"], evidence["prunable"]) == (KEPT, WEIGHTS)
    assert evidence["seeds"] == {"search": [0], "verify": [1, 2]}
    assert set(evidence["controls"]) == {"random-layerwise", "random", "oneshot-theta0"}
    for arm in (evidence["dense"], evidence["ticket"], *evidence["controls"].values()):
        assert arm["seeds"] == [1, 2]
        assert len(arm["scores"]) == 2
        assert arm["mean"] == pytest.approx(sum(arm["scores"]) / 2)
    assert len(evidence["dense"]["half_budget_validation_scores"]) == 2
    assert [level["sparsity"] for level in evidence["search"]["levels"]] == pytest.approx(
        [1 - 0.6**0.5, 0.4], abs=1e-4
    )
    # Two rounds, each a training and an evaluation of the validation split.
    assert 2.0 < evidence["search"]["cost_dense_equivalents"] < 2.5
    assert ticket.verdict is not None
    assert ticket.verdict.noninferior in ("yes", "no", "inconclusive")
    assert "<html" in (run / "report.html").read_text()
    assert json.loads((run / "times.json").read_text())["wall_s"] > 0


def test_the_dense_model_learns_so_that_the_test_means_something(run: Path) -> None:
    evidence = json.loads((run / "ticket" / "ticket_evidence.json").read_text())
    assert evidence["dense"]["mean"] > 0.8


def test_a_finished_run_returns_at_once(run: Path, tiny_model: Path, reviews: Path) -> None:
    before = snapshot(run)
    ticket, heard = again(run, tiny_model, reviews)
    assert heard.names == []
    assert snapshot(run) == before
    assert ticket.mask.kept == KEPT


def test_an_edited_step_is_named_and_alone_redone(
    run: Path, tiny_model: Path, reviews: Path
) -> None:
    before = snapshot(run)
    plan = json.loads((run / "plan.json").read_text())
    step = next(s for s in plan["steps"] if s["name"] == "ticket, seed 2")
    record = run / "store" / "objects" / step["key"][:2] / step["key"] / "record.json"
    record.write_text(record.read_text() + " ")
    _, heard = again(run, tiny_model, reviews)
    assert heard.damages == ["ticket, seed 2: record.json"]
    assert heard.names == ["ticket, seed 2"]
    assert snapshot(run) == before


def test_an_edited_ticket_is_made_again_without_training(
    run: Path, tiny_model: Path, reviews: Path
) -> None:
    before = snapshot(run)
    (run / "ticket" / "ticket_evidence.json").write_text("{}")
    _, heard = again(run, tiny_model, reviews)
    assert heard.names == []
    assert snapshot(run) == before


def test_a_fresh_run_elsewhere_gives_the_same_bytes(
    run: Path, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    again(tmp_path / "other", tiny_model, reviews)
    mine, other = snapshot(run), snapshot(tmp_path / "other")
    assert mine["ticket_mask.safetensors"] == other["ticket_mask.safetensors"]
    drop = {"command"}  # names the folder
    a = json.loads(mine["ticket_evidence.json"])
    b = json.loads(other["ticket_evidence.json"])
    assert {k: v for k, v in a.items() if k not in drop} == {
        k: v for k, v in b.items() if k not in drop
    }


def test_a_shared_store_trains_nothing_twice(
    run: Path, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    _, heard = again(tmp_path / "b", tiny_model, reviews, store=run / "store", replicates=3)
    assert heard.names
    assert all("seed 3" in name for name in heard.names)


def test_another_configuration_is_refused(run: Path, tiny_model: Path, reviews: Path) -> None:
    with pytest.raises(RunMismatchError, match=r"search.sparsity: there 0.4, here 0.5"):
        again(run, tiny_model, reviews, sparsity=0.5)


def test_a_plan_touches_nothing(tiny_model: Path, reviews: Path, tmp_path: Path) -> None:
    spec = build_find_spec({**SMALL, "model": str(tiny_model), "data": str(reviews)})
    said: list[str] = []
    place = Place(tmp_path / "run", workers=0, say=said.append, plan_only=True)
    result = run_find(spec, place)
    assert result.ticket is None
    assert result.plan["cost"]["trainings"] == 2 + 2 + 2 + 2 + 3 * 2
    assert any("dense fine-tunings" in line for line in said)
    assert not (tmp_path / "run").exists()


def test_the_ticket_applies_to_base_and_task_model(run: Path, tiny_model: Path) -> None:
    ticket = Ticket.from_pretrained(run / "ticket")
    for kind in (AutoModel, AutoModelForSequenceClassification):
        model = kind.from_pretrained(tiny_model)
        keys = list(model.state_dict())
        assert ticket.apply_(model) is model
        assert list(model.state_dict()) == keys
        state = model.state_dict()
        for name in ticket.mask:
            weight = state[name if name in state else f"bert.{name}"]
            assert (weight[~ticket.mask[name]] == 0).all()
            assert (weight[ticket.mask[name]] != 0).all()


def test_another_base_is_refused_with_the_tensors_that_differ(
    run: Path, tmp_path: Path, tiny_model: Path
) -> None:
    from tiny import tiny_bert

    ticket = Ticket.from_pretrained(run / "ticket")
    other = AutoModel.from_pretrained(tiny_bert(tmp_path / "other", seed=1))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(BaseMismatchError, match="tensors differ from this ticket's base"):
        ticket.apply_(other)
    assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())
    ticket.apply_(other, strict=False)
    assert (other.state_dict()[next(iter(ticket.mask))] == 0).any()
    changed = AutoModel.from_pretrained(tiny_model)
    with torch.no_grad():
        changed.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    with pytest.raises(BaseMismatchError, match=r"encoder\.layer\.0\.attention\.self\.query"):
        ticket.apply_(changed)


def test_train_writes_a_sparse_model_that_plain_transformers_loads(
    run: Path, reviews: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    # Without options the ticket's own recipe is used.
    record = train(run / "ticket", data=str(reviews), out=out, workers=0, **COLUMNS)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    ticket = Ticket.from_pretrained(run / "ticket")
    state = model.state_dict()
    zeros = sum(int((state[f"bert.{name}"] == 0).sum()) for name in ticket.mask)
    assert zeros == WEIGHTS - KEPT
    # The same mask, seed and recipe as the run's first ticket replicate: the same training.
    assert ticket.evidence is not None
    assert record["test_score"] == ticket.evidence["ticket"]["scores"][0]
    batch = tokenizer(["the film was great"], return_tensors="pt")
    assert model(**batch).logits.shape == (1, 2)
    assert not (tmp_path / "model.work").exists()
    with pytest.raises(RunError, match="exists and is not empty; nothing was changed"):
        train(run / "ticket", data=str(reviews), out=out, workers=0, **COLUMNS)


def test_verify_judges_a_ticket_by_fresh_replicates(
    run: Path, reviews: Path, tmp_path: Path
) -> None:
    ticket = verify(
        run / "ticket", data=str(reviews), out=tmp_path / "v", workers=0, seed=7,
        replicates=2, controls="random-layerwise", epochs=2.0, **COLUMNS,
    )  # fmt: skip
    assert ticket.evidence is not None
    assert ticket.evidence["seeds"] == {"search": [0], "verify": [7001, 7002]}
    assert ticket.evidence["search"]["method"] == "imp"
    recipe = ticket.evidence["recipe"]
    assert (recipe["epochs"], recipe["learning_rate"]) == (2.0, SMALL["learning_rate"])
    found = Ticket.from_pretrained(run / "ticket")
    assert ticket.mask == found.mask


def test_a_loss_that_is_not_finite_stops_and_the_run_stays_resumable(
    tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="loss"):
        again(tmp_path / "run", tiny_model, reviews, learning_rate=1e30, controls="none")
    assert (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "run" / "ticket").exists()


def test_keep_model_keeps_the_first_ticket_replicate(
    tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    ticket, _ = again(
        tmp_path / "run", tiny_model, reviews, keep_model=True, controls="none", levels=1
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    name = next(iter(ticket.mask))
    assert (model.state_dict()[f"bert.{name}"][~ticket.mask[name]] == 0).all()
    assert ticket.verdict is not None
    assert ticket.verdict.winning is None  # without random-layerwise it cannot be told


def test_workers_below_zero(tiny_model: Path, reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers is -1; expected 0"):
        again(tmp_path / "run", tiny_model, reviews, workers=-1)


def test_interrupted_and_continued_gives_the_same_bytes(
    run: Path, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    class Stop(Silent):
        left = 3

        def progress(self, step: Any, done: int, total: int) -> None:
            if done > 5:
                Stop.left -= 1
                if Stop.left <= 0:
                    raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        find(str(tiny_model), data=str(reviews), out=out, workers=0, events=Stop(), **SMALL)
    assert not (out / "ticket").exists()
    ticket, _ = again(out, tiny_model, reviews)
    name = "ticket_mask.safetensors"
    assert snapshot(out)[name] == snapshot(run)[name]
    assert ticket.evidence is not None
    mine = json.loads((run / "ticket" / "ticket_evidence.json").read_text())
    assert ticket.evidence["ticket"] == mine["ticket"]


def test_specs_are_frozen() -> None:
    spec = build_find_spec({"model": "minilm", "task": "movies"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.seed = 1  # type: ignore[misc]
