"""Every way to search, in whole runs on a tiny BERT: sparsity, cost, what the ticket carries."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ticketry import Ticket, find, train, verify
from ticketry.arms import arm_mask
from ticketry.bench import Bench
from ticketry.models.loading import canonical_parameters, load_backbone, resolve
from ticketry.options import build_find_spec
from ticketry.scene import prepare
from ticketry.steps import Step, given_mask_key, put_given_mask
from ticketry.store import Store

TASK = {"text_column": "review", "label_column": "verdict"}
SMALL = {"epochs": 1, "batch_size": 16, "learning_rate": 5e-3, "max_length": 16, "workers": 0}
EVALUATION = 24 / 168 / 3  # a round's evaluation: 24 of 168 examples, a third of a pass each
ROUND = 1 + EVALUATION * 168 / 160  # 168 examples make 10 batches of 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("store")


def run(model: Path, data: Path, store: Path, out: Path, **options: Any) -> Ticket:
    given = {"sparsity": 0.5, "replicates": 2, "controls": "none", **TASK, **SMALL, **options}
    return find(str(model), data=str(data), store=store, out=out, **given)


METHODS = {
    "imp": {"levels": 2},
    "grid": {"grid": "0.2,0.3,0.5"},
    "one-shot": {"method": "one-shot"},
    "gradual": {"method": "gradual"},
    "gradual-movement": {"method": "gradual", "criterion": "movement"},
    "gradual-weights": {"method": "gradual", "rewind": "none"},
    "rewind-step": {"rewind": "step", "rewind_step": 3, "levels": 2},
    "rewind-lr": {"rewind": "lr", "levels": 2},
    "rewind-lr-mask": {"rewind": "lr", "levels": 2, "start": "pretrained"},
    "no-rewind": {"rewind": "none", "levels": 2},
    "uniform": {"allocation": "uniform", "levels": 2},
    "erk": {"allocation": "erk", "levels": 2},
    "given": {
        "method": "one-shot",
        "allocation": "given",
        "layer_densities": {"*.attention.*": 0.25, "*": 0.75},
    },
    "2:4": {"method": "one-shot", "pattern": "2:4"},
    "4x4": {"levels": 2, "pattern": "4x4"},
    **{c: {"method": "one-shot", "criterion": c} for c in ("random", "snip", "grasp", "taylor")},
    "synflow": {"method": "one-shot", "source": "theta0", "criterion": "synflow"},
    "snip-theta0": {"method": "one-shot", "source": "theta0", "criterion": "snip"},
    "movement-imp": {"levels": 2, "criterion": "movement"},
}
CARRYING = {"gradual-weights": 0, "rewind-step": 3, "rewind-lr": 0}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_search_leaves_a_verified_ticket_of_exactly_that_sparsity(
    name: str, tiny_model: Path, reviews: Path, store: Path, tmp_path: Path
) -> None:
    options = METHODS[name]
    out = tmp_path / "run"
    ticket = run(tiny_model, reviews, store, out, **options)
    assert ticket.mask.kept == 8192
    assert ticket.mask.prunable == 16_384
    assert ticket.verdict is not None
    loaded = Ticket.from_pretrained(out / "ticket")
    assert loaded.mask == ticket.mask
    assert (loaded.rewind is not None) is (name in CARRYING)
    backbone = load_backbone(resolve(str(tiny_model)))
    loaded.apply_(backbone)
    parameters = canonical_parameters(backbone)
    for tensor in loaded.mask:
        assert int(parameters[tensor][~loaded.mask[tensor]].count_nonzero()) == 0
    if loaded.rewind is not None:
        assert loaded.rewind.step == CARRYING[name]
        bias = "encoder.layer.0.output.dense.bias"
        assert torch.equal(parameters[bias], loaded.rewind.weights[bias])


def test_costs_by_hand(tiny_model: Path, reviews: Path, store: Path, tmp_path: Path) -> None:
    wanted = {
        "imp": 2 * ROUND,
        "one-shot": ROUND,
        "gradual": ROUND,
        "rewind-step": 2 * ROUND - 0.3,  # the second round makes 7 of 10 steps
        "snip-theta0": 1.0,  # 10 batches, all there are
        "grasp": ROUND + 3.0,
        "synflow": 100 * 8 / 160,
    }
    for name, cost in wanted.items():
        ticket = run(tiny_model, reviews, store, tmp_path / name, **METHODS[name])
        assert ticket.evidence is not None
        found = ticket.evidence["search"]["cost_dense_equivalents"]
        assert found == pytest.approx(cost, rel=0.06), name  # texts differ in length


def test_masks_of_the_patterns_keep_to_them(
    tiny_model: Path, reviews: Path, store: Path, tmp_path: Path
) -> None:
    of_four = run(tiny_model, reviews, store, tmp_path / "a", **METHODS["2:4"]).mask
    blocks = run(tiny_model, reviews, store, tmp_path / "b", **METHODS["4x4"]).mask
    for name in of_four:
        assert (of_four[name].reshape(-1, 4).sum(-1) == 2).all()
        rows, columns = blocks.shape(name)
        tiles = blocks[name].reshape(rows // 4, 4, columns // 4, 4).transpose(1, 2)
        assert set(tiles.reshape(-1, 16).sum(-1).tolist()) <= {0, 16}


def test_a_rewound_ticket_is_verified_and_trained_from_its_own_weights(
    tiny_model: Path, reviews: Path, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = run(
        tiny_model, reviews, store, out, **METHODS["rewind-step"] | {"controls": "shuffled"}
    )
    folder = out / "ticket"
    again = verify(
        folder, data=str(reviews), out=tmp_path / "v", replicates=2, workers=0, seed=3, **TASK
    )
    assert again.rewind is not None
    assert first.rewind is not None
    assert again.rewind.step == 3
    assert all(
        torch.equal(again.rewind.weights[n], first.rewind.weights[n]) for n in first.rewind.weights
    )
    assert again.evidence is not None
    record = train(folder, data=str(reviews), out=tmp_path / "model", workers=0, **TASK)
    assert record["steps"] == 7
    assert record["mask_digest"] == first.mask.digest()


CONTROLS = (
    "random-layerwise,random,oneshot-theta0,reinit,reinit-scope,shuffled,complement,flips:0.2,"
    "noise:0.5"
)


def test_every_control_runs_and_says_what_it_is(
    tiny_model: Path, reviews: Path, store: Path, tmp_path: Path
) -> None:
    ticket = run(tiny_model, reviews, store, tmp_path / "run", levels=1, controls=CONTROLS)
    assert ticket.evidence is not None
    controls = ticket.evidence["controls"]
    assert list(controls) == CONTROLS.split(",")
    assert "20% of each layer" in controls["flips:0.2"]["description"]
    assert "0.5 times" in controls["noise:0.5"]["description"]
    assert all(len(control["scores"]) == 2 for control in controls.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(name in page for name in controls)


@pytest.mark.parametrize("pattern", ["4x4", "2:4", "head"])
@pytest.mark.parametrize("rule", ["random", "random-layerwise"])
def test_random_controls_keep_to_the_tickets_pattern(
    rule: str, pattern: str, tiny_model: Path, reviews: Path, store: Path, tmp_path: Path
) -> None:
    method = {} if pattern == "head" else {"method": "one-shot"}
    options = {"levels": 1, **method, "pattern": pattern, "controls": rule}
    ticket = run(tiny_model, reviews, store, tmp_path / "run", **options)
    spec = build_find_spec(
        {"model": str(tiny_model), "data": str(reviews), **TASK, "pattern": pattern}
        | {"method": "one-shot", "sparsity": 0.5}
    )
    scene = prepare(
        spec.model,
        None,
        spec.data,
        spec.recipe,
        spec.scope,
        device="cpu",
        threads=1,
        say=print,
        pattern=pattern,
    )
    kept = Store(tmp_path / "store")
    put_given_mask(kept, ticket.mask)
    bench = Bench(scene.context, kept)
    masks = [
        arm_mask(
            Step(
                name="a control",
                kind="replicate",
                params={"seed": seed, "mask": rule, "pattern": pattern},
                context_key="",
                needs=(given_mask_key(ticket.mask),),
            ),
            bench,
        )
        for seed in range(1, 9)
    ]
    mask = masks[0]
    assert mask is not None
    assert mask.kept == ticket.mask.kept
    # With heads a layer may be kept or pruned whole; then one draw layer by layer is all there is.
    if any(0 < row.kept < row.prunable for row in ticket.mask.layers()):
        assert any(drawn != ticket.mask for drawn in masks)
    if rule == "random-layerwise":
        assert [r.kept for r in mask.layers()] == [r.kept for r in ticket.mask.layers()]
    name = "encoder.layer.0.attention.self.query.weight"  # 32 × 32, heads of 16 rows
    shape = {"4x4": (8, 4, 8, 4), "2:4": (32, 8, 4), "head": (2, 512)}[pattern]
    sums = mask[name].reshape(shape)
    sums = sums.sum((1, 3)) if pattern == "4x4" else sums.sum(-1)
    allowed = {"4x4": {0, 16}, "2:4": {2}, "head": {0, 512}}[pattern]
    assert set(sums.reshape(-1).tolist()) <= allowed


def test_the_command_line_reaches_all_of_it(
    tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    command = (
        f"{sys.executable} -m ticketry.cli find --model {tiny_model} --data {reviews} "
        "--text-column review --label-column verdict --sparsity 0.5 --levels 2 --plan --json "
        "--rewind step --rewind-step 3 --criterion grasp --calibration-batches 2 "
        f"--batch-size 16 --epochs 1 --max-length 16 --out {tmp_path / 'run'}"
    )
    done = subprocess.run(
        shlex.split(command),
        capture_output=True,
        text=True,
        check=True,
    )
    steps = json.loads(done.stdout)["steps"]
    assert [step["train_passes"] for step in steps[:2]] == [160, 112]
    assert [step["calibration_passes"] for step in steps[:2]] == [96, 96]
    assert "criterion grasp, rewind step 3" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewind": "step", "rewind_step": 10}, "--rewind-step is 10, but a training has 10 steps"),
        ({"method": "one-shot", "pattern": "2:5"}, "2:5"),
        (
            {"method": "one-shot", "allocation": "given", "layer_densities": "*.attention.*=0.5"},
            "encoder.layer.0.intermediate.dense.weight",
        ),
        (
            {"method": "one-shot", "allocation": "given", "layer_densities": "*=0.7"},
            "density",
        ),
    ],
)
def test_what_no_selection_can_do_is_said_before_anything_is_spent(
    options: dict[str, Any],
    message: str,
    tiny_model: Path,
    reviews: Path,
    store: Path,
    tmp_path: Path,
) -> None:
    from ticketry.errors import InputError

    if options.get("pattern"):
        options = {**options, "sparsity": 0.6}
    with pytest.raises(InputError) as caught:
        run(tiny_model, reviews, store, tmp_path / "run", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
