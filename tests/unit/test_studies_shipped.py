"""The plans that are shipped, and the results page."""

from __future__ import annotations

from pathlib import Path

import pytest

from ticketry.errors import ConfigError
from ticketry.studies.book import book
from ticketry.studies.grid import lay_out
from ticketry.studies.planfile import build_plan, read_plan
from ticketry.yamlfile import read_yaml

ROOT = Path(__file__).parents[2]
MADE_HERE = {f"pretrained/{name}" for name in
             ("simclr", "moco", "theta0", "simclr-early", "simclr-wide")}  # fmt: skip
"""Made by ``ticketry pretrain``, as docs/studies.md says."""
PLANS = sorted((ROOT / "studies").glob("*/*.yaml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_plan_is_whole(path: Path) -> None:
    spec = read_plan(path)
    assert spec.study == path.stem
    if path.parent.name == "paper":
        grid = lay_out(spec, print, nominal=True)
        assert len(grid.steps) == len({step.key for step in grid.steps}) > 0
        assert all(grid.work(step) >= 0 for step in grid.steps)
    else:
        used = {spec.model, *(options.get("model", spec.model) for options in spec.tasks.values())}
        assert all(model in ("minilm", "lite0") or model in MADE_HERE for model in used)


def test_both_scales_have_the_same_rows() -> None:
    scales = {
        name: {p.stem for p in PLANS if p.parent.name == name} for name in ("embedded", "paper")
    }
    assert scales["embedded"] == scales["paper"]


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
