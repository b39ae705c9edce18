"""Parts of a study: some targets at a time, and what other machines' records count for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ticketry.config import canonical_json, fingerprint
from ticketry.errors import ConfigError, RunError
from ticketry.execute import Silent
from ticketry.studies import adopting
from ticketry.studies.ledger import Ledger
from ticketry.studies.part import part_of
from ticketry.studies.planfile import build_plan
from ticketry.studies.running import StudyPlace, StudyResult, run_study
from ticketry.studies.spec import StudySpec


@pytest.fixture(scope="module")
def spec(tiny_model: Path, reviews: Path) -> StudySpec:
    task = {"data": str(reviews), "text_column": "review", "label_column": "verdict"}
    return build_plan(
        {
            "study": "parts",
            "model": str(tiny_model),
            "recipe": {"recipe": "paper", "epochs": 1, "batch_size": 8, "max_length": 16},
            "tasks": {"a": task, "b": {**task, "epochs": 0.5}, "c": {**task, "epochs": 2}},
            "masks": 2,
            "fine_tunings": 1,
            "half_budget": False,
            "sparsities": [0.4],
            "arms": {
                "own": {"method": "imp", "grid": [0.2, 0.4], "sources": ["a", "b"],
                        "targets": "same"},
                "away": {"method": "imp", "grid": [0.2, 0.4], "sources": ["a"],
                         "targets": ["b", "c"]},
                "theta0": {"method": "one-shot", "from": "theta0", "targets": ["c"]},
            },
            "controls": {"random-layerwise": {"of": "theta0"}},
            "contrasts": {"question": {"a": "away", "b": "theta0", "margin": 0.5}},
        }
    )  # fmt: skip


class Trained(Silent):
    def __init__(self) -> None:
        self.names: list[str] = []

    def begin(self, steps: Any, found: int) -> None:
        self.names += [step.name for step in steps]


def run(spec: StudySpec, out: Path, **place: Any) -> StudyResult:
    return run_study(spec, StudyPlace(out, workers=0, **place))


def named(spec: StudySpec) -> dict[str, tuple[str, ...]]:
    return {arm.name: (*arm.sources, "->", *arm.targets) for arm in spec.arms}


def test_a_part_is_what_reaches_its_targets(spec: StudySpec) -> None:
    part = part_of(spec, ["c"])
    assert named(part) == {"away": ("a", "->", "c"), "theta0": ("->", "c")}
    assert [control.name for control in part.controls] == ["random-layerwise"]
    assert [contrast.name for contrast in part.contrasts] == ["question"]
    part = part_of(spec, ["[a]"])
    assert named(part) == {"own": ("a", "->", "same")}
    assert not part.controls
    assert not part.contrasts
    assert part_of(spec, ["*"]) == spec


def test_unknown_targets_are_said_together(spec: StudySpec) -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*'x'.*Known: a, b, c\..*'d\*'"):
        part_of(spec, ["x", "a", "d*"])


def test_parts_one_after_the_other_are_the_whole(spec: StudySpec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(spec, out, only=("c",))
    assert first.complete
    assert {cell["target"] for cell in first.summary["cells"]} == {"c"}
    assert "on the targets c alone; " in (out / "summary.md").read_text()
    contexts = json.loads((out / "contexts.json").read_text())
    second = run(spec, out, only=("a",))
    assert {cell["target"] for cell in second.summary["cells"]} == {"a"}
    # What is known of the records of the first part stays known.
    assert contexts.items() <= json.loads((out / "contexts.json").read_text()).items()
    trained = Trained()
    whole = run(spec, out, events=trained)
    assert whole.complete
    # Masks that stay on their task, at one sparsity: in a table of their own.
    page = (out / "summary.md").read_text()
    assert "alone; " not in page
    assert "| mask | sparsity | a | b |" in page
    assert len([line for line in page.splitlines() if line.startswith("| own | 40% | ")]) == 1
    done = {cell["target"]: cell["scores"] for cell in first.summary["cells"]}
    assert done["c"] in [cell["scores"] for cell in whole.summary["cells"]]
    assert trained.names
    assert not any(" on a" in name for name in trained.names)
    (out / "contexts.json").write_text("[]")
    run(spec, out)
    assert contexts.items() <= json.loads((out / "contexts.json").read_text()).items()


@pytest.fixture(scope="module")
def measured(spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records without store or masks, whose searches found other masks than this machine would."""
    out = tmp_path_factory.mktemp("measured") / "out"
    run(spec, out, only=("a",))
    shutil.rmtree(out / "store")
    lines = []
    for line in Ledger(out).lines.values():
        if line["kind"] == "level":
            line["record"]["digest"] = fingerprint(line["key"])
        del line["sha256"]
        lines.append({**line, "sha256": fingerprint(line)})
    (out / "records.jsonl").write_text("".join(f"{canonical_json(line)}\n" for line in lines))
    return out


def test_searches_of_another_machine_are_done_here(
    spec: StudySpec, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adopting, "machine_of", lambda node: "another one")
    said: list[str] = []
    trained = Trained()
    # The part that was measured counts, since none of its masks is asked for again.
    part = run(spec, tmp_path / "a", records=(measured,), only=("a",), events=trained)
    assert part.complete
    assert not trained.names
    place = {"records": (measured,), "say": said.append, "events": trained}
    whole = run(spec, tmp_path / "whole", **place)
    assert whole.complete
    assert any("rest on masks that are not kept" in line for line in said)
    assert any("measured in out already" in line for line in said)
    assert any(" on a, mask 1: search" in name for name in trained.names)
    assert any(name.startswith("own from a on a") for name in trained.names)  # of the mask here
    assert not any(name.startswith("dense on a") for name in trained.names)


def test_this_machine_s_own_must_come_out_the_same(
    spec: StudySpec, measured: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="was done again for its mask and found another one"):
        run(spec, tmp_path / "out", records=(measured,))


def test_masks_of_other_studies_are_kept_beside_the_records_too(
    spec: StudySpec, tmp_path: Path
) -> None:
    run(spec, tmp_path / "first", keep_masks=True)
    shutil.rmtree(tmp_path / "first" / "store")
    before = {path.name: path.read_bytes() for path in (tmp_path / "first" / "masks").iterdir()}
    damaged = tmp_path / "first" / "masks" / min(before)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    trained = Trained()
    place = {"records": (tmp_path / "first",), "keep_masks": True, "events": trained}
    assert run(spec, tmp_path / "second", **place).complete
    assert not trained.names
    after = {path.name: path.read_bytes() for path in (tmp_path / "second" / "masks").iterdir()}
    assert after == {name: data for name, data in before.items() if name != damaged.name}
