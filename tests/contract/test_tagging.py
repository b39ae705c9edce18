"""Tags of words: CoNLL's layout and the hub's, labels on first tokens, F1 over entities."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    ByT5Tokenizer,
    pipeline,
)

from hub_layout import offline_cache
from ticketry.config import DataSpec, check_data
from ticketry.errors import DataError, InputError, ModelError, TrainingError
from ticketry.metrics import METRICS
from ticketry.metrics.entities import entities_of
from ticketry.models.loading import load_tokenizer, resolve
from ticketry.parallel import Team
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split, TaskData, strata
from ticketry.tasks.conll import read_conll
from ticketry.tasks.files import load_file
from ticketry.tasks.hub import load_hub_task
from ticketry.tasks.objectives import block_counts, workload_for
from ticketry.tasks.tagging import IGNORED, TokenClassification, encode_tags, first_tokens
from ticketry.training import train
from tiny_tags import NAMES, conll_file, little_conll, sentences

RECIPE = Recipe(epochs=16, batch_size=8, max_length_tokens=16, learning_rate=6e-3)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline_cache(monkeypatch, tmp_path / "cache")


# --- F1 over entities, worked by hand ------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("O B-PER I-PER O", {("PER", 1, 2)}),
        ("I-PER I-PER O I-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),  # IOB1
        ("I-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("B-PER B-PER I-LOC", {("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 2)}),
        ("O", set()),
    ],
)
def test_entities_of_both_kinds_of_iob(tags: str, entities: set[Any]) -> None:
    assert entities_of(tags) == entities


@pytest.mark.parametrize(
    ("labels", "predictions", "f1"),
    [
        (["O B-PER I-PER"], ["O B-PER I-PER"], 1.0),
        # An entity with another end, or another type, is wrong in full: 1 right of 2 and of 3.
        (["B-PER I-PER O B-LOC O"], ["B-PER O B-PER B-LOC O"], 0.4),
        (["B-PER I-PER", "B-LOC O"], ["B-ORG I-ORG", "B-LOC O"], 0.5),
        # The same entity in another sentence is another one.
        (["B-PER O", "O O"], ["O O", "B-PER O"], 0.0),
        # IOB1 and IOB2 of the same entities are the same.
        (["I-PER O I-LOC"], ["B-PER O B-LOC"], 1.0),
        (["B-PER"], ["O"], 0.0),
        (["O"], ["B-PER"], 0.0),
        (["O O"], ["O O"], 0.0),
    ],
)
def test_f1_over_entities(labels: list[str], predictions: list[str], f1: float) -> None:
    metric = METRICS["entity-f1"]
    assert metric.fn(labels, predictions) == pytest.approx(f1)
    truth, runs = metric.outputs.read(labels, {"run": predictions})
    assert metric.outputs.scores(truth, runs["run"][None]).tolist() == pytest.approx([f1])
    assert (metric.margin, metric.percent) == (0.01, True)


@pytest.mark.parametrize(
    ("labels", "run", "message"),
    [
        (["O O"], ["O O", "O"], "the run: 2 predictions for 1 test examples"),
        (["O O"], ["O"], "the run has predictions of another kind; expected a tag for each word"),
        (["O O"], [3], "the run has predictions of another kind"),
        ([], [], "the test labels are empty or not tags"),
        ([("O",)], ["O"], "the test labels are empty or not tags"),
    ],
)
def test_records_of_another_kind_are_refused(labels: Any, run: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        METRICS["entity-f1"].outputs.read(labels, {"the run": run})


# --- reading -------------------------------------------------------------------------------------


def test_conll2003_in_the_hubs_layout(tmp_path: Path) -> None:
    folder = little_conll(tmp_path / "conll")
    data = load_hub_task("conll2003", split_seed=0, say=str, source=str(folder))
    assert (data.name, data.objective, data.metric, data.margin) == (
        "conll2003", "token-classification", "entity-f1", 0.01
    )  # fmt: skip
    assert [len(part) for part in (data.train, data.validation, data.test)] == [120, 30, 40]
    assert data.labels == ("O", "B-BAD", "I-BAD", "B-GOOD", "I-GOOD")
    assert "1 train sentences without a word were left out" in data.notes
    assert "tags are IOB2: every entity begins with B-; they are kept" in data.notes
    words, tags = sentences(40, seed=2)[3]
    assert (data.test.texts[3], data.test.labels[3]) == ("\n".join(words), " ".join(tags))
    again = TaskData.from_json(json.loads(json.dumps(data.to_json())))
    assert again == data
    with pytest.raises(DataError, match="row 121 is a sentence without a word; drop such rows"):
        load_file(str(folder), objective="token-classification", test_split="test")


def test_a_conll_file_and_the_same_as_json_lines(tmp_path: Path) -> None:
    rows = sentences(200)
    path = conll_file(tmp_path / "train.conll", rows, documents=5)
    data = load_file(str(path), objective="token-classification")
    assert "sentences of 40 documents stay on one side of the split" in data.notes
    document = {"\n".join(words): i // 5 for i, (words, _) in enumerate(rows)}
    parts = [{document[text] for text in part.texts} for part in (data.train, data.test)]
    assert not parts[0] & parts[1]
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 200
    # By stratum: sentences without an entity are dealt in proportion.
    assert 0 < strata(data.test).count(0) < len(data.test)
    plain = conll_file(tmp_path / "plain.txt", rows)
    first = load_file(str(plain), objective="token-classification")
    lines = tmp_path / "train.jsonl"
    lines.write_text("\n".join(json.dumps({"w": w, "t": t}) for w, t in rows))
    columns = {"text_column": "w", "label_column": "t"}
    assert load_file(str(lines), objective="token-classification", **columns).sha256 == (
        first.sha256
    )
    test = conll_file(tmp_path / "test.conll", [*sentences(30, seed=3), rows[0]])
    data = load_file(str(path), objective="token-classification", test_data=str(test))
    assert len(data.test) == 31
    assert "1 training sentences that also stand in the held-out data were left out" in data.notes


def test_columns_by_tabs_or_spaces_and_lines_between_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes(
        b"-DOCSTART- O\r\n\r\nNew York\tx\tB-LOC\r\na\xc2\xa0b\tx\tO\r\n\r\n \r\n"
        b"-DOCSTART- O\nplain  POS   O\n"
    )
    found = read_conll(path)
    assert found.words == [["New York", "a\u00a0b"], ["plain"]]
    assert found.tags == [["B-LOC", "O"], ["O"]]
    assert found.documents == [1, 2]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("B-BAD I-BAD O", "IOB2: every entity begins with B-"),
        ("I-BAD B-BAD O", "IOB1: B- stands only between entities of one type"),
        ("I-BAD I-GOOD O", "IOB1: B-"),
        ("I-BAD O B-BAD", "mix IOB1 and IOB2: 30 entities begin with B-, 30 with I-"),
    ],
)
def test_the_kind_of_iob_is_kept_and_said(tmp_path: Path, tags: str, said: str) -> None:
    rows = [([f"w{i}", "x", f"y{i}"], tags.split()) for i in range(30)]
    data = load_file(str(conll_file(tmp_path / "a.conll", rows)), objective="token-classification")
    assert any(note.startswith(f"tags {'are ' * (said[0] == 'I')}{said}") for note in data.notes)
    assert set(data.train.labels) == {tags}


GOOD_LINES = "\n".join(f"w{i} B-PER\nx{i} O\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD_LINES + "\nalone\n", r"a.conll, line 121: 'alone' has no tag; expected a word and"),
        (GOOD_LINES + "\nw\t\n", r"line 121: 'w\\t' has no tag"),
        (GOOD_LINES + "\nw S-PER\n", r"line 121: the tag 'S-PER' is none of IOB; expected O, B-TY"),
        (GOOD_LINES + "\nw B-\n", r"the tag 'B-' is none of IOB"),
        (GOOD_LINES + "\n\tx\tO\n", r"line 121 has the word ''; expected text on one line"),
        ("\n  \n", r"a.conll has no sentences"),
        ("-DOCSTART- O\n\n", r"a.conll has no sentences"),
        ("w B-PER\n", r"has 1 training sentences with an entity; expected at least 20"),
        (GOOD_LINES.replace("B-PER", "O"), r"has 0 training sentences with an entity"),
    ],
)
def test_bad_conll_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_file(str(path), objective="token-classification")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "row 31 has 2 words and 1 tags; expected one"),
        ({"tokens": [], "ner_tags": []}, "row 31 is a sentence without a word"),
        ({"tokens": "a b", "ner_tags": ["O"]}, "'tokens' holds 'a b'; expected a list"),
        ({"tokens": ["a"], "ner_tags": None}, "'ner_tags' holds None; expected a list"),
        ({"tokens": [" "], "ner_tags": ["O"]}, "row 31 has the word ' '; expected text on one"),
        ({"tokens": ["a\nb"], "ner_tags": ["O"]}, r"has the word 'a\\nb'"),
        ({"tokens": [7], "ner_tags": ["O"]}, r"has the word 7"),
        ({"tokens": ["a"], "ner_tags": [3]}, "holds the number 3, and the data have no names"),
        ({"tokens": ["a"], "ner_tags": ["PER"]}, "the tag 'PER' is none of IOB"),
        ({"tokens": ["a"], "ner_tags": [None]}, "the tag None is none of IOB"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = [{"tokens": [f"w{i}"], "ner_tags": ["B-PER"]} for i in range(30)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, row])))
    with pytest.raises(DataError, match=message):
        load_file(str(path), objective="token-classification")


def test_held_out_tags_columns_and_options_that_do_not_fit(tmp_path: Path) -> None:
    path = conll_file(tmp_path / "a.conll", sentences(60))
    odd = conll_file(tmp_path / "b.conll", [(["x"], ["B-ODD"])])
    empty = conll_file(tmp_path / "c.conll", [(["x"], ["O"])])
    for test, message in (
        (odd, r"the test data \(.*b.conll\) have the tag 'B-ODD', which the training data lack; "
              r"they have O, B-BAD, I-BAD"),
        (empty, r"the test part of .* has no entity \(all tags are O\)"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            load_file(str(path), objective="token-classification", test_data=str(test))
    with pytest.raises(DataError, match=r"a.conll is read as a CoNLL file.* such as 'words'; drop"):
        load_file(str(path), objective="token-classification", text_column="words")
    assert check_data(DataSpec(data="a.txt", objective="token-classification")) == []
    faults = check_data(
        DataSpec(data="a", objective="token-classification", text_pair_column="x",
                 label_columns=("a", "b"))
    )  # fmt: skip
    assert len(faults) == 2
    assert "--text-pair-column and --objective token-classification exclude" in faults[1]


def test_without_seqeval_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "seqeval", None)
    path = conll_file(tmp_path / "a.conll", sentences(60))
    with pytest.raises(InputError, match=r"needs seqeval; .* pip install 'ticketry\[tags\]'"):
        load_file(str(path), objective="token-classification")


# --- tokens --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(resolve(str(tiny_model)))


def test_a_words_tag_lies_on_its_first_token(tokenizer: Any) -> None:
    # "good-plot's" is five tokens, "\u200d" none.
    split = Split(("the\ngood-plot's\n\u200d\nfilm",), None, ("O B-GOOD O I-GOOD",))
    found = encode_tags(tokenizer, split, "train", 16, NAMES)
    assert found.words.tolist() == [-1, 0, 1, -1, -1, -1, -1, 3, -1]
    assert found.labels.tolist() == [IGNORED, 0, 3, *[IGNORED] * 4, 4, IGNORED]
    # As transformers' own word_ids have it.
    theirs = tokenizer(split.texts[0].split("\n"), is_split_into_words=True)
    ids = theirs.word_ids()
    first = [w if w is not None and w not in ids[:i] else -1 for i, w in enumerate(ids)]
    assert first == found.words.tolist()
    assert theirs.input_ids == found.ids.tolist()


def test_tokens_that_begin_with_the_space_before(tmp_path: Path) -> None:
    from tiny_language import tiny_gpt2

    tokenizer = load_tokenizer(resolve(str(tiny_gpt2(tmp_path / "gpt2"))))
    split = Split(("the\ncat\n.",), None, ("O B-GOOD O",))
    found = encode_tags(tokenizer, split, "train", 16, NAMES)
    assert found.labels[found.words >= 0].tolist() == [0, 3, 0]


class Encoding:
    """What a tokenizer says of "New York ." where spaces are tokens, or parts of them."""

    def __init__(self, *offsets: tuple[int, int]) -> None:
        self.offsets = ((0, 0), *offsets, (0, 0))
        self.sequence_ids = (None, *[0] * len(offsets), None)


def test_a_space_alone_is_no_words_token() -> None:
    words = ["New", "York", "."]
    found = first_tokens(Encoding((0, 2), (2, 3), (3, 4), (3, 8), (8, 9), (8, 10)), words)
    assert found.tolist() == [-1, 0, -1, -1, 1, -1, 2, -1]
    # Neither where the word before it has no token.
    found = first_tokens(Encoding((3, 4), (4, 8), (8, 9)), words)
    assert found.tolist() == [-1, -1, 1, -1, -1]


def test_long_sentences_are_cut_counted_and_tagged_o_beyond(
    tiny_model: Path, tokenizer: Any
) -> None:
    rows = Split(("\n".join(["the", "good"] * 4), "good"), None, (" ".join(["O", "B-GOOD"] * 4),
                                                                 "B-GOOD"))  # fmt: skip
    found = encode_tags(tokenizer, rows, "test", 6, NAMES)
    assert (found.truncated, found.lengths.tolist()) == (1, [6, 3])
    data = TaskData("t", "s", tuple(NAMES), "entity-f1", 0.01, rows, rows, rows,
                    objective="token-classification")  # fmt: skip
    workload = TokenClassification(
        resolve(str(tiny_model)), data, dataclasses.replace(RECIPE, max_length_tokens=6)
    )
    assert workload.truncated == {"train": 1, "validation": 1, "test": 1}

    class Good(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            scores = torch.zeros(*input_ids.shape, 5)
            scores[..., 3] = self.weight
            return type("Found", (), {"logits": scores})

    model = Good()
    answer = workload.evaluate(model, "test")
    assert answer.predictions == ("B-GOOD " * 4 + "O O O O", "B-GOOD")
    model.weight.data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="outputs on the test split are not finite"):
        workload.evaluate(model, "test")
    with pytest.raises(DataError, match="no word of the train split has a token; does the token"):
        encode_tags(tokenizer, Split(("\u200d",), None, ("O",)), "train", 6, NAMES)
    with pytest.raises(DataError, match="the train split has no sentences"):
        encode_tags(tokenizer, Split((), None, ()), "train", 6, NAMES)


# --- the workload --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workload(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenClassification:
    torch.set_num_threads(1)
    path = conll_file(tmp_path_factory.mktemp("tags") / "a.conll", sentences(200))
    data = load_file(str(path), objective="token-classification")
    found = workload_for(resolve(str(tiny_model)), data, RECIPE)
    assert isinstance(found, TokenClassification)
    return found


def test_a_loss_is_that_of_transformers_and_of_the_shares_of_processes(
    workload: TokenClassification,
) -> None:
    model = workload.build(1).eval()
    batch = workload._splits["train"].collate(np.arange(9), 0)
    ours = workload.loss(model, batch)
    theirs = model(**{name: tensor for name, tensor in batch.items() if name != "scale"}).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    shares = [Team(rank, 3).share(batch) for rank in range(3)]
    parts = [workload.loss(model, rows).item() * part for rows, part in shares]
    assert sum(parts) == pytest.approx(ours.item(), rel=1e-5)
    # Rows have different numbers of labels, so plain means of shares would give something else.
    plain = [rows["labels"] != IGNORED for rows, _ in shares]
    assert len({float(labelled.sum(1).float().mean()) for labelled in plain}) > 1


def test_tags_are_learned_and_saved(workload: TokenClassification, tmp_path: Path) -> None:
    model = train(workload, RECIPE, seed=1).model
    found = workload.evaluate(model, "test")
    assert found.score > 0.9
    truth, runs = workload.metric.outputs.read(
        workload.data.test.labels, {"run": found.predictions}
    )
    assert workload.metric.outputs.scores(truth, runs["run"][None])[0] == pytest.approx(found.score)
    for name, content in workload.model_files(model).items():
        (tmp_path / name).write_bytes(content)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label == dict(enumerate(workload.data.labels))
    say = pipeline(
        "token-classification", loaded, tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    for text, tags in list(zip(workload.data.test.texts, found.predictions, strict=True))[:8]:
        said = [word["entity"] for word in say(text.replace("\n", " "))]
        assert said == [tag for tag in tags.split(" ") if tag != "O"]


def test_a_tokenizer_without_places_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = conll_file(tmp_path / "a.conll", sentences(60))
    data = load_file(str(path), objective="token-classification")
    folder = tmp_path / "slow"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    ByT5Tokenizer().save_pretrained(folder)
    (folder / "vocab.json").write_text("{}")  # bytes need none
    slow = load_tokenizer(resolve(str(folder)))
    with pytest.raises(ModelError, match="which --objective token-classification needs"):
        block_counts(data, slow, 16)
    assert block_counts(data, load_tokenizer(resolve(str(tiny_model))), 16) is None
    with pytest.raises(ModelError, match="which --objective token-classification needs"):
        workload_for(resolve(str(folder)), data, RECIPE)


def test_batches_are_padded_with_labels_that_do_not_count(workload: TokenClassification) -> None:
    encoded = workload._splits["train"]
    rows = np.array([int(encoded.lengths.argmin()), int(encoded.lengths.argmax())])
    batch = encoded.collate(rows, 0)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    labelled = int((batch["labels"] != IGNORED).sum())
    assert batch["scale"].tolist() == pytest.approx([2 / labelled] * 2)
    assert workload.count(batch) == (2, int(encoded.lengths[rows].sum()))
