"""GLUE and other data sets of the hub, from a folder in its layout; never from the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_layout import little_glue, offline_cache, write_parquet
from ticketry.errors import DataError
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.hub import GLUE, HUB_TASKS, load_hub_task
from ticketry.tasks.registry import TASKS


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_glue(tmp_path_factory.mktemp("hub") / "glue")


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline_cache(monkeypatch, tmp_path / "cache")


def quiet(line: str) -> None:
    pass


def load(name: str, glue: Path) -> TaskData:
    return load_hub_task(name, split_seed=0, say=quiet, source=str(glue))


def sizes(data: TaskData) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


def test_glues_nine_are_named_with_their_own_metrics() -> None:
    names = [name for name in HUB_TASKS if name.startswith("glue/")]
    assert {HUB_TASKS[name].config for name in names} == {
        "cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"
    }  # fmt: skip
    metrics = {name: TASKS[name].metric for name in names}
    assert metrics.pop("glue/cola") == "mcc"
    assert metrics.pop("glue/stsb") == "pearson"
    assert set(metrics.values()) == {"accuracy"}
    for name in HUB_TASKS:
        task = HUB_TASKS[name]
        assert (TASKS[name].metric, TASKS[name].objective) == (task.metric, task.objective)
        assert TASKS[name].margin == (0.005 if name == "wikitext" else 0.01)


def test_what_is_tested_on_is_glues_validation_and_the_hidden_test_is_left_alone(
    glue: Path,
) -> None:
    data = load("glue/cola", glue)
    assert sizes(data) == [54, 6, 14]
    assert (data.name, data.metric, data.margin) == ("glue/cola", "mcc", 0.01)
    assert data.labels == ("acceptable", "unacceptable")
    whole = load_file(str(glue), text_column="sentence", label_column="label", config="cola")
    # Without a test split named, the hidden one is noticed, and validation stays validation.
    assert len(whole.validation) == 14
    assert "the test split hides its labels and was not used" in whole.notes
    assert not set(data.test.texts) & set(data.train.texts)


def test_wikitext_is_text_without_labels(tmp_path: Path) -> None:
    folder = tmp_path / "wikitext"
    front = "---\nconfigs:\n- config_name: wikitext-103-raw-v1\n  data_files:\n"
    for part, size in (("train", 30), ("validation", 8), ("test", 9)):
        rows = [{"text": "" if i % 3 == 0 else f" {part} text {i}\n"} for i in range(size)]
        write_parquet(folder / "wikitext-103-raw-v1" / f"{part}.parquet", rows)
        front += f"  - split: {part}\n    path: wikitext-103-raw-v1/{part}.parquet\n"
    (folder / "README.md").write_text(front + "---\n")
    data = load_hub_task("wikitext", split_seed=0, say=quiet, source=str(folder))
    assert (data.objective, data.metric, data.margin) == ("masked-lm", "mlm-accuracy", 0.005)
    assert sizes(data) == [20, 5, 6]
    assert data.train.labels == data.labels == ()
    assert "10 train examples without a text were left out" in data.notes


def test_numbers_and_pairs(glue: Path) -> None:
    data = load("glue/stsb", glue)
    assert (data.objective, data.metric) == ("regression", "pearson")
    assert data.test.pairs is not None
    assert len(data.test) == 14
    assert all(0 <= label <= 5 for label in data.test.labels)
    assert any(not label.is_integer() for label in data.test.labels)


def test_mnlis_two_splits_stay_apart(glue: Path) -> None:
    matched, mismatched = (load(f"glue/mnli-{kind}", glue) for kind in ("matched", "mismatched"))
    assert (len(matched.test), len(mismatched.test)) == (12, 15)
    assert matched.labels == ("contradiction", "entailment", "neutral")
    assert matched.train == mismatched.train or set(matched.train.texts) & set(
        mismatched.train.texts
    )
    assert not set(matched.test.texts) & set(mismatched.test.texts)
    assert matched.sha256 != mismatched.sha256


def test_a_configuration_and_a_split_of_any_data_set(glue: Path) -> None:
    data = load_file(
        str(glue), text_column="premise", text_pair_column="hypothesis", label_column="label",
        config="mnli", test_split="validation_matched",
    )  # fmt: skip
    assert len(data.test) == 12
    assert data.source.endswith("(mnli)")


def test_empty_texts_of_a_named_task_are_left_out_and_counted(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    rows = [{"text": f"post {i} on {'cars' if i % 2 else 'ice'}", "label_text": f"g{i % 2}"}
            for i in range(60)]  # fmt: skip
    write_parquet(groups / "train.parquet", [*rows, {"text": " ", "label_text": "g0"}])
    write_parquet(groups / "test.parquet", [{"text": "a new one", "label_text": "g1"}])
    data = load_hub_task("newsgroups", split_seed=0, say=quiet, source=str(groups))
    assert "1 train examples without a text were left out" in data.notes
    assert data.test.texts == ("a new one",)
    with pytest.raises(DataError, match="1 missing texts in column 'text'"):
        load_file(str(groups), text_column="text", label_column="label_text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"has several configurations; name one with --data-config: .*'cola'"),
        ({"config": "colla"}, r"neither a file here nor a data set that could be loaded: .*colla"),
        ({"config": "mnli", "test_split": "validation_match"},
         r"has the splits 'train', .*; expected 'validation_match' among them. Did you mean "
         r"'validation_matched'"),
        ({"config": "cola", "test_split": "train"}, r"--test-split is 'train', which is trained"),
        ({"config": "cola", "test_split": "test"}, r"hides its labels \(all are -1\)"),
    ],
)  # fmt: skip
def test_bad_configurations_and_splits(glue: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_file(str(glue), text_column="sentence", label_column="label", **options)


def test_a_file_has_neither(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n")
    for option, shown in (("config", "--data-config"), ("test_split", "--test-split")):
        with pytest.raises(DataError, match=f"{shown} was given, but .* is a file"):
            load_file(str(path), text_column="text", label_column="label", **{option: "x"})


def test_absent_data_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_hub_task("glue/cola", split_seed=0, say=quiet, source=str(tmp_path / "none" / "glue"))
    assert "task 'glue/cola'" in str(caught.value)
    assert ". It needs the network once, or" in str(caught.value)
    assert f"HF_DATASETS_CACHE with {GLUE} in it" in str(caught.value)
    assert "--data FOLDER --data-config cola" in str(caught.value)
