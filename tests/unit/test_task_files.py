"""Tasks as YAML files and as registered functions; the guide that shows both is run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ticketry.config import DataSpec
from ticketry.errors import ConfigError, DataError
from ticketry.tasks.registry import TASKS, TaskInfo, load_task, register_task
from ticketry.tasks.sources import data_files, load_data
from tiny_tables import rated, tagged

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-task.md"


def yaml_task(folder: Path, text: str) -> str:
    path = folder / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_yaml_file_beside_its_data(tmp_path: Path) -> None:
    rated(tmp_path / "a.csv")
    path = yaml_task(
        tmp_path,
        "name: stars\ndata: a.csv\ntext_column: text\nlabel-column: stars\n"
        "objective: regression\nmetric: pearson\nmargin: 0.02\n",
    )
    data = load_task(path)
    assert (data.name, data.metric, data.margin) == ("stars", "pearson", 0.02)
    assert (data.objective, data.labels) == ("regression", ("stars",))
    spec = DataSpec(task=path)
    assert load_data(spec, print) == data
    assert [file.name for file in data_files(spec)] == ["task.yaml", "a.csv"]


def test_what_is_left_out_is_the_metrics_own(tmp_path: Path) -> None:
    tagged(tmp_path / "tagged.csv")
    path = yaml_task(
        tmp_path,
        "data: tagged.csv\ntext_column: text\nlabel_columns: [good, bad]\nobjective: multi-label\n",
    )
    data = load_task(path)
    assert (data.name, data.metric, data.margin) == ("tagged", "micro-f1", 0.01)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("- a\n", ["holds list; expected `key: value` lines"]),
        ("a: [\n", ["is not YAML"]),
        ("dat: a.csv\nmetrics: f1\n", ["unknown key 'dat'. Did you mean 'data'", "unknown key"]),
        ("text_column: t\nlabel_column: y\n", ["data is missing; name a file"]),
        ("data: a.csv\nmetric: pearson\nmargin: -1\n",
         ["data needs text_column", "data needs label_column",
          "metric is 'pearson'; expected one of those for classification: accuracy, f1, mcc",
          "margin is -1; expected a number above 0 in the metric's own unit, such as 0.01"]),
        ("data: a.csv\ntext_column: 3\nlabel_columns: a\n",
         ["text_column is 3; expected text", "label_columns is 'a'; expected a list of column na"]),
        ("data: a.csv\ntext_column: t\nlabel_column: y\nmargin: .nan\n", ["margin is nan"]),
        ("data: a.csv\ntext_column: t\nobjective: regresion\n", ["unknown objective 'regresion'"]),
        ("data: a.csv\ntext_column: t\nlabel_column: y\nmargin: !!python/object/apply:os.system "
         "['false']\n", ["is not YAML"]),
    ],
)  # fmt: skip
def test_all_faults_of_a_yaml_file(tmp_path: Path, text: str, faults: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(yaml_task(tmp_path, text))
    assert len(caught.value.faults) == len(faults)
    for wanted, said in zip(faults, caught.value.faults, strict=True):
        assert wanted in said
        assert said.startswith("--task ")


def test_a_yaml_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task .*no.yaml cannot be read: No such file"):
        load_task(str(tmp_path / "no.yaml"))
    with pytest.raises(DataError, match=r"there is no file 'no\.csv'"):
        load_task(yaml_task(tmp_path, "data: no.csv\ntext_column: t\nlabel_column: y\n"))


@pytest.fixture
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(kept)


@pytest.mark.usefixtures("_tasks")
def test_a_registered_task(tmp_path: Path) -> None:
    def load(**options: Any) -> str:
        return f"seed {options['split_seed']}"

    register_task(TaskInfo("mine", "made up", "pearson", load, "regression"))
    assert load_task("mine", split_seed=3) == "seed 3"
    assert TASKS["mine"].unavailable() is None
    with pytest.raises(ConfigError) as caught:
        register_task(TaskInfo("mine", "made up", "accuracy", load, "regression"))
    assert list(caught.value.faults) == [
        "the task name 'mine' is empty or taken; choose another.",
        "task 'mine': the metric 'accuracy' is none of the objective 'regression'; expected one of "
        "pearson, spearman.",
    ]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_guides_yaml_and_module_give_the_same_task(tmp_path: Path) -> None:
    (table,), (task,), (module, use) = blocks("csv"), blocks("yaml"), blocks("python")
    header, *rows = table.strip().splitlines()
    more = [row.replace(",", f" {i},", 1) for i in range(12) for row in rows]
    (tmp_path / "notes.csv").write_text("\n".join([header, *more]) + "\n")
    (tmp_path / "urgency.yaml").write_text(task)
    (tmp_path / "urgency.py").write_text(module)
    code = (
        f"{use}\nimport json\nfrom ticketry.tasks.registry import load_task\n"
        "both = [load_task(name) for name in ('urgency', 'urgency.yaml')]\n"
        "print(json.dumps([[d.sha256, d.name, d.metric, d.margin, len(d.test)] for d in both]))"
    )
    code = code.replace('find("minilm", task="urgency")', "").replace(
        "from ticketry import find", ""
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    one, other = json.loads(ran.stdout.splitlines()[-1])
    assert one == other
    assert one[1:4] == ["urgency", "f1", 0.02]
