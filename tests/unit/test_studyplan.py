"""Plans: what they say, and every fault of one at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ticketry.errors import ConfigError
from ticketry.studies.grid import lay_out
from ticketry.studies.nominal import NominalScenes
from ticketry.studies.planfile import build_plan, read_plan

GOOD: dict[str, Any] = {
    "study": "B-F2",
    "model": "minilm",
    "sources": ["movies", "tweets"],
    "targets": ["movies", "tweets", "bbc"],
    "sparsities": [0.5],
    "arms": {
        "imp": {"method": "imp", "grid": [0.3, 0.5]},
        "theta0": {"method": "one-shot", "from": "theta0"},
        "late": {"method": "imp", "levels": 2, "rewind": "step", "rewind_share": 0.1},
    },
    "controls": {"random-layerwise": {"of": "imp"}, "flips:0.2": {"of": "theta0"}},
}


def faults(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_plan({**GOOD, **changes})
    return list(caught.value.faults)


def test_a_plan_is_read() -> None:
    spec = build_plan(GOOD)
    imp, theta0, late = spec.arms
    assert (imp.sources, imp.masks, imp.fine_tunings) == (("movies", "tweets"), 3, 2)
    assert theta0.sources == ()  # it looks at no task's data
    assert theta0.targets == ("movies", "tweets", "bbc")
    assert late.rewind_share == 0.1
    assert spec.controls[1].of == "theta0"
    assert spec.find_spec("movies", imp, 0.5).search.grid == (0.3, 0.5)
    assert spec.find_spec("movies").recipe.name == "embedded"
    assert build_plan(GOOD).fingerprint == spec.fingerprint
    assert build_plan({**GOOD, "masks": 4}).fingerprint != spec.fingerprint


PLANS = sorted((Path(__file__).parents[2] / "studies").glob("*/*.yaml"))


def test_the_plans_that_are_shipped_can_be_read() -> None:
    assert {path.parent.name for path in PLANS} == {"embedded", "paper"}
    for path in PLANS:
        assert read_plan(path).study == path.stem


def test_a_joint_source_is_priced_by_the_sizes_that_a_plan_states() -> None:
    path = next(p for p in PLANS if (p.parent.name, p.stem) == ("paper", "B-multi"))
    grid = lay_out(read_plan(path), lambda line: None, nominal=True)
    assert ("imp", "mlm+sst2", "rte", 0.7) in {
        (key.arm, key.source, key.target, key.sparsity) for key in grid.cells
    }
    masked, joint = (NominalScenes(read_plan(path)).of(name) for name in ("mlm", "mlm+sst2"))
    assert joint.sizes.train == masked.sizes.train == 160_000
    # A pass through both parts is that of a block and a sentence.
    assert joint.flops_per_pass / masked.flops_per_pass == pytest.approx(537 / 512)


def test_masks_of_one_task_stay_there() -> None:
    spec = build_plan({**GOOD, "targets": "same", "controls": {}})
    assert spec.arms[0].targets == ("same",)
    assert spec.arms[1].targets == ("movies", "tweets")  # a mask of no task goes to all sources


def test_every_fault_is_said_at_once() -> None:
    found = faults(
        maskes=3,
        fine_tunings=0,
        sources=["movis", "tweets"],
        sparsities=[40],
        arms={
            "imp": {"method": "imp", "grid": [0.3, 0.5], "sparsities": [0.4]},
            "odd": {"method": "gradul", "sparsities": [0.5], "colour": 1},
            "late": {"method": "imp", "rewind": "step", "sparsities": [0.5]},
        },
        controls={"randm": {"of": "imp"}, "random": {"of": "impp"}},
        contrasts={"q": {"a": "imp", "b": "none", "margin": 0}},
        sparsity_of={"nowhere": 0.5},
    )
    text = "\n".join(found)
    for part in (
        "the plan has the unknown name 'maskes'",
        "Did you mean masks",
        "the plan: fine_tunings is 0; expected a whole number from 1 on.",
        "the sparsity 40 is no number in [0, 1); write 0.4 for 40%.",
        "arm imp: its grid [0.3, 0.5] does not pass sparsity 0.4; add it to the grid.",
        "arm odd has the unknown name 'colour'",
        "gradul",
        "arm late: rewind: step needs rewind_step or rewind_share",
        "randm",
        "impp",
        "contrast q",
        "margin is 0; expected a number above 0.",
        "nowhere",
        "movis",
    ):
        assert part in text, part


def test_a_contrast_decided_by_overlap_is_of_masks_with_sources() -> None:
    of = {"a": "imp", "margin": 0.01, "decide_by_overlap": True}
    assert build_plan({**GOOD, "contrasts": {"q": {**of, "b": "late"}}}).contrasts[0].a == "imp"
    (fault,) = faults(contrasts={"q": {**of, "b": "theta0"}})
    assert fault == (
        "contrast q: decide_by_overlap compares masks of one source, but those of theta0 have "
        "none; leave it out."
    )
    (fault,) = faults(contrasts={"q": {**of, "b": "late", "decide_by_overlap": "yes"}})
    assert "decide_by_overlap is 'yes'; expected true or false." in fault


def test_unknown_tasks_and_recipes_show_the_nearest() -> None:
    (fault,) = faults(sources=["movis"])
    assert "movis" in fault
    assert "movies" in fault
    found = faults(recipe={"recipe": "papr"})
    assert any("papr" in fault and "paper" in fault for fault in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "holds list; expected `name: value` lines"),
        ("a: [\n", "is not YAML"),
        ("a: &x 1\nb: *x\n", "the alias"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_plan(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize("key", ["study", "model"])
def test_what_is_needed_is_named(key: str) -> None:
    plan = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(ConfigError, match=f"{key} is missing; expected text."):
        build_plan(plan)
