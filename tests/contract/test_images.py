"""Images as data and as a workload: round trips, processing, training, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers import AutoModel, AutoModelForImageClassification

from architectures import ARCHITECTURES
from little_images import class_folders
from ticketry import find
from ticketry.errors import DataError, ModelError
from ticketry.models.loading import resolve
from ticketry.recipes import Recipe
from ticketry.tasks.base import Split, TaskData
from ticketry.tasks.images import ImageClassification
from ticketry.tasks.objectives import workload_for
from ticketry.tasks.pixels import PROCESSOR_FILE, decode_image, encode_image, processing_of
from ticketry.tasks.registry import load_task
from ticketry.training import train
from tiny_images import image_task

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=0.01)
PROCESSING = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.fixture(scope="module", params=["vit", "convnext"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(ARCHITECTURES[request.param].build_config())
    model.save_pretrained(out)
    (out / PROCESSOR_FILE).write_text(json.dumps(PROCESSING))
    return out


@given(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=3, max_side=9)),
)
def test_an_image_comes_back_as_it_was(pixels: np.ndarray) -> None:
    found = decode_image(encode_image(pixels))
    assert found.tolist() == pixels.reshape(*pixels.shape[:2], -1).tolist()


@given(st.text(max_size=40))
def test_other_text_is_no_image(text: str) -> None:
    with pytest.raises(DataError, match="an example is no image"):
        decode_image(text)


@pytest.mark.parametrize(
    "text", ["2x2x1:AAA", "2x2x1:AAAAAAAA", "-1x-2x2:AAAA", "9999999x9999999x3:", "0x0x0:", "2x2:"]
)
def test_images_that_contradict_themselves(text: str) -> None:
    with pytest.raises(DataError, match="an example is no image"):
        decode_image(text)


def test_only_uint8_pixels_are_taken() -> None:
    with pytest.raises(DataError, match="dtype float64 and 2 dimensions"):
        encode_image(np.zeros((2, 2)))  # type: ignore[arg-type]


def test_pixels_are_scaled_by_mean_and_deviation(folder: Path) -> None:
    processing = processing_of(resolve(str(folder)))
    assert processing.stated
    grey = np.full((4, 6, 1), 255, dtype=np.uint8)
    found = processing.apply([grey])
    assert found.shape == (1, 3, 8, 8)
    assert torch.allclose(found, torch.full_like(found, (1.0 - 0.5) / 0.25))
    colours = np.zeros((8, 8, 3), dtype=np.uint8)
    colours[..., 1] = 51
    channels = processing.apply([colours])[0, :, 0, 0]
    assert torch.allclose(channels, torch.tensor([-2.0, (0.2 - 0.5) / 0.25, -2.0]))
    with pytest.raises(DataError, match="an image has 2 channels, the model reads 3"):
        processing.apply([np.zeros((8, 8, 2), dtype=np.uint8)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"image_mean": [0.5]}', "expected a height and width, and 3 numbers each"),
        ('{"image_std": [0, 0, 0]}', "the last above 0"),
        ('{"size": {"longest": 8}}', "does not fit the model"),
        ('{"size": 100000}', "does not fit the model"),
    ],
)
def test_a_processor_that_does_not_fit(
    content: str, message: str, folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / PROCESSOR_FILE).write_text(content)
    with pytest.raises(ModelError, match=message):
        processing_of(resolve(str(tmp_path)))


def test_without_a_processor_half_is_taken(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != PROCESSOR_FILE:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    processing = processing_of(resolve(str(tmp_path)))
    assert (processing.mean, processing.size, processing.stated) == ((0.5,) * 3, (8, 8), False)


def test_a_training_learns_and_is_saved(folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    workload = workload_for(resolve(str(folder)), image_task(), RECIPE)
    assert isinstance(workload, ImageClassification)
    outcome = train(workload, RECIPE, seed=0)
    assert outcome.steps == 32
    assert outcome.train_examples == outcome.train_tokens == 256
    evaluation = workload.evaluate(outcome.model, "test")
    assert evaluation.score > 0.9
    assert len(evaluation.predictions) == 16
    again = train(workload, RECIPE, seed=0)
    assert again.record() == outcome.record()
    for name, data in workload.model_files(outcome.model).items():
        (tmp_path / name).write_bytes(data)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label == {0: "lying", 1: "standing"}
    assert json.loads((tmp_path / PROCESSOR_FILE).read_text()) == PROCESSING


def test_an_empty_split_is_refused(folder: Path) -> None:
    data = image_task()
    empty = TaskData(
        **{**{f: getattr(data, f) for f in data.__dataclass_fields__}, "test": Split((), None, ())}
    )
    with pytest.raises(DataError, match="the test split has no examples"):
        workload_for(resolve(str(folder)), empty, RECIPE)


def test_image_data_come_back_from_a_store() -> None:
    data = image_task(8)
    assert TaskData.from_json(json.loads(json.dumps(data.to_json()))) == data


def test_digits_are_real_and_split_without_leaks() -> None:
    data = load_task("digits")
    assert data == load_task("digits")
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert data.objective == "image-classification"
    assert data.labels == tuple("0123456789")
    splits = [set(split.texts) for split in (data.train, data.validation, data.test)]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]
    first = decode_image(data.train.texts[0])
    assert first.shape == (8, 8, 1)
    assert first.max() > 200
    for split in (data.train, data.validation, data.test):
        assert set(split.labels) == set(range(10))


def test_a_whole_run_on_digits(folder: Path, tmp_path: Path) -> None:
    ticket = find(
        str(folder),
        "digits",
        sparsity=0.3,
        levels=1,
        replicates=2,
        controls="none",
        epochs=0.5,
        learning_rate=0.01,
        train_samples=200,
        workers=0,
        out=tmp_path / "run",
    )
    total = ARCHITECTURES["vit" if "vit" in str(folder) else "convnext"].weights
    assert ticket.mask.kept == round(0.7 * total)
    assert ticket.evidence is not None
    assert ticket.evidence["data"]["objective"] == "image-classification"
    assert "digits" in (tmp_path / "run" / "report.html").read_text()


def test_a_whole_run_on_a_folder_of_classes(folder: Path, tmp_path: Path) -> None:
    pets = class_folders(tmp_path / "pets", {"cat": 40, "dog": 40})
    options: dict[str, Any] = {
        "data": str(pets), "objective": "image-classification", "sparsity": 0.3, "levels": 1,
        "replicates": 2, "controls": "none", "epochs": 1, "learning_rate": 0.01, "workers": 0,
        "out": tmp_path / "run",
    }  # fmt: skip
    ticket = find(str(folder), **options)
    assert ticket.evidence is not None
    assert ticket.evidence["data"]["labels"] == ["cat", "dog"]
    (pets / "cat" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"has 1 image that cannot be used: cat/000\.png is empty"):
        find(str(folder), **options)


def test_a_text_model_is_refused_images(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no image classifier; give an image model"):
        find(str(tiny_model), "digits", out=tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_an_image_model_is_refused_texts(folder: Path, reviews: Path, tmp_path: Path) -> None:
    columns = {"text_column": "review", "label_column": "verdict"}
    with pytest.raises(ModelError, match="has no sequence classifier; give a text"):
        find(str(folder), data=str(reviews), **columns, out=tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()
