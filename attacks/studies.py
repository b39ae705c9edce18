"""Hostile folders of studies: records and masks that somebody else committed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from harness import HARMLESS, REFUSED, Place, attack, evil_pickle


def _plan(place: Place) -> Path:
    """A study of one search and one ticket, as YAML."""
    data = {"data": str(place.shared / "reviews.csv"), "text_column": "review",
            "label_column": "verdict"}  # fmt: skip
    plan = {
        "study": "small", "model": str(place.shared / "bert"), "tasks": {"t": data},
        "recipe": {"recipe": "paper", "epochs": 0.5, "batch_size": 8, "max_length": 16},
        "masks": 1, "fine_tunings": 1, "half_budget": False, "sources": ["t"], "targets": "same",
        "sparsities": [0.4], "arms": {"imp": {"method": "imp", "grid": [0.4]}},
    }  # fmt: skip
    path = place.folder / "small.yaml"
    path.write_text(json.dumps(plan))
    return path


def _spoiled(place: Place, spoil: Callable[[Path], None]) -> list[str]:
    """Carry a study out, spoil its mask, and return the command that needs the mask again."""
    from ticketry.studies.planfile import read_plan
    from ticketry.studies.running import StudyPlace, run_study

    plan, out = _plan(place), place.folder / "study"
    run_study(read_plan(plan), StudyPlace(out, workers=0, keep_masks=True))
    shutil.rmtree(out / "store")
    records = out / "records.jsonl"
    kept = [line for line in records.read_text().splitlines() if '"imp from t' not in line]
    records.write_text("".join(f"{line}\n" for line in kept))
    (mask,) = (out / "masks").iterdir()
    spoil(mask)
    return ["study", str(plan), "--out", str(out), "--workers", "0"]


def _searched_again(place: Place, said: str) -> str | None:
    (summary,) = place.folder.glob("study/summary.json")
    found = json.loads(summary.read_text())
    whole = found["steps_recorded"] == found["steps"]
    return None if whole else "the study was not carried out"


@attack(HARMLESS, "1 damaged files of", _searched_again)
def pickled_kept_mask(place: Place) -> list[str]:
    """A mask beside a study's records is a pickle: passed over, its search is done again."""
    return _spoiled(place, lambda mask: mask.write_bytes(evil_pickle(place.canary)) and None)


@attack(HARMLESS, "done: imp on t, mask 1: search level 1 of 1", _searched_again)
def kept_mask_is_a_device(place: Place) -> list[str]:
    """A mask beside a study's records is a link to /dev/zero, which never ends: it is no file, its
    search is done again."""

    def link(mask: Path) -> None:
        mask.unlink()
        mask.symlink_to("/dev/zero")

    return _spoiled(place, link)


@attack(HARMLESS, "1 damaged files of", _searched_again)
def another_mask_under_a_name(place: Place) -> list[str]:
    """A whole mask under another one's name: its digest tells, and its search is done again."""
    from ticketry.core.mask import Mask
    from ticketry.maskfile import dump_mask, load_mask

    def swap(mask: Path) -> None:
        found = load_mask(mask.read_bytes())
        mask.write_bytes(dump_mask(Mask({name: ~found[name] for name in found})))

    return _spoiled(place, swap)


@attack(REFUSED, "holds no records.jsonl; expected the folder of a study")
def records_that_are_a_link_to_nothing(place: Place) -> list[str]:
    """`--records` names a folder whose records are a link into the void."""
    other = place.folder / "other"
    other.mkdir()
    (other / "records.jsonl").symlink_to(place.folder / "void")
    return ["study", str(_plan(place)), "--out", str(place.folder / "study"), "--records",
            str(other), "--workers", "0"]  # fmt: skip
