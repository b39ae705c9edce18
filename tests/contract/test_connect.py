"""``ticketry connect`` on a tiny BERT: what differs between the ends, resume, and its messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ticketry import Ticket, cli, connect
from ticketry.bench import Bench
from ticketry.config import derive_seed
from ticketry.core.mask import Mask
from ticketry.errors import ConfigError
from ticketry.execute import Silent, execute
from ticketry.models.loading import (
    base_sha256,
    canonical_parameters,
    load_backbone,
    prunable,
    resolve,
    tensor_hashes,
)
from ticketry.models.weights import HEAD, between, put_weights_, take_weights
from ticketry.steps import WEIGHTS_FILE, Context, Step
from ticketry.store import Store
from ticketry.ticket import Base
from ticketry.weightsfile import load_weights

OPTIONS: dict[str, Any] = {
    "epochs": 4,
    "learning_rate": 1e-2,
    "batch_size": 16,
    "max_length": 16,
}
"""Enough to learn the task at both ends of the ticket's line, and to lose it between them."""


@pytest.fixture(scope="module")
def ticket(tiny_model: Path) -> Ticket:
    """A candidate that keeps half of every matrix."""
    backbone = load_backbone(resolve(str(tiny_model)))
    hashes = tensor_hashes(backbone)
    parameters, draw = canonical_parameters(backbone), torch.Generator().manual_seed(0)
    mask = Mask(
        {
            name: torch.rand(parameters[name].shape, generator=draw) < 0.5
            for name in prunable(backbone, "encoder")
        }
    )
    total = sum(p.numel() for p in backbone.parameters())
    base = Base(str(tiny_model), None, base_sha256(hashes), hashes, "bert", total)
    return Ticket(mask, base)


@pytest.fixture(scope="module")
def columns(reviews: Path) -> dict[str, Any]:
    return {"data": str(reviews), "text_column": "review", "label_column": "verdict"}


@pytest.fixture(scope="module")
def done(
    ticket: Ticket, columns: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("connect") / "run"
    return out, dict(connect(ticket, **columns, **OPTIONS, out=out, workers=0))


def steps_of(out: Path) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((out / "plan.json").read_text())["steps"]
    return steps


def test_the_record_says_what_was_measured(done: tuple[Path, dict[str, Any]]) -> None:
    out, record = done
    assert record == json.loads((out / "connectivity.json").read_text())
    assert (record["metric"], record["margin"], record["split"]) == ("accuracy", 0.01, "validation")
    assert record["head_of_seed"] == 1
    assert set(record["arms"]) == {"ticket", "dense"}
    for arm in record["arms"].values():
        (line,) = arm["lines"]
        assert line["seeds"] == [1, 2]
        assert line["alphas"] == [i / 10 for i in range(11)]
        ends = [end["validation_score"] for end in arm["ends"]]
        assert [line["validation_scores"][0], line["validation_scores"][-1]] == ends
        worst = min(line["validation_scores"])
        assert line["barrier"] == pytest.approx(sum(ends) / 2 - worst)
        assert arm["barrier"] == line["barrier"]
        assert arm["stable"] == (arm["barrier"] <= 0.01 + 1e-12)
    scores = record["arms"]["ticket"]["lines"][0]["validation_scores"]
    assert min(scores) < min(scores[0], scores[-1])
    assert not record["arms"]["ticket"]["stable"]
    assert {step["kind"] for step in steps_of(out)} == {"endpoint", "connectivity"}
    assert "times.json" in {path.name for path in out.iterdir()}


@pytest.fixture(scope="module")
def bench(done: tuple[Path, dict[str, Any]], ticket: Ticket) -> Iterator[Bench]:
    """The run's store, and a bench that can build its models."""
    out, record = done
    store = Store(out / "store")
    context = Context(
        base_name=record["base"]["name"],
        base_revision=None,
        base_sha256="",
        data_sha256=record["data_sha256"],
        scope=tuple(ticket.mask),
        recipe=record["recipe"],
        device="cpu",
        threads=1,
        versions={},
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(context, store)
    torch.set_num_threads(before)


def keys(out: Path, part: str) -> list[str]:
    return [step["key"] for step in steps_of(out) if step["part"] == part]


def test_the_ends_differ_by_noise_alone(done: tuple[Path, dict[str, Any]], bench: Bench) -> None:
    out, _ = done
    for part in ("ticket", "dense"):
        one, two = (bench.store.record(key) for key in keys(out, part))
        assert one["head_seed"] == two["head_seed"]
        assert one["seed"] != two["seed"]
        assert one["mean_loss"] != two["mean_loss"]
        assert one["mask_digest"] == two["mask_digest"]


def test_pruned_weights_are_zero_all_along_the_line_and_the_rest_is_between(
    done: tuple[Path, dict[str, Any]], bench: Bench, ticket: Ticket
) -> None:
    out, record = done
    first, second = (bench.weights_of(key) for key in keys(out, "ticket"))
    assert any(name.startswith(HEAD) for name in first)
    assert any("LayerNorm" in name and not torch.equal(first[name], second[name]) for name in first)
    model = bench.workload.build(5)
    scores = []
    for point in range(11):
        weights = between(first, second, point / 10)
        for name in ticket.mask:
            assert not weights[name][~ticket.mask[name]].any()
        put_weights_(model, weights)
        scores.append(bench.workload.evaluate(model, "validation").score)
    (line,) = record["arms"]["ticket"]["lines"]
    # The ends too: their weights give the scores that their trainings recorded.
    assert scores == line["validation_scores"]


def test_the_first_end_is_the_training_that_verify_makes(
    done: tuple[Path, dict[str, Any]], bench: Bench
) -> None:
    """Putting the first seed's own head into its training changes nothing."""
    out, _ = done
    for part in ("ticket", "dense"):
        end = next(step for step in steps_of(out) if step["part"] == part)
        params = {"seed": 1, "mask": "given" if part == "ticket" else "none"}
        key = bench.context.key
        replicate = Step("replicate", "replicate", params, key, tuple(end["needs"]))
        execute([replicate], bench.context, bench.store, workers=0)
        here, there = bench.store.record(end["key"]), bench.store.record(replicate.key)
        for name in ("head_seed", "mean_loss", "final_loss", "mask_digest", "validation_score"):
            assert here[name] == there[name]


class StopIn(Silent):
    """Presses Ctrl-C in the second step, after its third update."""

    def __init__(self) -> None:
        self.finished_names: list[str] = []

    def finished(self, step: Step, record: Any, seconds: float) -> None:
        self.finished_names.append(step.name)

    def progress(self, step: Step, finished: int, total: int) -> None:
        if len(self.finished_names) == 1 and finished == 3:
            raise KeyboardInterrupt


class Heard(Silent):
    """Notes which steps were done, and from which update on."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}

    def progress(self, step: Step, finished: int, total: int) -> None:
        self.first.setdefault(step.name, finished)


def test_a_run_that_was_stopped_goes_on_at_the_training_it_was_in(
    done: tuple[Path, dict[str, Any]], ticket: Ticket, columns: dict[str, Any], tmp_path: Path
) -> None:
    _, record = done
    call: dict[str, Any] = {**columns, **OPTIONS, "out": tmp_path / "run", "workers": 0}
    with pytest.raises(KeyboardInterrupt):
        connect(ticket, **call, events=StopIn())
    heard = Heard()
    again = connect(ticket, **call, events=heard)
    assert again["arms"] == record["arms"]
    assert "dense, noise of seed 1" not in heard.first
    assert heard.first["dense, noise of seed 2"] == 4
    assert heard.first["ticket, noise of seed 1"] == 1
    heard = Heard()
    assert connect(ticket, **call, events=heard) == again
    assert not heard.first


def test_three_trainings_have_three_lines(
    ticket: Ticket, columns: dict[str, Any], tmp_path: Path
) -> None:
    options = {**OPTIONS, "learning_rate": 5e-3, "replicates": 3}
    record = connect(ticket, **columns, **options, out=tmp_path / "run", workers=0)
    for arm in record["arms"].values():
        assert [line["seeds"] for line in arm["lines"]] == [[1, 2], [1, 3], [2, 3]]
        assert arm["barrier"] == max(line["barrier"] for line in arm["lines"])
        ends = {end["seed"]: end["validation_score"] for end in arm["ends"]}
        for line in arm["lines"]:
            scores = line["validation_scores"]
            assert [scores[0], scores[-1]] == [ends[seed] for seed in line["seeds"]]
    # Else the check above would not see ends that change places.
    assert len({end["validation_score"] for end in record["arms"]["ticket"]["ends"]}) > 1


def test_where_nothing_is_learnt_all_ends_are_the_start_of_the_first_seed(
    ticket: Ticket, columns: dict[str, Any], tmp_path: Path, bench: Bench
) -> None:
    """Updates of 1e-30 move no weight that counts: the ends show what trainings start from."""
    options = {**OPTIONS, "epochs": 0.2, "learning_rate": 1e-30}
    out = tmp_path / "run"
    record = connect(ticket, **columns, **options, out=out, workers=0)
    store = Store(out / "store")
    start = bench.workload.build(derive_seed(1, "head"))
    zeroed = bench.workload.build(derive_seed(1, "head"))
    ticket.apply_(zeroed)
    other = take_weights(bench.workload.build(derive_seed(2, "head")))
    for part, model in (("dense", start), ("ticket", zeroed)):
        expected = take_weights(model)
        assert any(not torch.equal(expected[name], other[name]) for name in other if HEAD in name)
        for key in keys(out, part):
            found = load_weights(store.read(key, WEIGHTS_FILE))
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.allclose(found[name], tensor, rtol=0.0, atol=1e-20), name
        (line,) = record["arms"][part]["lines"]
        assert len(set(line["validation_scores"])) == 1


@pytest.fixture
def run(
    ticket: Ticket,
    columns: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run ``ticketry connect`` on a saved ticket, with some options changed (None drops one)."""
    ticket.save_pretrained(tmp_path / "ticket")

    def run(*flags: str, **changes: object) -> tuple[int, str, str]:
        options = {**columns, "epochs": 1, "workers": 0, "out": tmp_path / "run", **changes}
        words = ["ticketry", "connect", str(tmp_path / "ticket"), *flags]
        for name, value in options.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_command_prints_plan_result_and_record(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = run("--plan", "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["cost"]["trainings"] == 4
    assert not (tmp_path / "run").exists()
    assert "Plan: linear mode connectivity of a ticket at 50." in err
    code, out, err = run()
    assert code == 0, err
    assert err.index("Plan: ") < err.index("done: ")
    lines = out.splitlines()
    assert lines[0].startswith(("Ticket: stable to SGD noise (barrier ", "Ticket: not stable to "))
    assert lines[1].startswith("Dense: ")
    assert (
        "between each two of 2 trainings (noise of seeds 1, 2; all with the head of seed 1)"
        in (lines[2])
    )
    code, again, err = run()
    assert (code, again) == (0, out)
    assert "is finished; nothing was done again" in err
    code, shown, _ = run("--json")
    record = json.loads(shown)
    assert record["arms"]["ticket"]["barrier"] >= 0
    assert record["command"].startswith("ticketry connect TICKET --data ")
    assert "--controls" not in record["command"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": None}, "--out is missing; give the folder to write to."),
        ({"replicates": 1}, "--replicates is 1; expected at least 2"),
        ({"replicates": 0}, "--replicates is 0; expected at least 2"),
        ({"data": None}, "neither --task nor --data was given"),
        ({"epochs": -1, "seed": -1}, "2 faults in the configuration"),
        ({"text_column": "text"}, "text"),
        ({"device": "tpu"}, "unknown --device 'tpu'"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    run: Callable[..., tuple[int, str, str]],
    changes: dict[str, object],
    message: str,
    tmp_path: Path,
) -> None:
    code, out, err = run(**changes)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_another_run_and_another_base_are_refused(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"kind": "verify"}')
    code, _, err = run()
    assert code == 2
    assert "holds a run of another configuration; nothing was changed" in err
    assert 'kind: there "verify", here "connect"' in err
    from tiny import tiny_bert

    other = tiny_bert(tmp_path / "other", seed=1)
    code, _, err = run(model=other, out=tmp_path / "new")
    assert code == 2
    assert not (tmp_path / "new").exists()


def test_options_of_other_verbs_are_refused_by_name(
    ticket: Ticket, columns: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(ticket, **columns, out=tmp_path / "x", controls="random", keep_model=True)
    assert caught.value.faults == (
        "--controls is no option of connect: a barrier is read of the ticket and of dense alone.",
        "--keep-model is no option of connect: every end's weights lie in the store.",
    )
    assert not (tmp_path / "x").exists()
