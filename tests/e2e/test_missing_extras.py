"""Without an extra's libraries: the feature, and the command that installs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DATA = ["find", "--model", "MODEL", "--text-column", "a", "--label-column", "b", "--plan", "--data"]


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (
            ["jinja2", "matplotlib"],
            ["find", "--model", "minilm", "--task", "movies"],
            "error: the report needs jinja2 and matplotlib, which are not installed here; run: "
            "pip install 'ticketry[report]'",
        ),
        (
            ["datasets"],
            [*DATA, "user/data"],
            "a hub data set needs: pip install 'ticketry[data]'",
        ),
        (
            ["pyarrow"],
            [*DATA, "d.parquet"],
            "parquet needs pyarrow; install it with: pip install 'ticketry[data]'",
        ),
        (
            ["seqeval"],
            [
                "find",
                "--model",
                "MODEL",
                "--objective",
                "token-classification",
                "--data",
                "d.conll",
            ],
            "F1 over entities needs seqeval; install it with: pip install 'ticketry[tags]'",
        ),
        (
            ["onnxruntime"],
            ["export", "MODEL", "--to", "onnx", "--out", "exported"],
            "error: the export to ONNX needs onnxruntime, not installed here; run: pip install "
            "'ticketry[onnx]'",
        ),
    ],
    ids=["report", "datasets", "parquet", "tags", "onnx"],
)
def test_a_missing_extra_is_named_with_how_to_get_it(
    tiny_model: Path, tmp_path: Path, missing: list[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    code = f"""
import importlib.util, sys
class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in {missing!r} else real(name, *a)
sys.argv = {["ticketry", *arguments]!r}
from ticketry.cli import main
main()
""".replace("MODEL", str(tiny_model))
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 2, found.stderr
    assert message in found.stderr
    assert "Traceback" not in found.stderr
