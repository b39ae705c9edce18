"""Class folders, CIFAR, SVHN, VisDA and image data sets of the hub as tasks."""

from __future__ import annotations

import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from hub_layout import offline_cache
from little_images import class_folders, cut, odd_pictures, pixels, png, saved
from ticketry.config import DataSpec, check_data
from ticketry.errors import ConfigError, DataError
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.hub import load_hub_task
from ticketry.tasks.pictures import PictureReader
from ticketry.tasks.pixels import decode_image
from ticketry.tasks.registry import TASKS, load_task
from ticketry.tasks.sources import data_files, load_data


def load(data: Path | str, **options: Any) -> TaskData:
    return load_file(str(data), objective="image-classification", **options)


def sizes(data: TaskData) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


def refused(data: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(data, **options)
    return str(caught.value)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "pets", {"cat": 30, "dog": 30})


def test_class_folders_are_split(pets: Path) -> None:
    data = load(pets)
    assert sizes(data) == [42, 6, 12]
    assert (data.name, data.labels, data.metric) == ("pets", ("cat", "dog"), "accuracy")
    assert data == load(pets)
    assert data.sha256 != load(pets, seed=1).sha256
    image = decode_image(data.test.texts[0])
    kind = data.test.labels[0]
    assert any(np.array_equal(image, pixels(kind, number)) for number in range(30))
    assert load(pets, seed=0).test.texts == data.test.texts


def test_the_folders_own_splits_are_used(tmp_path: Path) -> None:
    for part, count, first in (("train", 20, 0), ("val", 4, 100), ("test", 5, 200)):
        class_folders(tmp_path / "data" / part, {"10": count, "9": count}, first=first)
    data = load(tmp_path / "data")
    assert sizes(data) == [40, 8, 10]
    assert data.labels == ("9", "10")  # numbers in numeric order
    other = load(tmp_path / "data", test_split="val")
    assert sizes(other)[2] == 8
    assert sum(sizes(other)) == 48
    assert "expected 'vall' among them. Did you mean 'val'" in refused(
        tmp_path / "data", test_split="vall"
    )
    assert "'train', which is trained on" in refused(tmp_path / "data", test_split="train")


def test_another_folder_is_tested_on(pets: Path, tmp_path: Path) -> None:
    class_folders(tmp_path / "more", {"cat": 4, "dog": 3}, first=50)
    data = load(pets, test_data=str(tmp_path / "more"))
    assert sizes(data) == [54, 6, 7]
    assert data.source.endswith("more")
    class_folders(tmp_path / "more", {"cow": 1})
    assert refused(pets, test_data=str(tmp_path / "more")) == (
        "the test images have the class 'cow', which the training images lack; they have 'cat', "
        "'dog'."
    )


def test_a_yaml_file_names_a_folder(pets: Path) -> None:
    task = pets.parent / "pets.yaml"
    task.write_text("data: pets\nobjective: image-classification\nmargin: 0.02\n")
    data = load_task(str(task))
    assert (data.margin, sizes(data)) == (0.02, [42, 6, 12])
    task.write_text("data: pets\nobjective: detection\ntext_column: a\n")
    with pytest.raises(ConfigError, match="text_column and objective detection exclude each other"):
        load_task(str(task))


def test_a_folder_goes_through_the_common_door(pets: Path) -> None:
    spec = DataSpec(data=str(pets), objective="image-classification")
    assert check_data(spec) == []
    assert sizes(load_data(spec, print)) == [42, 6, 12]
    stamped = data_files(spec)
    assert {pets / "cat", pets / "dog" / "000.png"} <= set(stamped)
    assert len(stamped) == 62
    pair = DataSpec(data=str(pets), objective="image-classification", text_pair_column="b")
    assert check_data(pair) == [
        "--text-pair-column and --objective image-classification exclude each other."
    ]


@pytest.mark.parametrize("kind", odd_pictures())
def test_odd_pictures_are_read(kind: str) -> None:
    reader = PictureReader()
    text = reader.read(odd_pictures()[kind], kind)
    assert text is not None
    assert not reader.faults
    image = decode_image(text)
    notes = " ".join(reader.notes())
    expected = {
        "grey": ((8, 8, 1), 100, ""),
        "palette": ((8, 8, 3), None, "1 of 1 images have a palette and were read as RGB"),
        "palette, transparent": ((8, 8, 3), None, "transparent in parts and were laid on white"),
        "transparent": ((8, 8, 3), 255, "1 of 1 images are transparent in parts"),
        "opaque": ((8, 8, 3), None, ""),
        "16 bits": ((8, 8, 1), 100, "have 16 bits a pixel, of which the upper 8 were read"),
        "CMYK": ((8, 8, 3), None, "are CMYK and were read as RGB"),
        "black and white": ((8, 8, 1), None, ""),
        "moving": ((8, 8, 3), None, "are moving pictures, of which the first was read"),
    }[kind]
    assert image.shape == expected[0]
    assert expected[1] is None or (image == expected[1]).all()
    assert expected[2] in notes if expected[2] else not notes
    if kind == "CMYK":
        assert abs(image.astype(int) - pixels(1, 999)).mean() < 40
    if kind == "palette, transparent":
        assert (image == 255).all(-1).any()


def test_grey_among_colours_is_said_and_large_ones_are_shrunk() -> None:
    reader = PictureReader(short=16)
    assert reader.read(png(pixels(0, 0, 64)[:32]), "a") is not None
    assert reader.read(png(pixels(0, 0, 64)[..., 0]), "b") is not None
    assert reader.notes() == [
        "2 of 2 images were shrunk until their shorter side had 16 pixels",
        "1 of 2 images are grey, the others are not",
    ]
    text = reader.read(png(pixels(0, 0, 64)[:32]), "a")
    assert text is not None
    assert decode_image(text).shape == (16, 32, 3)


def test_pictures_that_cannot_be_used_are_all_named(pets: Path) -> None:
    whole = (pets / "cat" / "000.png").read_bytes()
    (pets / "cat" / "000.png").write_bytes(cut(whole))
    (pets / "cat" / "001.png").write_bytes(b"")
    (pets / "dog" / "002.jpg").write_bytes(b"not a picture")
    deep = Image.fromarray(np.zeros((8, 8), dtype=np.int32))
    (pets / "dog" / "003.png").write_bytes(saved(deep, "TIFF"))
    message = refused(pets)
    assert message.startswith(f"{pets} has 4 images that cannot be used: cat/000.png is damaged or")
    assert "cat/001.png is empty (0 bytes); dog/002.jpg is no picture (PNG, JPEG" in message
    assert "dog/003.png has 32 bits a pixel (mode I), of which nothing says what is" in message
    assert message.endswith(". Mend or remove them.")


def test_more_faults_than_are_said_are_counted(pets: Path) -> None:
    for number in range(8):
        (pets / "cat" / f"{number:03}.png").write_bytes(b"")
    assert "; and 3 more. Mend" in refused(pets)


@pytest.mark.parametrize("side", [9000, 1 << 15])
def test_a_picture_that_unpacks_to_too_much_is_not_unpacked(side: int) -> None:
    reader = PictureReader()
    header = bytearray(png(np.zeros((4, 4), dtype=np.uint8)))
    header[16:24] = side.to_bytes(4, "big") * 2

    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    assert reader.read(bytes(header), "bomb.png") is None
    assert reader.faults == ["bomb.png has too many pixels; expected at most 67,108,864"]


def test_more_than_memory_should_hold_is_refused_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch, pets: Path
) -> None:
    one = len(PictureReader().read(png(pixels(0, 0, 12)), "a") or "")
    monkeypatch.setattr("ticketry.tasks.pictures.MOST_BYTES", 3 * one)
    reader = PictureReader()
    assert all(reader.read(png(pixels(0, n, 12)), f"{n}") for n in range(3))
    with pytest.raises(DataError, match=r"the first 4 images take .* GB .* Give fewer images"):
        reader.read(png(pixels(0, 3, 12)), "3")


def test_files_that_are_no_pictures_are_refused(pets: Path) -> None:
    (pets / "notes.txt").write_text("beside the classes, it does no harm")
    (pets / "cat" / ".DS_Store").write_bytes(b"hidden")
    (pets / "dog" / "Thumbs.db").write_bytes(b"left by a file manager")
    assert sizes(load(pets)) == [42, 6, 12]
    (pets / "dog" / "notes.txt").write_text("among pictures, it is in the way")
    assert refused(pets) == (
        f"{pets} has 1 file that cannot be used: dog/notes.txt is no picture by its name. Move "
        "them away; pictures end in .png, .jpg, .jpeg, .jpe, .bmp, .gif, .tif, .tiff, .webp, "
        ".ppm, .pgm, .pbm."
    )


def test_folders_of_which_nothing_can_be_learned(pets: Path, tmp_path: Path) -> None:
    (pets / "cow").mkdir()
    assert refused(pets) == (
        f"{pets} has 1 class folder without a file: 'cow'; fill or remove them."
    )
    one = class_folders(tmp_path / "one", {"cat": 20})
    assert "has one class only ('cat')" in refused(one)
    few = class_folders(tmp_path / "few", {"cat": 20, "dog": 3})
    assert "has too few examples of 'dog' (3)" in refused(few)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes(png(pixels(0, 0)))
    assert refused(flat).startswith(
        f"{flat} has no layout that --objective image-classification is read from; expected one "
        "of: CIFAR (data_batch_1.bin"
    )
    class_folders(tmp_path / "both" / "train", {"cat": 9, "dog": 9})
    class_folders(tmp_path / "both", {"cow": 9})
    assert "holds the splits 'train' and also 'cow'" in refused(tmp_path / "both")
    (tmp_path / "bare" / "train").mkdir(parents=True)
    assert "bare/train holds no class folders; expected train/CLASS/PICTURE" in refused(
        tmp_path / "bare"
    )
    assert refused(tmp_path / "none") == f"there is no folder '{tmp_path / 'none'}'."
    assert "is a file; --objective image-classification expects" in refused(flat / "a.png")
    assert "drop --data-config, --text-column" in refused(pets, config="x")


def test_copies_across_splits_are_left_out_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for part, count, first in (("train", 20, 0), ("validation", 4, 18), ("test", 5, 19)):
        class_folders(folder / part, {"cat": count, "dog": count}, first=first)
    (folder / "train" / "cat" / "x.png").write_bytes(png(pixels(7, 7)))
    (folder / "train" / "dog" / "x.png").write_bytes(png(pixels(7, 7)))
    data = load(folder)
    assert data.notes == (
        "6 validation images that also stand in the held-out data were left out",
        "4 train images that also stand in the held-out data were left out",
        "2 images that stand in two classes were left out",
    )
    assert sizes(data) == [36, 2, 10]
    splits = [set(part.texts) for part in (data.train, data.validation, data.test)]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]


def test_equal_images_stay_on_one_side(pets: Path) -> None:
    for number in range(12):
        (pets / "cat" / f"twin{number}.png").write_bytes(png(pixels(0, number)))
    data = load(pets)
    assert data.notes == ("12 equal images stay on their twin's side of the split",)
    assert not set(data.train.texts) & {*data.test.texts, *data.validation.texts}


# --- CIFAR --------------------------------------------------------------------------------------


def cifar(folder: Path, *, fine: bool = False, count: int = 30) -> Path:
    folder.mkdir(parents=True)
    names = ["apple", "bear", "cloud"]
    for file, first in (("train.bin", 0), ("test.bin", 60)) if fine else (
        ("data_batch_1.bin", 0), ("data_batch_2.bin", 30), ("test_batch.bin", 60)
    ):  # fmt: skip
        rows = b""
        for number in range(first, first + count):
            kind = number % 3
            numbers = bytes([9, kind]) if fine else bytes([kind])
            rows += numbers + pixels(kind, number, 32).transpose(2, 0, 1).tobytes()
        (folder / file).write_bytes(rows)
    file = "fine_label_names.txt" if fine else "batches.meta.txt"
    (folder / file).write_text("\n".join(names) + "\n\n")
    return folder


@pytest.mark.parametrize(
    ("fine", "inner"), [(False, "cifar-10-batches-bin"), (True, "cifar-100-binary")]
)
def test_cifars_binary_version(tmp_path: Path, fine: bool, inner: str) -> None:
    cifar(tmp_path / inner, fine=fine)
    data = load(tmp_path)
    assert data.labels == ("apple", "bear", "cloud")
    assert sum(sizes(data)[:2]) == (30 if fine else 60)
    assert len(data.test) == 30
    assert np.array_equal(decode_image(data.test.texts[0]), pixels(0, 60, 32))
    assert data.test.labels[:4] == (0, 1, 2, 0)
    assert load(tmp_path / inner).sha256 == data.sha256


def test_cifars_pickles_are_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    for file in ("data_batch_1", "batches.meta"):
        (folder / file).write_bytes(pickle.dumps(Bomb()))
    for place in (tmp_path, folder):
        assert refused(place) == (
            f"{place} holds CIFAR's Python version, which is pickles: reading them could run "
            "code, so nothing was opened. Take the binary version (cifar-10-binary.tar.gz) from "
            "the same page, or the hub's copy: --data uoft-cs/cifar10 --objective "
            "image-classification."
        )
    assert not (tmp_path / "ran").exists()


def test_damaged_cifar(tmp_path: Path) -> None:
    folder = cifar(tmp_path / "cifar")
    whole = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(whole[:-1])
    assert "has 92,189 bytes; expected a multiple of 3,073" in refused(folder)
    (folder / "test_batch.bin").write_bytes(b"\x03" + whole[1:])
    assert "has the class 3; expected 0 to 2, as batches.meta.txt has 3 names" in refused(folder)


# --- SVHN ---------------------------------------------------------------------------------------


def svhn(folder: Path, labels: list[int], file: str = "train_32x32.mat") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.stack([pixels(kind, i, 32) for i, kind in enumerate(labels)], axis=-1)
    savemat(folder / file, {"X": images, "y": np.array(labels, dtype=np.uint8)[:, None]})
    return folder


def test_svhn_counts_its_digits_from_one(tmp_path: Path) -> None:
    folder = svhn(tmp_path / "svhn", [1, 2, 10] * 12)
    svhn(folder, [10, 1, 2, 2], "test_32x32.mat")
    data = load(folder)
    assert data.labels == tuple("0123456789")
    assert data.test.labels == (0, 1, 2, 2)
    assert np.array_equal(decode_image(data.test.texts[1]), pixels(1, 1, 32))
    assert sum(sizes(data)[:2]) == 36
    svhn(folder, [0, 1, 2], "test_32x32.mat")
    assert refused(folder).endswith(
        "has the labels 0 to 2; expected SVHN's own 1 to 10, where 10 stands for the digit 0."
    )
    (folder / "test_32x32.mat").write_bytes(b"x" * 300)
    assert "test_32x32.mat is no file of SVHN's (" in refused(folder)
    savemat(folder / "test_32x32.mat", {"X": np.zeros((2, 2, 3, 4), np.uint8), "y": [[1, 2]]})
    assert "X is uint8 of shape (2, 2, 3, 4), y (2,)" in refused(folder)


# --- VisDA --------------------------------------------------------------------------------------


def visda(folder: Path) -> Path:
    for part, count, first in (("train", 20, 0), ("validation", 5, 100)):
        class_folders(folder / part, {"car": count, "bus": count}, first=first)
        lines = [f"{name}/{number:03}.png {kind}" for kind, name in enumerate(("car", "bus"))
                 for number in range(first, first + count)]  # fmt: skip
        (folder / part / "image_list.txt").write_text("\n".join(lines) + "\n")
    class_folders(folder / "test", {"trunk00": 6}, first=200)
    lines = [f"trunk00/{number}.png {number % 2}" for number in range(200, 206)]
    (folder / "test" / "image_list.txt").write_text("\n".join(lines))
    return folder


def test_visda_is_read_by_its_lists(tmp_path: Path) -> None:
    data = load(visda(tmp_path / "visda"))
    assert sizes(data) == [40, 10, 6]
    assert data.labels == ("car", "bus")
    assert data.test.labels == (0, 1, 0, 1, 0, 1)
    assert sizes(load(tmp_path / "visda", test_split="validation"))[2] == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car/000.png", "has 1 line that cannot be used: line 41 is 'car/000.png', not a path and"),
        ("../secret.png 0", "line 41 names '../secret.png', which lies outside the folder"),
        ("/etc/secret.png 0", "line 41 names '/etc/secret.png', which lies outside the folder"),
        ("bus/000.png 0", "line 41: bus/000.png has the number 0, which stands for 'car' further"),
        ("van/000.png 3", "class numbers are 0 to 3, 3 different ones; expected 0 to 2 (classes"),
        ("car/999.png 0", "car/999.png cannot be read: No such file or directory"),
    ],
)
def test_bad_lists(tmp_path: Path, line: str, message: str) -> None:
    folder = visda(tmp_path / "visda")
    with (folder / "train" / "image_list.txt").open("a") as file:
        file.write(line + "\n")
    assert message in refused(folder)


def test_labels_that_start_at_one(tmp_path: Path) -> None:
    folder = visda(tmp_path / "visda")
    path = folder / "train" / "image_list.txt"
    path.write_text(re.sub(r" (\d)$", lambda m: f" {int(m[1]) + 1}", path.read_text(), flags=re.M))
    assert refused(folder).endswith(
        "class numbers are 1 to 2, 2 different ones; expected 0 to 1 (classes count from 0)."
    )
    path = folder / "test" / "image_list.txt"
    visda(folder)
    path.write_text("trunk00/200.png 2\n")
    assert "test/image_list.txt, line 1: trunk00/200.png has the number 2, no class of the" in (
        refused(folder)
    )


# --- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 in little, as it lies on the hub."""
    offline_cache(monkeypatch, tmp_path / "cache")
    write_hub(tmp_path / "hub", "train", 48)
    return write_hub(tmp_path / "hub", "test", 10, first=100)


def write_hub(folder: Path, part: str, count: int, first: int = 0, **changes: Any) -> Path:
    import datasets

    folder.mkdir(exist_ok=True)
    numbers = range(first, first + count)
    rows = {
        "img": [{"bytes": png(pixels(i % 2, i)), "path": None} for i in numbers],
        "fine_label": [i % 2 for i in numbers],
        "coarse_label": [i % 4 // 2 for i in numbers],
    }
    kinds = {
        "img": datasets.Image(),
        "fine_label": datasets.ClassLabel(names=["pear", "ant"]),
        "coarse_label": datasets.ClassLabel(names=["fruit", "animal"]),
    }
    rows |= {name: value for name, value in changes.items() if name in rows}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    data.to_parquet(str(folder / f"{part}.parquet"))
    return folder


def test_an_image_data_set_of_the_hub(hub: Path) -> None:
    data = load(hub, label_column="fine_label")
    assert data.labels == ("pear", "ant")
    assert len(data.test) == 10
    assert data.test.labels == (0, 1) * 5
    assert np.array_equal(decode_image(data.test.texts[3]), pixels(1, 103))
    assert "has 2 columns of classes ('fine_label', 'coarse_label'); name one of" in refused(hub)
    assert "column 'coarse_label' holds no images; expected" in refused(
        hub, text_column="coarse_label", label_column="fine_label"
    )
    assert "no column 'fine_labels'. Did you mean 'fine_label'" in refused(
        hub, label_column="fine_labels"
    )


def test_cifar100_is_a_named_task(hub: Path) -> None:
    data = load_hub_task("cifar100", split_seed=0, say=lambda line: None, source=str(hub))
    assert (data.name, data.labels, len(data.test)) == ("cifar100", ("pear", "ant"), 10)
    for name in ("cifar10", "cifar100", "svhn"):
        assert TASKS[name].objective == "image-classification"
    with pytest.raises(DataError) as caught:
        load_hub_task("svhn", split_seed=0, say=lambda line: None, source=str(hub / "none"))
    assert "--data FOLDER --data-config cropped_digits --objective image-class" in str(caught.value)


def test_damaged_and_hidden_rows_of_the_hub(hub: Path) -> None:
    images = [{"bytes": png(pixels(i % 2, i)), "path": None} for i in range(48)]
    images[4] = {"bytes": cut(images[4]["bytes"]), "path": None}
    images[9] = {"bytes": b"", "path": None}
    write_hub(hub, "train", 48, img=images)
    message = refused(hub, label_column="fine_label")
    assert "has 2 images that cannot be used: train row 5 is damaged or cut short" in message
    assert "train row 10 is empty (0 bytes)" in message
    write_hub(hub, "train", 48)
    write_hub(hub, "test", 10, first=100, fine_label=[-1] * 10)
    data = load(hub, label_column="fine_label")
    assert data.notes == ("the test split hides its labels and was not used",)
    assert "hides its labels (all are -1), so it cannot be tested on" in refused(
        hub, label_column="fine_label", test_split="test"
    )
