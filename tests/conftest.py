"""Fixtures that several tiers use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may reach the network: what is needed is built here or was fetched beforehand.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT in a Hugging Face folder."""
    from tiny import tiny_bert

    return tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 240 labelled sentences."""
    from tiny import reviews_csv

    return reviews_csv(tmp_path_factory.mktemp("data") / "reviews.csv")


class Ran:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process; returns what it left."""
    from ticketry import cli

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ticketry", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def find(run, tiny_model: Path, reviews: Path, tmp_path: Path):
    """Run ``ticketry find`` on good options, some of them changed (None drops one)."""

    def find(**changes: object) -> Ran:
        options: dict[str, object] = {
            "model": tiny_model,
            "data": reviews,
            "text-column": "review",
            "label-column": "verdict",
            "replicates": 2,
            "epochs": 1,
            "workers": 0,
            "out": tmp_path / "run",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        flags = [(f"--{n}", v) for n, v in options.items() if v is not None]
        return run("find", *(part for flag in flags for part in flag))

    return find
