"""The command line: exit codes, what stands on which stream, and one message for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ticketry import cli
from ticketry.models.families import FAMILIES

ARTIFACT = Path(__file__).parents[1] / "artifact" / "v1"


def test_help_names_every_verb(run) -> None:
    shown = run("--help")
    assert shown.code == 0
    for verb in (
        "find",
        "verify",
        "train",
        "inspect",
        "tasks",
        "models",
        "list",
        "push",
        "pull",
        "compare",
        "connect",
        "doctor",
        "bench",
        "pack",
    ):
        assert verb in shown.out
    assert run("--version").out.startswith("ticketry 0.1.0")


def test_tasks_and_models(run) -> None:
    listed = run("tasks").out.splitlines()
    assert any(line.startswith("movies ") for line in listed)
    assert listed[-1].startswith("simclr/…, moco/…, supervised/…: pre-training on digits, mnist,")
    assert not any(line.startswith("simclr/digits") for line in listed)
    assert {t["name"] for t in json.loads(run("tasks", "--json").out)["tasks"]} >= {
        "movies",
        "amazon",
    }
    families = json.loads(run("models", "--json").out)["families"]
    assert [f["model_type"] for f in families] == sorted(FAMILIES)
    assert {"albert", "bert", "convnext", "llama", "t5", "vit"} < set(FAMILIES)
    assert "minilm" in run("models").out


def test_inspect_a_model_and_a_ticket(run, tiny_model: Path) -> None:
    found = json.loads(run("inspect", tiny_model, "--json").out)
    assert (found["prunable"], len(found["tensors"]), found["scope"]) == (16_384, 12, "encoder")
    assert found["tensors"][0] == {
        "name": "encoder.layer.0.attention.output.dense.weight",
        "shape": [32, 32],
        "kept": 1024,
    }
    ticket = json.loads(run("inspect", ARTIFACT, "--json").out)
    assert (ticket["kept"], ticket["prunable"]) == (9830, 16_384)
    words = run("inspect", ARTIFACT).out
    assert "9,830 of 16,384 prunable weights kept" in words
    assert "non-inferior to dense: inconclusive" in words


def test_plan_prints_and_stops(find, run, tmp_path: Path, tiny_model: Path, reviews: Path) -> None:
    shown = run(
        "find", "--model", tiny_model, "--data", reviews, "--text-column", "review",
        "--label-column", "verdict", "--plan", "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    plan = json.loads(shown.out)
    assert plan["cost"]["trainings"] == 3 + 4 * 3
    assert plan["steps"][0]["kind"] == "level"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": "nan"}, "--sparsity is nan; expected a number in [0, 1)."),
        ({"sparsity": 1}, "--sparsity is 1.0; expected a number in [0, 1)."),
        ({"sparsity": 40}, "Percent are not used: write 0.4 for 40%."),
        ({"replicates": 1}, "--replicates is 1; expected at least 2"),
        ({"levels": 2, "rate": 0.3}, "--levels and --rate were both given"),
        ({"method": "impp"}, "unknown --method 'impp'. Did you mean 'imp'?"),
        ({"controls": "rndom"}, "unknown control 'rndom'. Did you mean 'random'?"),
        ({"data": None, "text-column": None, "label-column": None, "task": "movie"},
         "unknown task 'movie'. Did you mean 'movies'"),
        ({"text-column": "reviw"}, "has no column 'reviw'. Did you mean 'review'?"),
        ({"model": "minilmm"}, "minilm"),
        ({"scope": "encodr"}, "encoder"),
        ({"sparsity": 0.4995, "min-layer-density": 0.5004}, "expected a floor below the density"),
        ({"device": "cuda"}, "torch sees no GPU here"),
        ({"config": "no.yaml"}, "--config no.yaml cannot be read"),
        ({"data": "no.csv"}, "there is no file 'no.csv'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_exit_code_2(
    find, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    if changes.get("device") == "cuda":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
    done = find(**changes)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(("error: ", "  - ")) or "error: " in done.err
    assert message in done.err
    assert done.out == ""
    assert not (tmp_path / "run").exists()


def test_all_faults_at_once(find) -> None:
    done = find(sparsity=2, replicates=1, method="x")
    assert "3 faults in the configuration:" in done.err


def test_a_mistyped_option_or_value(run) -> None:
    wrong = run("find", "--sparsty", "0.4")
    assert (wrong.code, wrong.out) == (2, "")
    assert "No such option: --sparsty" in wrong.err
    value = run("find", "--sparsity", "much")
    assert value.code == 2
    assert "Invalid value for '--sparsity'" in value.err
    verb = run("fnd")
    assert verb.code == 2
    assert "Did you mean 'find'?" in verb.err


def test_verify_and_train_need_out(run) -> None:
    for verb in ("verify", "train"):
        done = run(verb, ARTIFACT, "--task", "movies")
        assert done.code == 2
        assert "error: --out is missing; give the folder to write to." in done.err


def test_a_ticket_of_another_base_is_refused(
    run, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    from tiny import tiny_bert

    other = tiny_bert(tmp_path / "other", seed=5)
    columns = ["--data", reviews, "--text-column", "review", "--label-column", "verdict"]
    done = run(
        "verify", ARTIFACT, "--model", other, *columns, "--workers", 0, "--out", tmp_path / "v"
    )
    assert done.code == 2
    assert "tensors differ from this ticket's base" in done.err


def test_a_folder_that_is_no_ticket(run, tmp_path: Path) -> None:
    done = run("verify", tmp_path, "--task", "movies", "--out", tmp_path / "v")
    assert done.code == 2
    assert "a ticket is a folder with ticket_config.json" in done.err


def test_seeds_that_the_search_used_are_refused(run, tmp_path: Path) -> None:
    # A ticket whose record says that its search used seed 1, which is replicate 1 of --seed 0.
    copy = tmp_path / "ticket"
    shutil.copytree(ARTIFACT, copy)
    from ticketry import Ticket

    ticket = Ticket.from_pretrained(copy)
    evidence = {**(ticket.evidence or {}), "seeds": {"search": [1], "verify": [2]}}
    Ticket(ticket.mask, ticket.base, ticket.spec, evidence).save_pretrained(copy)
    done = run("verify", copy, "--task", "movies", "--out", tmp_path / "v")
    assert done.code == 2
    assert "gives replicates the seeds [1], which this ticket's search used" in done.err


def test_ctrl_c_says_how_to_continue(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ticketry.describe.model_rows", interrupted)
    stopped = run("models")
    assert stopped.code == 130
    assert stopped.err.endswith(
        "interrupted; what was finished is kept, the same command continues.\n"
    )


def test_a_bug_is_not_hidden(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ticketry.describe.model_rows", broken)
    monkeypatch.setattr(sys, "argv", ["ticketry", "models"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_the_module_runs_too() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ticketry.cli", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert result.stdout.startswith("ticketry ")
