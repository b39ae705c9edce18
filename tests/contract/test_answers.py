"""Extractive question answering: SQuAD's layouts, windows, best spans, and its own scores."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, ByT5Tokenizer

from hub_layout import offline_cache, write_parquet
from ticketry.config import DataSpec, check_data
from ticketry.errors import ConfigError, DataError, InputError, ModelError, TrainingError
from ticketry.forms import faults_of
from ticketry.metrics import METRICS
from ticketry.metrics.answers import words_of
from ticketry.models.loading import load_tokenizer, resolve
from ticketry.recipes import Recipe
from ticketry.recordform import FORMS
from ticketry.tasks import windows
from ticketry.tasks.answers import load_answers
from ticketry.tasks.base import Split, TaskData, strata
from ticketry.tasks.extraction import ExtractiveQA
from ticketry.tasks.files import load_file
from ticketry.tasks.hub import load_hub_task
from ticketry.tasks.objectives import block_counts, workload_for
from ticketry.tasks.windows import (
    answer_tokens,
    best_spans,
    encode_windows,
    question_limit,
    step_of,
)
from ticketry.training import train
from tiny_answers import little_squad, questions, squad_file

RECIPE = Recipe(epochs=14, batch_size=8, max_length_tokens=16, learning_rate=4e-3)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline_cache(monkeypatch, tmp_path / "cache")


def gold(*texts: str) -> tuple[tuple[str, int], ...]:
    return tuple((text, 0) for text in texts)


# --- the scores of SQuAD's scripts, worked by hand -----------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("The Eiffel Tower!", ["eiffel", "tower"]),
        ("an apple,  a  pear", ["apple", "pear"]),
        ("U.S.", ["us"]),
        ("it's", ["its"]),
        ("the-end", ["theend"]),  # punctuation goes before articles are looked for
        ("A", []),
        ("Theatre", ["theatre"]),
        ("“Rome”", ["“rome”"]),  # only ASCII's punctuation is left out
        ("\u00a01990\n", ["1990"]),
    ],
)
def test_words_as_the_scripts_compare_them(answer: str, words: list[str]) -> None:
    assert words_of(answer) == words


@pytest.mark.parametrize(
    ("answers", "prediction", "f1", "exact"),
    [
        (gold("Denver Broncos"), "the Denver Broncos.", 1.0, 1.0),
        # 1 word shared of 2 and of 3: precision 1/3, recall 1/2.
        (gold("Denver Broncos"), "in Denver Colorado", 0.4, 0.0),
        # Words count as often as they stand: 1 shared of 2 and 1.
        (gold("new york"), "New", 2 / 3, 0.0),
        (gold("very very good"), "very good", 0.8, 0.0),
        # The best of several answers.
        (gold("1990", "in 1990", "May 1990"), "in May 1990", 0.8, 0.0),
        (gold("1990", "in May, 1990"), "in May 1990", 1.0, 1.0),
        (gold("Paris"), "London", 0.0, 0.0),
        (gold("Paris"), "", 0.0, 0.0),
    ],
)
def test_both_scripts_on_a_question_with_an_answer(
    answers: Any, prediction: str, f1: float, exact: float
) -> None:
    for name in ("squad", "squad-v2"):
        assert METRICS[f"{name}-f1"].fn([answers], [prediction]) == pytest.approx(f1)
        assert METRICS[f"{name}-em"].fn([answers], [prediction]) == exact


@pytest.mark.parametrize(
    ("answers", "prediction", "first", "second"),
    [
        # (F1, exact match) of version 1.1 and of version 2.
        (gold("the"), "a", (0.0, 1.0), (1.0, 1.0)),
        (gold("the"), "", (0.0, 1.0), (1.0, 1.0)),
        (gold("the", "Rome"), "", (0.0, 1.0), (0.0, 0.0)),
        ((), "", None, (1.0, 1.0)),
        ((), "the", None, (1.0, 1.0)),
        ((), "Rome", None, (0.0, 0.0)),
    ],
)
def test_where_the_two_scripts_differ(
    answers: Any, prediction: str, first: Any, second: Any
) -> None:
    for name, wanted in (("squad", first), ("squad-v2", second)):
        if wanted is not None:
            metrics = METRICS[f"{name}-f1"], METRICS[f"{name}-em"]
            assert tuple(metric.fn([answers], [prediction]) for metric in metrics) == wanted


def test_the_mean_is_over_questions_and_in_shares() -> None:
    labels = [gold("Rome"), gold("Denver Broncos"), gold("x")]
    assert METRICS["squad-f1"].fn(labels, ["Rome", "Denver", "y"]) == pytest.approx(5 / 9)
    assert METRICS["squad-em"].fn(labels, ["Rome", "Denver", "y"]) == pytest.approx(1 / 3)
    assert (METRICS["squad-f1"].margin, METRICS["squad-f1"].percent) == (0.01, True)


@pytest.mark.parametrize(
    ("labels", "run", "message"),
    [
        ([gold("x")], ["x", "y"], "the run: 2 predictions for 1 test examples"),
        ([gold("x")], [3], "the run has predictions of another kind; expected answers' texts"),
        ([], [], "the test labels are empty or not lists of answers"),
        ([1], ["x"], "not lists of answers and their places"),
        ([()], ["x"], "a test question has no answer"),
    ],
)
def test_records_of_another_kind_are_refused(labels: Any, run: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        METRICS["squad-f1"].outputs.read(labels, {"the run": run})


# --- reading -------------------------------------------------------------------------------------


def test_squad_from_the_hubs_layout(tmp_path: Path) -> None:
    folder = little_squad(tmp_path / "squad", size=300)
    data = load_hub_task("squad", split_seed=0, say=str, source=str(folder))
    assert (data.name, data.objective, data.metric, data.margin) == (
        "squad", "extractive-qa", "squad-f1", 0.01
    )  # fmt: skip
    assert [len(part) for part in (data.train, data.validation, data.test)] == [276, 24, 30]
    assert data.test.pairs is not None
    assert len(set(data.test.pairs)) == 10
    for question, context, answers in zip(
        data.test.texts, data.test.pairs, data.test.labels, strict=True
    ):
        ((text, start),) = answers
        assert context[start:].startswith(text)
        assert question.split()[1] in ("good", "bad")
    # 25 articles of 12 questions: whole ones are held out.
    assert "questions on one article stay on one side of the split" in data.notes
    assert data.validation.pairs is not None
    assert data.train.pairs is not None
    assert not set(data.validation.pairs) & set(data.train.pairs)
    again = TaskData.from_json(json.loads(json.dumps(data.to_json())))
    assert again == data
    assert again.sha256 == data.sha256


def test_squad_v2_has_questions_without_an_answer(tmp_path: Path) -> None:
    folder = little_squad(tmp_path / "squad", none=True)
    data = load_hub_task("squad_v2", split_seed=0, say=str, source=str(folder))
    assert (data.objective, data.metric) == ("extractive-qa-v2", "squad-v2-f1")
    assert 0 < data.test.labels.count(()) < 30
    assert any(note.endswith("of 30 test questions have no answer") for note in data.notes)
    assert strata(data.test) == [int(bool(answers)) for answers in data.test.labels]
    # A part of the training questions keeps the share of those without an answer.
    share = data.train.labels.count(()) / len(data.train)
    part = data.limited(60, seed=1).train
    assert part.labels.count(()) == round(60 * share)
    assert strata(Split(("a", "b"), ("c", "d"), ((), ()))) == [0, 0]


def test_one_door_for_squads_own_files_json_lines_and_other_names(tmp_path: Path) -> None:
    rows = questions(120, none=True)
    whole = load_file(str(squad_file(tmp_path / "train.json", rows)), objective="extractive-qa-v2")
    assert whole.name == "train"
    assert "questions on one context stay on one side of the split" in whole.notes
    lines = tmp_path / "train.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    assert load_file(str(lines), objective="extractive-qa-v2").sha256 == whole.sha256
    renamed = [{"q": r["question"], "c": r["context"], "a": r["answers"]} for r in rows]
    lines.write_text("\n".join(map(json.dumps, renamed)))
    again = load_file(
        str(lines), text_column="q", text_pair_column="c", label_column="a",
        objective="extractive-qa-v2", metric="squad-v2-em", margin=0.02, name="mine",
    )  # fmt: skip
    assert again.sha256 == whole.sha256
    assert (again.metric, again.margin, again.name) == ("squad-v2-em", 0.02, "mine")
    known = [row for row in rows if row["answers"]["text"]]
    test = squad_file(tmp_path / "dev.json", questions(30, seed=5))
    data = load_file(
        str(squad_file(tmp_path / "b.json", known)), objective="extractive-qa", test_data=str(test)
    )
    assert len(data.test) == 30


def test_training_questions_that_are_tested_on_are_left_out(tmp_path: Path) -> None:
    rows = questions(90)
    train, test = tmp_path / "a.json", tmp_path / "b.json"
    squad_file(train, rows)
    squad_file(test, rows[:6])
    data = load_answers(str(train), test_data=str(test))
    assert len(data.train) + len(data.validation) == 84
    assert any(note.startswith("6 training questions that also stand") for note in data.notes)


def test_spaces_of_a_context_count_and_empty_questions_of_a_named_task_are_dropped(
    tmp_path: Path,
) -> None:
    rows = questions(60)
    rows[0] |= {
        "context": "  good x",
        "answers": {"text": ["good", "good"], "answer_start": [2] * 2},
    }
    rows.append({**rows[5], "question": " "})
    write_parquet(tmp_path / "d" / "train.parquet", rows)
    write_parquet(tmp_path / "d" / "validation.parquet", questions(30, seed=3))
    data = load_hub_task("squad", split_seed=0, say=str, source=str(tmp_path / "d"))
    assert "1 train questions without a text were left out" in data.notes
    at = (*data.train.labels, *data.validation.labels).index((("good", 2),))
    assert ((*data.train.pairs, *data.validation.pairs))[at] == "  good x"  # type: ignore[misc]
    with pytest.raises(DataError, match="has 1 missing questions in column 'question'"):
        load_file(str(tmp_path / "d"), objective="extractive-qa", test_split="validation")


def edited(row: int, **changes: Any) -> list[dict[str, Any]]:
    rows = copy.deepcopy(questions(60))
    rows[row] |= changes
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (edited(7, context="all good here", answers={"text": ["good"], "answer_start": [5]}),
         r"question 'q0-7': the answer 'good' is said to begin at character 5 of its context "
         r"\(13 characters\), which has 'ood ' there; it stands at 4. Places count characters"),
        (edited(7, answers={"text": ["nowhere"], "answer_start": [900]}),
         r"'q0-7': the answer 'nowhere' .* character 900 .* has '' there; it stands nowhere in it"),
        (edited(7, answers={"text": ["good"], "answer_start": [-4]}), r"at character -4 of its"),
        (edited(7, answers={"text": [], "answer_start": []}),
         r"question 'q0-7' has no answer; --objective extractive-qa expects at least one.*"
         r"--objective extractive-qa-v2 \(as the task squad_v2 does\)"),
        (edited(7, answers={"text": [" "], "answer_start": [3]}),
         r"'q0-7' has an answer that is empty \(' '\); expected some of its context\."),
        (edited(7, answers={"text": ["a", "b"], "answer_start": [3]}),
         r"'q0-7': its answers are .*; expected texts and the places of their first characters"),
        (edited(7, answers=["good"]), r"'q0-7': its answers are \['good'\]; expected texts and"),
        (edited(7, answers={"text": ["good"], "answer_start": [True]}), "expected texts and the"),
        (edited(7, id=None, answers="good"), r"row 8: its answers are 'good'"),
        (edited(7, question=None), r"1 missing questions in column 'question' \(rows 8\)"),
        (edited(7, context=" "), r"1 missing contexts in column 'context'"),
        ([{**row, "answer": row["answers"]} for row in questions(9)][:0], "has no rows"),
        ([{"question": "q", "context": "c", "answer": {}}],
         "no column 'answers'. Did you mean 'answer'"),
        (questions(9), r"has 9 training questions with an answer; expected at least 20"),
    ],
)  # fmt: skip
def test_bad_questions_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message):
        load_file(str(path), objective="extractive-qa")


def test_an_empty_answer_in_version_2_and_a_squad_file_of_another_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = edited(7, answers={"text": [""], "answer_start": [3]})
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"is empty \(''\); .* context, or no answer at all"):
        load_file(str(path), objective="extractive-qa-v2")
    path = tmp_path / "a.json"
    path.write_text('{"version": "1.1", "data": [{"title": "t", "paragraphs": [{"qas": []}, 3]}]}')
    with pytest.raises(DataError, match=r"not in SQuAD's layout \(TypeError: .*expected data:"):
        load_file(str(path), objective="extractive-qa")


def test_columns_are_optional_and_sets_of_labels_none() -> None:
    assert check_data(DataSpec(data="a.json", objective="extractive-qa")) == []
    columns = {"text_column": "q", "text_pair_column": "c", "label_column": "a"}
    assert check_data(DataSpec(data="u/d", objective="extractive-qa-v2", **columns)) == []
    faults = check_data(DataSpec(data="u/d", objective="extractive-qa", label_columns=("a", "b")))
    assert faults == ["--label-columns go with --objective multi-label."]


# --- windows -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(resolve(str(tiny_model)))


def test_windows_of_the_papers_recipe() -> None:
    assert (question_limit(384), step_of(384, 350)) == (64, 128)
    assert (question_limit(48), step_of(48, 10)) == (16, 10)


def test_a_long_context_is_cut_into_windows_a_third_apart(tokenizer: Any) -> None:
    words = ["the", "film", "was", "a", "very", "plot", "and", "story", "with", "some"]
    context = " ".join(words * 4)
    answer = ("good", len(context) + 1)
    split = Split(("which plot",), (f"{context} good actors",), ((answer,),))
    found = encode_windows(tokenizer, split, "train", 18, places=True)
    # 18 - 3 special - 2 of the question = 13 of 42 tokens, 6 apart: 0, 6, 12, 18, 24, 30.
    assert found.example.tolist() == [0] * 6
    assert found.lengths.tolist() == [18] * 5 + [17]
    assert found.places is not None
    begins = [int(place[4, 0]) for place in found.places_of(np.arange(6))]
    assert begins == [len(" ".join((words * 4)[: 6 * i])) + (i > 0) for i in range(6)]
    # Only the last window holds the answer: its token 10 of the context, after [CLS] a b [SEP].
    assert found.labels.tolist() == [[0, 0]] * 5 + [[14, 14]]
    assert tokenizer.decode(found.ids[found.starts[5] :][14]) == "good"
    assert found.types is not None
    assert found.types[:18].tolist() == [0] * 4 + [1] * 14


def test_questions_longer_than_a_third_are_cut_and_counted(tokenizer: Any) -> None:
    split = Split(("the film was a very good plot ?", "a plot"), ("good", "bad film"), ((), ()))
    found = encode_windows(tokenizer, split, "train", 16, places=False)
    assert found.truncated == 1
    assert found.lengths.tolist() == [1 + 5 + 1 + 1 + 1, 1 + 2 + 1 + 2 + 1]
    assert found.places is None
    with pytest.raises(ConfigError, match=r"windows of 12 tokens have no room .* at least 16"):
        encode_windows(tokenizer, split, "train", 12, places=False)
    with pytest.raises(DataError, match="no context of the train split has a token; does the tok"):
        encode_windows(tokenizer, Split(("a",), ("\u200d",), ((),)), "train", 16, places=False)
    with pytest.raises(DataError, match="the test split has no questions"):
        encode_windows(tokenizer, Split((), (), ()), "test", 16, places=False)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 70)), min_size=1, max_size=6),
       length=st.integers(16, 32))  # fmt: skip
def test_windows_are_counted_as_they_are_cut(
    tokenizer: Any, sizes: list[tuple[int, int]], length: int
) -> None:
    texts = [" ".join(["plot"] * asked) + "?" for asked, _ in sizes]
    contexts = [" ".join(["film"] * tokens) for _, tokens in sizes]
    split = Split(tuple(texts), tuple(contexts), tuple(() for _ in sizes))
    data = TaskData("t", "s", (), "squad-v2-f1", 0.01, split, split, split,
                    objective="extractive-qa-v2")  # fmt: skip
    found = encode_windows(tokenizer, split, "train", length, places=True)
    assert block_counts(data, tokenizer, length) == (len(found),) * 3
    assert found.lengths.max() <= length
    # Every token of every context stands in some window.
    for index, context in enumerate(contexts):
        rows = np.flatnonzero(found.example == index)
        seen = {int(b) for place in found.places_of(rows) for b, _ in place if b >= 0}
        assert seen == set(range(0, len(context), 5))


def test_answers_lie_on_the_tokens_that_hold_them() -> None:
    # [CLS] q [SEP] then "play" "ing", "é" as two bytes, "now", [SEP].
    places = np.array([[-1, -1]] * 3 + [[5, 9], [9, 12], [13, 14], [13, 14], [15, 18], [-1, -1]],
                      dtype=np.int32)  # fmt: skip
    assert answer_tokens(places, ("playing", 5)) == (3, 4)
    assert answer_tokens(places, ("in", 9)) == (4, 4)
    assert answer_tokens(places, ("é", 13)) == (5, 6)
    assert answer_tokens(places, (" é now ", 12)) == (5, 7)
    assert answer_tokens(places, ("now or", 15)) == (0, 0)
    assert answer_tokens(places, ("y play", 3)) == (0, 0)
    assert answer_tokens(places[:3], ("playing", 5)) == (0, 0)


def spans_by_loops(starts: Any, ends: Any, real: Any, inside: Any) -> tuple[float, int, int]:
    """The same rule, as run_squad.py has it: over the 20 best starts and ends, one by one."""
    tokens = [t for t in range(len(starts)) if real[t]]
    best = (float("-inf"), 0, 0)
    for first in sorted(tokens, key=lambda t: -starts[t])[:20]:
        for last in sorted(tokens, key=lambda t: -ends[t])[:20]:
            fits = inside[first] and inside[last] and first <= last < first + 30
            if fits and starts[first] + ends[last] > best[0]:
                best = (starts[first] + ends[last], first, last)
    return best


def test_a_question_without_a_possible_span_has_no_answer(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(("which plot",), ("good plot bad actors",), ((("good", 0),),))
    data = TaskData("t", "s", (), "squad-f1", 0.01, split, split, split, objective="extractive-qa")
    workload = ExtractiveQA(resolve(str(tiny_model)), data, RECIPE)
    monkeypatch.setattr(windows, "N_BEST", 1)
    ids = dict(zip(["good", "bad"], workload.tokenizer("good bad").input_ids[1:3], strict=True))
    behind = Scripted({ids["bad"]: 1.0}, {ids["good"]: 1.0})
    assert workload.evaluate(behind, "test").predictions == ("",)
    before = Scripted({ids["good"]: 1.0}, {ids["bad"]: 1.0})
    assert workload.evaluate(before, "test").predictions == ("good plot bad",)


@pytest.mark.parametrize("seed", range(8))
def test_best_spans_are_those_of_plain_loops(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    starts, ends = (torch.randn(6, 60, generator=draw, dtype=torch.float64) for _ in "ab")
    if seed % 2:
        starts[:, 50:] += 4  # the best starts stand behind the best ends, or far from them
        ends[:, :12] += 4
    real = torch.arange(60) < torch.tensor([[60], [55], [30], [25], [12], [60]])
    inside = real & (torch.arange(60) >= 8)
    scores, first, last = best_spans(starts, ends, real, inside)
    for row in range(6):
        wanted = spans_by_loops(*(t[row].tolist() for t in (starts, ends, real, inside)))
        assert scores[row].item() == pytest.approx(wanted[0])
        if np.isfinite(wanted[0]):
            assert (first[row].item(), last[row].item()) == wanted[1:]


# --- the workload --------------------------------------------------------------------------------


def task(tmp_path: Path, *, none: bool) -> TaskData:
    path = squad_file(tmp_path / "a.json", questions(300, none=none))
    return load_file(str(path), objective="extractive-qa-v2" if none else "extractive-qa")


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "v2"])
def workload(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExtractiveQA:
    torch.set_num_threads(1)
    data = task(tmp_path_factory.mktemp("squad"), none=request.param)
    found = workload_for(resolve(str(tiny_model)), data, RECIPE)
    assert isinstance(found, ExtractiveQA)
    return found


def test_a_loss_is_that_of_transformers(workload: ExtractiveQA) -> None:
    model = workload.build(1).eval()
    batch = workload.batches(1)[0]
    whole = batch["attention_mask"].all(1)
    rows = {name: tensor[whole] for name, tensor in batch.items()}
    labels = rows.pop("labels")
    theirs = model(**rows, start_positions=labels[:, 0], end_positions=labels[:, 1]).loss
    assert workload.loss(model, {**rows, "labels": labels}).item() == pytest.approx(theirs.item())
    # Padding has no share: a row's loss is the same however wide its batch is.
    one = {name: tensor[:1] for name, tensor in rows.items()} | {"labels": labels[:1]}
    wide = {n: torch.nn.functional.pad(t, (0, 3)) for n, t in one.items() if n != "labels"}
    assert workload.loss(model, {**wide, "labels": labels[:1]}).item() == pytest.approx(
        workload.loss(model, one).item(), rel=1e-5
    )
    assert workload.count(batch) == (8, int(batch["attention_mask"].sum()))
    assert (
        workload.steps == len(workload.batches(1)) == round(14 * len(workload._splits["train"]) / 8)
    )


def test_questions_are_answered(workload: ExtractiveQA) -> None:
    may_be_none = workload.data.objective == "extractive-qa-v2"
    # Version 1 is trained in the contract tests; here it says something of every question.
    model = train(workload, RECIPE, seed=1).model if may_be_none else workload.build(1)
    found = workload.evaluate(model, "test")
    labels, contexts = workload.data.test.labels, workload.data.test.pairs
    assert contexts is not None
    assert all(p in context for p, context in zip(found.predictions, contexts, strict=True))
    assert found.score > 0.9 if may_be_none else all(found.predictions)
    truth, runs = workload.metric.outputs.read(labels, {"run": found.predictions})
    assert workload.metric.outputs.scores(truth, runs["run"][None])[0] == pytest.approx(found.score)
    form = FORMS["replicate"]["predictions"]
    assert not faults_of(list(found.predictions), form)
    assert faults_of([{}], form)


class Scripted(torch.nn.Module):
    """Scores that were written down: of a token by its id."""

    def __init__(self, start: dict[int, float], end: dict[int, float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.start, self.end = start, end

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        def scores(of: dict[int, float]) -> torch.Tensor:
            return torch.tensor([[of.get(i, -9.0) for i in row] for row in input_ids.tolist()])

        class Found:
            start_logits, end_logits = scores(self.start), scores(self.end)

        return Found


def test_the_best_of_all_windows_is_the_answer_and_zero_the_threshold(
    tiny_model: Path, tokenizer: Any
) -> None:
    filler = " ".join(["the film was a very plot and story"] * 3)
    split = Split(("which plot",), (f"good plot {filler} bad actors",), ((("bad actors", 0),),))
    data = TaskData("t", "s", (), "squad-v2-f1", 0.01, split, split, split,
                    objective="extractive-qa-v2")  # fmt: skip
    workload = ExtractiveQA(resolve(str(tiny_model)), data, RECIPE)
    assert len(workload._splits["test"]) > 2
    good, bad, plot, actors, first = (
        tokenizer.convert_tokens_to_ids(t) for t in ("good", "bad", "plot", "actors", "[CLS]")
    )
    for none, wanted in ((3.4, "bad actors"), (3.5, "bad actors"), (3.6, "")):
        model = Scripted({good: 3.0, bad: 4.0, first: none}, {plot: 2.0, actors: 3.0, first: none})
        assert workload.evaluate(model, "test").predictions == (wanted,)
    with pytest.raises(TrainingError, match="the model's outputs on the test split are not finite"):
        workload.evaluate(Scripted({good: float("nan")}, {}), "test")


def test_a_saved_model_loads_in_plain_transformers(workload: ExtractiveQA, tmp_path: Path) -> None:
    model = workload.build(3)
    for name, content in workload.model_files(model).items():
        (tmp_path / name).write_bytes(content)
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer("which plot", "a good plot", return_tensors="pt")
    with torch.no_grad():
        theirs, ours = loaded(**inputs).start_logits, model(**inputs).start_logits
    assert torch.allclose(theirs, ours, atol=1e-6)  # another attention kernel
    assert loaded.config.num_labels == 2


def test_a_base_with_labels_of_its_own_still_gets_two_outputs(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {str(i): f"l{i}" for i in range(3)}}
    (folder / "config.json").write_text(json.dumps(config))
    workload = ExtractiveQA(resolve(str(folder)), task(tmp_path, none=False), RECIPE)
    assert workload.build(0).qa_outputs.out_features == 2


def test_a_tokenizer_without_places_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    ByT5Tokenizer().save_pretrained(folder)
    (folder / "vocab.json").write_text("{}")  # bytes need none
    data = task(tmp_path, none=False)
    message = r"\(ByT5Tokenizer\) cannot say where .* --objective extractive-qa needs; .* fast one"
    with pytest.raises(ModelError, match=message):
        ExtractiveQA(resolve(str(folder)), data, RECIPE)
    with pytest.raises(ModelError, match=message):
        block_counts(data, load_tokenizer(resolve(str(folder))), 16)
