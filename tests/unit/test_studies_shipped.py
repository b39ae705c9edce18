"""The plans that are shipped, and the results page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ticketry.errors import ConfigError
from ticketry.options import read_config
from ticketry.pretrain import build_pretrain_spec
from ticketry.studies.book import book
from ticketry.studies.grid import lay_out
from ticketry.studies.largest import largest_matching
from ticketry.studies.planfile import build_plan, read_plan
from ticketry.studies.spec import SAME
from ticketry.studies.tables import mask_name
from ticketry.yamlfile import read_yaml

ROOT = Path(__file__).parents[2]
MADE_HERE = {
    f"pretrained/{path.stem.removeprefix('pretrain-')}"
    for path in (ROOT / "recipes").glob("pretrain-*.yaml")
}
"""Made by ``ticketry pretrain``, as docs/studies.md says."""
PLANS = sorted((ROOT / "studies").glob("*/*.yaml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_plan_is_whole(path: Path) -> None:
    spec = read_plan(path)
    assert spec.study == path.stem
    if spec.sizes:  # priced without models and data
        grid = lay_out(spec, print, nominal=True)
        assert len(grid.steps) == len({step.key for step in grid.steps}) > 0
        assert all(grid.work(step) >= 0 for step in grid.steps)
        assert sum(map(grid.work, grid.steps)) > 0
    assert spec.sizes or (path.parent.name, path.stem[0]) == ("embedded", "B")
    if path.parent.name == "embedded":
        used = {spec.model, *(options.get("model", spec.model) for options in spec.tasks.values())}
        assert all(model in ("minilm", "lite0") or model in MADE_HERE for model in used)


@pytest.mark.parametrize("model", sorted(MADE_HERE))
def test_a_model_that_plans_use_has_its_recipe(model: str) -> None:
    name = model.removeprefix("pretrained/")
    file = ROOT / "recipes" / f"pretrain-{name}.yaml"
    first = file.read_text().splitlines()[0]
    assert first == f"# ticketry pretrain --config recipes/{file.name} --out {model}"
    spec = build_pretrain_spec(read_config(file, ["stop_at"]))
    assert spec.recipe.epochs == 16
    assert spec.stop_at == {"theta0": 0.0, "simclr-early": 0.05}.get(name, 1.0)
    # Those that C-F8 sets side by side are of one training.
    if spec.stop_at < 1:
        whole = build_pretrain_spec(read_config(ROOT / "recipes" / "pretrain-simclr.yaml"))
        assert dataclasses.replace(spec, stop_at=1.0) == whole


def test_both_scales_have_the_same_rows() -> None:
    scales = {
        name: {p.stem for p in PLANS if p.parent.name == name} for name in ("embedded", "paper")
    }
    # The paper's pre-trainings are long enough to leave their first weights.
    assert scales["embedded"] - {"C-decay"} == scales["paper"]


def test_a_price_without_sizes_says_what_is_missing() -> None:
    spec = build_plan({"study": "x", "model": "minilm", "targets": ["movies", "bbc"]})
    with pytest.raises(ConfigError, match=r"states no sizes of prunable, movies, bbc"):
        lay_out(spec, print, nominal=True)


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"sizes of bbc are .*expected train, validation, test"):
        build_plan(
            {"study": "x", "model": "minilm", "targets": ["bbc"], "sizes": {"bbc": {"train": 1}}}
        )


def test_the_results_page_is_that_of_the_records() -> None:
    found = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert found == book(ROOT / "results"), "run `make results`"


def test_the_papers_tables_have_as_many_columns_as_their_heads() -> None:
    numbers = read_yaml(ROOT / "results" / "paper.yaml")
    for row, known in numbers.items():
        assert (ROOT / "studies" / "paper" / f"{row}.yaml").exists()
        assert all(len(line) == len(known["head"]) for line in known["rows"]), row


def test_the_papers_largest_sparsities_stand_beside_masks_that_a_plan_has() -> None:
    numbers = read_yaml(ROOT / "results" / "paper.yaml")
    for row, known in numbers.items():
        if "largest" not in known:
            continue
        spec = read_plan(ROOT / "studies" / "embedded" / f"{row}.yaml")
        there = {
            f"{mask_name({'arm': arm.name, 'source': source, 'target': target})}, {target}"
            for arm in spec.arms
            for source in arm.sources
            for target in ((source,) if arm.targets == (SAME,) else arm.targets)
        }
        assert set(known["largest"]) <= there, row


def test_the_largest_are_of_curves_of_more_than_one_sparsity() -> None:
    largest = {"matches_paper": 0.4, "matches_strict": None, "noninferior": 0.2}
    curve = {"arm": "imp", "source": "a", "target": "a", "sparsities": [0.2, 0.4],
             "means": [0.9, 0.8], "largest": largest}  # fmt: skip
    one = {**curve, "target": "b", "sparsities": [0.4]}
    unmeasured = {**curve, "means": [None, None]}
    papers = {"X": {"largest": {"imp, a": "70%", "imp, a, b": "60%"}}}
    found = largest_matching([{"study": "X", "curves": [curve, one, unmeasured]}], papers)
    assert [line for line in found.splitlines() if line.startswith("| X")] == [
        "| X | a | imp | 20%, 40% | 40% | – | 20% | 70% |"
    ]
    assert largest_matching([{"study": "X", "curves": [one]}], papers) == ""
