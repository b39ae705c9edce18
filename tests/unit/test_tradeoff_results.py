"""The page's table over sparsity says what the records say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import common  # noqa: E402
import packed_values  # noqa: E402
import tradeoff  # noqa: E402


def test_the_table_of_packed_values_is_that_of_the_records() -> None:
    rows = json.loads(packed_values.FILE.read_text(encoding="utf-8"))
    assert common.read_block(packed_values.PAGE, "packed_values") == (
        "\n".join(packed_values.table(rows)) + "\n"
    )


def test_the_table_is_that_of_the_records() -> None:
    assert common.read_block(ROOT / "docs" / "deploy.md", "tradeoff") == (
        "\n".join(tradeoff.table(tradeoff.rows())) + "\n"
    )


def test_every_training_has_its_record() -> None:
    path = ROOT / "results" / "embedded" / "tradeoff" / "scores.json"
    found = [(row["kind"], row["seed"], row["part"]) for row in json.loads(path.read_text("utf-8"))]
    assert found == list(tradeoff.trainings())


def test_the_picture_is_whole() -> None:
    root = ElementTree.parse(tradeoff.PICTURE).getroot()
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"test accuracy", "stored, MB", "90%", "int8, ONNX Runtime"} <= texts
