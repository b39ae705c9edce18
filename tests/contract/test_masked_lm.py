"""Masked language modelling on every kind of encoder, and the text that the task ``mlm`` reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertTokenizerFast, pipeline

from architectures import ARCHITECTURES
from ticketry import find, train, verify
from ticketry.assets import cache_dir
from ticketry.models.loading import canonical_parameters, load_backbone, resolve
from ticketry.tasks.base import TaskData
from ticketry.tasks.registry import load_task
from ticketry.tasks.splits import near_duplicate_groups
from tiny_masked import documents_file

SMALL = {
    "objective": "masked-lm", "sparsity": 0.5, "replicates": 2, "epochs": 1.0, "batch_size": 8,
    "learning_rate": 5e-3, "max_length": 16, "workers": 0, "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(documents_file(tmp_path_factory.mktemp("text") / "a.txt", 60))


@pytest.mark.parametrize(
    "kind", ["albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta"]
)
def test_find_on_every_encoder(kind: str, tiny_model: Path, text: str, tmp_path: Path) -> None:
    base = tmp_path / kind
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(ARCHITECTURES[kind].build_config()).save_pretrained(base)
    BertTokenizerFast.from_pretrained(tiny_model).save_pretrained(base)
    ticket = find(str(base), data=text, levels=2, controls=("random-layerwise", "reinit"),
                  keep_model=True, out=tmp_path / "run", **SMALL)  # fmt: skip
    assert ticket.mask.kept == round(0.5 * ARCHITECTURES[kind].weights)
    assert ticket.evidence is not None
    assert (ticket.evidence["metric"], ticket.evidence["margin"]) == ("mlm-accuracy", 0.005)
    assert "pipeline_tag: fill-mask" in (tmp_path / "run" / "ticket" / "README.md").read_text()
    model, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "run" / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    trained = canonical_parameters(model)
    pretrained = canonical_parameters(load_backbone(resolve(str(base))))
    for name in ticket.mask:
        assert not trained[name][~ticket.mask[name]].any()
        assert (trained[name] != pretrained[name])[ticket.mask[name]].float().mean() > 0.8
    filled = pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(base))(
        "the film [MASK] good"
    )
    assert len(filled) == 5


@pytest.mark.parametrize(
    "how",
    [
        {"levels": 2, "rewind": "step", "rewind_step": 1},
        {"levels": 2, "rewind": "lr"},
        {"levels": 2, "rewind": "none"},
        {"method": "gradual", "gradual_updates": 2},
        {"method": "one-shot", "source": "theta0", "criterion": "snip"},
        {"method": "one-shot", "source": "theta0", "criterion": "grasp"},
        {"method": "one-shot", "source": "theta0", "criterion": "synflow"},
        {"method": "one-shot", "source": "theta0", "scope": ["bert-paper"]},
    ],
    ids=lambda how: " ".join(str(value) for value in how.values()),
)
def test_every_search_starts_with_the_head(
    how: dict[str, object], tiny_model: Path, text: str, tmp_path: Path
) -> None:
    ticket = find(str(tiny_model), data=text, controls=(), out=tmp_path / "run", **SMALL, **how)
    assert ticket.sparsity == pytest.approx(0.5, abs=1e-4)
    assert ("pooler.dense.weight" in ticket.mask) is ("scope" in how)
    assert ticket.evidence is not None
    assert ticket.evidence["search"]["cost_dense_equivalents"] > 1 / 3  # the warm-up is in it
    if how.get("rewind") == "step":
        verified = verify(ticket, data=text, out=tmp_path / "verify", seed=1,
                          **{**SMALL, "sparsity": None})  # fmt: skip
        assert verified.evidence is not None
        record = train(ticket, data=text, out=tmp_path / "model", objective="masked-lm", workers=0)
        assert record["objective"] == "masked-lm"


# --- the task mlm --------------------------------------------------------------------------------

TARGETS = ("movies", "amazon", "tweets", "nyt", "bbc")


@pytest.fixture(scope="module")
def corpus() -> TaskData:
    if not all((cache_dir() / name).is_dir() for name in ("hutto-icwsm-2014", "bbc-news")):
        pytest.skip("the packages were not fetched")
    return load_task("mlm")


def test_no_task_is_tested_on_what_mlm_reads(corpus: TaskData) -> None:
    read = [*corpus.train.texts, *corpus.validation.texts, *corpus.test.texts]
    held_out: set[str] = set()
    for name in (*TARGETS, *(f"{name}-rating" for name in TARGETS[:4])):
        data = load_task(name)
        held_out.update(data.validation.texts, data.test.texts)
    assert len(held_out) > 9_000
    assert not held_out & set(read)
    groups = near_duplicate_groups([*read, *held_out])
    assert not set(groups[: len(read)]) & set(groups[len(read) :])


def test_its_own_splits_share_no_near_duplicate(corpus: TaskData) -> None:
    parts = (corpus.train, corpus.validation, corpus.test)
    assert [len(part) for part in parts[1:]] == pytest.approx([500, 1000], abs=5)
    # Every sentence of the rated corpora and every article, but for those held out by a task.
    assert sum(map(len, parts)) > 15_000
    groups = near_duplicate_groups([text for part in parts for text in part.texts])
    sets, start = [], 0
    for part in parts:
        sets.append(set(groups[start : start + len(part)]))
        start += len(part)
    assert sum(map(len, sets)) == len(set(groups))
    assert any("near-duplicates of these, were left out" in note for note in corpus.notes)
    assert (corpus.objective, corpus.metric, corpus.margin) == ("masked-lm", "mlm-accuracy", 0.005)
