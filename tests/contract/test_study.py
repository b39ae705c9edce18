"""A study on a tiny model: whole, resumed, damaged, without its store, and by another plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ticketry.errors import ConfigError, RunError, RunMismatchError, ScopeError
from ticketry.execute import Silent
from ticketry.studies.ledger import Ledger
from ticketry.studies.planfile import build_plan
from ticketry.studies.running import StudyPlace, StudyResult, run_study
from ticketry.studies.spec import StudySpec


def plan(model: Path, data: Path, other: Path, **changes: Any) -> StudySpec:
    columns = {"text_column": "review", "label_column": "verdict"}
    return build_plan(
        {
            "study": "toy",
            "model": str(model),
            "recipe": {"recipe": "paper", "epochs": 1, "batch_size": 8, "max_length": 16},
            "tasks": {"a": {"data": str(data), **columns}, "b": {"data": str(other), **columns}},
            "masks": 2,
            "fine_tunings": 2,
            "sources": ["a", "b"],
            "targets": ["a", "b"],
            "sparsities": [0.2, 0.4],
            "arms": {
                "imp": {"method": "imp", "grid": [0.2, 0.4]},
                "theta0": {"method": "one-shot", "from": "theta0", "sparsities": [0.4]},
                "goes-on": {
                    "method": "imp", "grid": [0.2, 0.4], "rewind": "lr", "start": "pretrained",
                    "sources": ["a"],
                },
            },
            "controls": {"random-layerwise": {"of": "imp", "sparsities": [0.4]}},
            "contrasts": {
                "rewind": {"a": "imp", "b": "goes-on", "margin": 0.5, "decide_by_overlap": True}
            },
            **changes,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def other(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = reviews.read_text().splitlines()
    path = tmp_path_factory.mktemp("other") / "b.csv"
    path.write_text("\n".join([lines[0], *lines[:40:-1]]) + "\n")
    return path


@pytest.fixture(scope="module")
def spec(tiny_model: Path, reviews: Path, other: Path) -> StudySpec:
    return plan(tiny_model, reviews, other)


def run(spec: StudySpec, out: Path, **place: Any) -> StudyResult:
    return run_study(spec, StudyPlace(out, workers=0, **place))


@pytest.fixture(scope="module")
def whole(spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run(spec, out)


def test_a_study_is_its_grid(whole: tuple[Path, StudyResult]) -> None:
    out, result = whole
    assert result.complete
    cells = {
        (c["arm"], c["source"], c["target"], c["sparsity"], c["control"]): c
        for c in result.summary["cells"]
    }
    imp = [("imp", s, t, d, None) for s in "ab" for t in "ab" for d in (0.2, 0.4)]
    control = [("imp", s, t, 0.4, "random-layerwise") for s in "ab" for t in "ab"]
    goes_on = [("goes-on", "a", t, d, None) for t in "ab" for d in (0.2, 0.4)]
    theta0 = [("theta0", None, t, 0.4, None) for t in "ab"]
    dense = [("dense", None, t, 0.0, None) for t in "ab"]
    assert set(cells) == {*imp, *control, *goes_on, *theta0, *dense}
    for name, cell in cells.items():
        tunings = 1 if name[-1] else 2
        assert [len(group) for group in cell["scores"]] == [tunings, tunings]
        assert cell["one_mask"] == (name[0] == "theta0")
    # A unit is a mask; a fine-tuning where there is one mask only.
    assert cells["imp", "a", "b", 0.4, None]["against"]["dense"]["units"] == 2
    assert cells["theta0", None, "b", 0.4, None]["against"]["dense"]["units"] == 4
    assert set(cells["imp", "a", "b", 0.4, None]["against"]) == {
        "dense", "same-task", "random-layerwise",
    }  # fmt: skip
    records = Ledger(out)
    assert len(records.lines) == result.summary["steps"] == result.summary["steps_recorded"]
    # dense 2 × 2 × 2, halves 2 × 2, searches (4 + 2) × 2, tickets (8 + 4 + 2) × 4, controls 4 × 2
    assert result.summary["trainings"] == 8 + 4 + 12 + 56 + 8
    assert result.summary["universality"][0]["readings"].keys() == {
        "dense", "same-task",
    }  # fmt: skip
    assert str(out) not in (out / "records.jsonl").read_text()
    assert str(out.parent) not in (out / "contexts.json").read_text()


def test_curves_are_of_each_source_on_each_target(whole: tuple[Path, StudyResult]) -> None:
    out, result = whole
    curves = {(c["arm"], c["source"], c["target"]): c for c in result.summary["curves"]}
    assert set(curves) == {
        *(("imp", s, t) for s in "ab" for t in "ab"),
        *(("goes-on", "a", t) for t in "ab"),
        *(("theta0", None, t) for t in "ab"),
    }
    from_a = next(
        c for c in result.summary["cells"]
        if (c["arm"], c["source"], c["target"], c["sparsity"], c["control"])
        == ("imp", "a", "b", 0.4, None)
    )  # fmt: skip
    assert curves["imp", "a", "b"]["means"][1] == from_a["mean"]
    difference = 100 * from_a["against"]["dense"]["difference"]
    rows = [line for line in (out / "summary.md").read_text().splitlines() if "| b | imp" in line]
    assert [row.split(" | ")[1] for row in rows if row.count("|") == 8] == ["imp, a", "imp"]
    assert f"{difference:+.1f} (" in next(row for row in rows if "imp, a" in row).split(" | ")[3]


def test_means_are_of_masks_and_differences_are_paired(whole: tuple[Path, StudyResult]) -> None:
    _, result = whole
    cells = result.summary["cells"]
    dense = next(c for c in cells if c["arm"] == "dense" and c["target"] == "b")
    cell = next(c for c in cells if (c["arm"], c["source"], c["target"]) == ("imp", "a", "b"))
    means = [sum(group) / 2 for group in cell["scores"]]
    assert cell["mean"] == pytest.approx(sum(means) / 2)
    wanted = cell["mean"] - dense["mean"]  # equal seeds in both, so pairing keeps the mean
    assert cell["against"]["dense"]["difference"] == pytest.approx(wanted)
    found = result.summary["contrasts"][1]
    assert (found["sparsity"], found["searches"]) == (0.4, 2)
    pairs = [
        next(c["mean"] for c in cells if (c["arm"], c["source"], c["target"], c["sparsity"],
             c["control"]) == (arm, "a", target, 0.4, None))
        for target in "ab" for arm in ("imp", "goes-on")
    ]  # fmt: skip
    assert found["difference"] == pytest.approx((pairs[0] - pairs[1] + pairs[2] - pairs[3]) / 2)
    check = found["manipulation_check"]
    assert check["differs"] == (check["between_arms"] > check["between_seeds"])
    assert (found["answer"] == "not decidable at this budget") == (not check["differs"])


def test_the_same_call_does_nothing_again(spec: StudySpec, whole: tuple[Path, StudyResult]) -> None:
    out, result = whole
    before = (out / "records.jsonl").read_bytes()
    again = run(spec, out)
    assert again.complete
    assert again.price["trainings_left"] == 0
    assert again.summary == result.summary
    assert (out / "records.jsonl").read_bytes() == before


def test_records_are_enough_without_the_store(
    spec: StudySpec, whole: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    out, result = whole
    copy = tmp_path / "out"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("store"))
    again = run(spec, copy)
    assert again.complete
    assert again.summary == result.summary
    assert not (copy / "store" / "objects").exists()


def test_a_damaged_record_is_done_again_and_nothing_else(
    spec: StudySpec, whole: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    out, result = whole
    copy = tmp_path / "out"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("store"))
    lines = (copy / "records.jsonl").read_text().splitlines()
    # One edited score of a ticket, and a line that a crash has torn.
    index = next(i for i, line in enumerate(lines) if '"name":"imp from a on b at 40%' in line)
    edited = json.loads(lines[index])
    edited["record"]["test_score"] = 0.99
    torn = lines[-1][: len(lines[-1]) // 2]
    text = "\n".join([*lines[:index], json.dumps(edited), *lines[index + 1 : -1], torn])
    (copy / "records.jsonl").write_text(text)
    said: list[str] = []
    again = run(spec, copy, say=said.append)
    assert any("2 damaged lines" in line for line in said)
    # The masks are gone with the store: the ticket's search of two levels is done again as well,
    # and for the overlaps every mask.
    assert again.complete
    assert again.summary["cells"] == result.summary["cells"]
    assert again.summary["overlaps"] == result.summary["overlaps"]
    assert (copy / "damaged.jsonl").read_text().count("\n") == 2


def test_a_search_done_again_must_find_the_same_mask(
    spec: StudySpec, whole: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    out, _ = whole
    copy = tmp_path / "out"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("store"))
    ledger = Ledger(copy)
    search = next(line for line in ledger.lines.values() if line["kind"] == "level")
    (copy / "records.jsonl").unlink()
    fresh = Ledger(copy)
    from ticketry.steps import Step

    step = Step(search["name"], "level", search["params"], search["context"])
    record = {**search["record"], "digest": "0" * 64}
    object.__setattr__(step, "key", search["key"])
    fresh.add(step, record, 1.0, search["environment"])
    with pytest.raises(RunError, match=r"found another one than its record says"):
        run(spec, copy)


@pytest.fixture(scope="module")
def kept(spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    out = tmp_path_factory.mktemp("kept") / "out"
    return out, run(spec, out, keep_masks=True)


def without(out: Path, copy: Path, *names: str) -> list[str]:
    """Copy a study without its store and without the records whose name holds one of names."""
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("store"))
    lines = (copy / "records.jsonl").read_text().splitlines()
    left = [line for line in lines if not any(name in json.loads(line)["name"] for name in names)]
    (copy / "records.jsonl").write_text("".join(f"{line}\n" for line in left))
    return [json.loads(line)["name"] for line in lines if line not in left]


def timeless(result: StudyResult) -> dict[str, Any]:
    return {name: value for name, value in result.summary.items() if name != "hours"}


class Trained(Silent):
    def __init__(self) -> None:
        self.names: list[str] = []

    def begin(self, steps: Any, found: int) -> None:
        self.names += [step.name for step in steps]


def test_masks_that_were_kept_are_not_searched_again(
    spec: StudySpec, kept: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    out, result = kept
    copy = tmp_path / "out"
    gone = without(out, copy, "imp from a on b at 40%", "goes-on from a", "overlap", "random-lay")
    trained = Trained()
    again = run(spec, copy, events=trained)
    assert again.complete
    assert timeless(again) == timeless(result)
    assert sorted(trained.names) == sorted(gone)
    # A mask of imp's, of goes-on's and of the weights alone: all that anybody reads.
    digests = {
        line["record"]["digest"]
        for line in Ledger(out).lines.values()
        if "digest" in line["record"]
    }
    assert {path.stem for path in (out / "masks").iterdir()} == digests


def test_kept_masks_are_told_by_their_difference_to_the_base_s(
    spec: StudySpec, kept: tuple[Path, StudyResult]
) -> None:
    from ticketry.maskfile import load_mask

    out, _ = kept
    direct = [
        path.stem == load_mask(path.read_bytes()).digest() for path in (out / "masks").iterdir()
    ]
    assert not all(direct)


def test_a_damaged_mask_costs_its_own_search_alone(
    spec: StudySpec, kept: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    out, result = kept
    copy = tmp_path / "out"
    gone = without(out, copy, "imp from a on b at 40%")
    ledger = Ledger(out)
    wanted = "imp on a, mask 1: search level 2 of 2"
    line = next(line for line in ledger.lines.values() if line["name"].startswith(wanted))
    path = copy / "masks" / f"{line['record']['digest']}.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    said: list[str] = []
    trained = Trained()
    again = run(spec, copy, say=said.append, events=trained)
    assert timeless(again) == timeless(result)
    assert any("1 damaged files" in line for line in said)
    searched = [name for name in trained.names if name not in gone]
    # The round before it is kept as a mask, which is all that a round from θ0 reads.
    assert [name.split(",")[1] for name in searched] == [" mask 1: search level 2 of 2"]
    assert path.with_suffix(".damaged").exists()


def test_what_another_study_measured_counts_as_done(
    spec: StudySpec, kept: tuple[Path, StudyResult], tmp_path: Path,
    tiny_model: Path, reviews: Path, other: Path,
) -> None:  # fmt: skip
    out, result = kept
    smaller = plan(tiny_model, reviews, other, sources=["a"], contrasts={})
    said: list[str] = []
    trained = Trained()
    found = run(smaller, tmp_path / "smaller", records=(out,), say=said.append, events=trained)
    assert found.complete
    assert any("were measured in out already" in line for line in said)
    assert all("overlap" in name for name in trained.names)  # of other masks than there
    cells = {c["arm"]: c for c in result.summary["cells"] if c["source"] == "a"}
    assert {c["arm"] for c in found.summary["cells"] if c["source"] == "a"} == set(cells)
    assert all(
        cell in result.summary["cells"] for cell in found.summary["cells"] if cell["control"]
    )


def test_records_that_are_none_are_refused(spec: StudySpec, tmp_path: Path) -> None:
    wrong = (tmp_path / "x", tmp_path / "y")
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*x holds no records.jsonl; expected.*y "):
        run(spec, tmp_path / "out", records=wrong)
    assert not (tmp_path / "out").exists()


def test_another_plan_is_refused(
    whole: tuple[Path, StudyResult], tiny_model: Path, reviews: Path, other: Path
) -> None:
    out, _ = whole
    before = (out / "records.jsonl").read_bytes()
    with pytest.raises(RunMismatchError, match=r"masks: there 2, here 3"):
        run(plan(tiny_model, reviews, other, masks=3), out)
    assert (out / "records.jsonl").read_bytes() == before


def test_time_that_runs_out_leaves_partial_results(spec: StudySpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    part = run(spec, out, max_hours=1e-9)
    assert not part.complete
    assert part.summary["trainings_recorded"] == 0
    dense = next(c for c in part.summary["cells"] if c["arm"] == "dense")
    assert dense["mean"] is None
    with pytest.raises(ConfigError, match=r"--max-hours is 0; expected a number above 0."):
        run(spec, out, max_hours=0)


def test_a_price_writes_nothing(spec: StudySpec, tmp_path: Path) -> None:
    said: list[str] = []
    result = run(spec, tmp_path / "out", plan_only=True, say=said.append)
    assert not (tmp_path / "out").exists()
    assert result.price["trainings"] == result.price["trainings_left"] == 88
    assert any("dense fine-tunings" in line for line in said)


def test_a_control_that_does_not_fit_the_model_is_refused(
    tiny_model: Path, reviews: Path, other: Path, tmp_path: Path
) -> None:
    arms = {"big": {"method": "one-shot", "pattern": "1000x1000", "sparsities": [0.4]}}
    spec = plan(tiny_model, reviews, other, arms=arms, controls={}, contrasts={})
    with pytest.raises(ScopeError, match="1000x1000"):
        run(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_says_what_the_summary_does(
    whole: tuple[Path, StudyResult], spec: StudySpec, tmp_path: Path
) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
    from webpage import Page, check_page

    out, result = whole
    text = (out / "report.html").read_text()
    check_page(text)
    page = Page(text)
    row = next(r for r in page.table("Transfer at 40% sparsity") if r[0] == "imp, a")
    cell = next(
        c
        for c in result.summary["cells"]
        if (c["arm"], c["source"], c["target"], c["sparsity"], c["control"])
        == ("imp", "a", "b", 0.4, None)
    )
    difference = 100 * cell["against"]["dense"]["difference"]
    assert row[2].startswith(f"{difference:+.1f} (")
    assert "Contrasts" in page.tables
    # What is not measured yet is a page too.
    part = run(spec, tmp_path / "part", max_hours=1e-9)
    assert not part.complete
    empty = (tmp_path / "part" / "report.html").read_text()
    assert "0 of 88 trainings recorded" in empty
    assert "None" not in Page(empty).text
    assert "nan" not in Page(empty).text
