"""What keeps a stranger's JSON, YAML, sizes and names from doing harm; attacks/ tries the doors."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from ticketry import checkpoint as checkpoints
from ticketry.config import fingerprint
from ticketry.errors import DataError, InputError, ModelError, RunError
from ticketry.files import pretty_json, read_regular, replace_folder, sha256_bytes
from ticketry.forms import Number, Whole, faults_of
from ticketry.metrics import get_metric
from ticketry.models.sizes import check_sizes
from ticketry.recordform import FORMS, check_output
from ticketry.steps import Step
from ticketry.store import MANIFEST, RECORD, Store
from ticketry.tasks.base import Split, TaskData
from ticketry.terminal import printable
from ticketry.yamlfile import read_yaml


@pytest.mark.parametrize(
    ("value", "form", "fault"),
    [
        (1.5, Number(), None),
        (True, Number(), "'the whole' is True; expected a finite number"),
        (float("nan"), Number(), "'the whole' is nan; expected a finite number"),
        (1 << 1000, Number(), "'the whole' is a huge number; expected a finite number"),
        (-1, Whole(), "'the whole' is -1; expected a whole number of at least 0"),
        (1.0, Whole(), "'the whole' is 1.0; expected a whole number of at least 0"),
        ({"a": 1, "more": []}, {"a": Whole(), "b?": str}, None),
        ({"a": {}}, {"a": Whole()}, "'a' is an object; expected a whole number of at least 0"),
        ({}, {"a": str}, "'a' is missing"),
        ({"b": None}, {"b?": str}, "'b' is None; expected text"),
        ([["x"], [3]], [[str]], "'[1][0]' is 3; expected text"),
        ({"x": {"y": 3}}, {...: {...: str}}, "'x.y' is 3; expected text"),
        (3, (str, type(None)), "'the whole' is 3; expected text or null"),
        ("z" * 99, Whole(), f"'the whole' is '{'z' * 59}…; expected a whole number of at least 0"),
    ],
)
def test_forms(value: object, form: object, fault: str | None) -> None:
    assert faults_of(value, form) == ([] if fault is None else [fault])


def test_forms_list_several_faults_but_not_all() -> None:
    assert len(faults_of([0] * 9, [str])) == 3


def test_printable() -> None:
    assert printable("a\x1b[2J\r\u202e\ud800\nb\t") == "a�[2J���\nb\t"
    assert printable("a\nb", keep="") == "a�b"


def test_read_regular(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert read_regular(path, 3) == b"abc"
    with pytest.raises(ValueError, match="it has 3 bytes; at most 2 are read"):
        read_regular(path, 2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="it is no regular file"):
        read_regular(tmp_path / "pipe", 9)
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ValueError, match="are read"):  # more than this machine's memory
        read_regular(path, 1 << 62)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nb: *a\n", r"the alias \*a in line 2; write the value out"),
        ("[" * 50_000, "it is nested too deeply"),
        ("a: 2024-99-99", "month must be in 1..12"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable key"),
    ],
)
def test_yaml_of_more_than_plain_values(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_of_plain_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("\ufeffa: [1, 2.5, x]\nb: {c: true}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5, "x"], "b": {"c": True}}


@pytest.mark.parametrize(
    "config",
    [
        {"vocab_size": 2**40},
        {"num_hidden_layers": 10**6},
        {"n_layer": 1025},
        {"text_config": {"max_position_embeddings": 2**30}},
        {"depths": [2, 10**7]},
        {"hidden_sizes": [-(2**40)]},
    ],
)
def test_sizes_that_the_weights_cannot_have(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    with pytest.raises(ModelError, match="expected sizes that its weights can have"):
        check_sizes("m", config, tmp_path)
    check_sizes("m", {"vocab_size": 30_000, "num_hidden_layers": 96, "id2label": {"0": "a"},
                      "max_position_embeddings": 10_000_000}, tmp_path)  # fmt: skip


STEP = Step("dense, seed 1", "replicate", {"seed": 1}, "0" * 64)
GOOD = {
    "seed": 1, "steps": 2, "train_examples": 4, "train_tokens": 9, "mean_loss": 0.5,
    "final_loss": 0.4, "truncated": {}, "mask_digest": None, "validation_score": 0.5,
    "test_score": 0.5, "predictions": [0, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"seed": 2}, "its seed is 2, not 1"),
        ({"predictions": "x"}, "'predictions' is 'x'; expected a list, though its hash fits"),
        ({"test_score": None}, "'test_score' is None; expected a finite number"),
    ],
)
def test_a_record_of_another_form_is_damage(
    tmp_path: Path, change: dict[str, object], reason: str | None
) -> None:
    store = Store(tmp_path)
    store.write(STEP.key, {RECORD: pretty_json({**GOOD, **change})}, {})
    damage = check_output(STEP, store)
    assert (damage is None) == (reason is None)
    assert reason is None or reason in damage.reason  # type: ignore[union-attr]


def test_every_kind_of_step_has_a_form() -> None:
    from ticketry.kinds import KINDS

    assert set(KINDS) == set(FORMS)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b"])
def test_a_manifest_names_only_its_own_files(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    data = pretty_json(GOOD)
    store.write(STEP.key, {RECORD: data}, {})
    entry = {"sha256": sha256_bytes(data), "bytes": len(data)}
    for files, reason in (({RECORD: entry, name: entry}, "it names the file"),
                          ({"x": entry}, "it names no record.json")):  # fmt: skip
        manifest: dict[str, object] = {"key": STEP.key, "files": files}
        manifest["sha256"] = fingerprint(manifest)
        (store.folder(STEP.key) / MANIFEST).write_text(json.dumps(manifest))
        damage = store.check(STEP.key)
        assert damage is not None
        assert damage.reason.startswith(reason)


def test_a_stored_file_that_is_gone_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"mask.safetensors of the stored step 000000000000 cannot"):
        Store(tmp_path).read("0" * 64, "mask.safetensors")


def test_a_folder_may_be_replaced_while_another_writer_does(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    replace_folder(tmp_path / "dangling", {"a": b"1"})
    assert not (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "dangling" / "a").read_bytes() == b"1"


def test_other_data_with_their_own_hash_are_refused(tmp_path: Path) -> None:
    split = Split(("a", "b"), None, (0, 1))
    data = TaskData("n", "s", ("x", "y"), "accuracy", 0.01, split, split, split)
    path = tmp_path / "d.json"
    path.write_text(json.dumps(data.to_json()))
    assert TaskData.read(path, data.sha256) == data
    with pytest.raises(DataError, match="they are other data than those that this run was"):
        TaskData.read(path, "0" * 64)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="is missing or damaged"):
        TaskData.read(path)


def test_a_prediction_beyond_every_class_takes_no_memory() -> None:
    with pytest.raises(InputError, match="predictions below 0 or from 4,096 on"):
        get_metric("accuracy").outputs.read([0, 1], {"w": [0, 10**9]})


def _training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.AdamW(model.parameters())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("optimizer/0/exp_avg", torch.ones(1), "the moment 'optimizer/0/exp_avg' has the shape"),
        ("optimizer/7/step", torch.tensor(1.0), "it has the moments of a parameter '7'"),
        (
            "optimizer/0/other",
            torch.tensor(1.0).expand(2, 3),
            "its moments are neither AdamW's nor SGD's",
        ),
        ("rng/cpu", torch.zeros(3, dtype=torch.uint8), "its random state is not torch's"),
        ("parameter/weight", torch.ones(1, 1), "its tensors are not this model's"),
    ],
)
def test_a_forged_checkpoint_leaves_the_model_as_it_was(
    name: str, tensor: torch.Tensor, message: str
) -> None:
    model, optimizer = _training()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    taken = checkpoints.take(model, optimizer, step=1, tokens=1, examples=1, losses=[0.1]).copied()
    forged = dataclasses.replace(taken, tensors={**taken.tensors, name: tensor})
    fresh, optimizer = _training()
    before = [p.clone() for p in fresh.parameters()]
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(forged, fresh, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, fresh.parameters(), strict=True))
    checkpoints.restore(taken, fresh, optimizer)
    assert torch.equal(fresh.weight, model.weight)  # type: ignore[arg-type]
