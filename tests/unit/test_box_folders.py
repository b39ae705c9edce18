"""VOC's and COCO's layouts: boxes and classes of pixels as tasks, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from little_images import coco_content, coco_folder, cut, saved, voc_folder, voc_xml
from ticketry.errors import DataError
from ticketry.metrics.maps import decode_map
from ticketry.tasks.base import TaskData
from ticketry.tasks.files import load_file
from ticketry.tasks.readers.voc import parse_xml


def load(data: Path, objective: str = "detection", **options: Any) -> TaskData:
    return load_file(str(data), objective=objective, **options)


def sizes(data: TaskData) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


def refused(data: Path, objective: str = "detection", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(data, objective, **options)
    return str(caught.value)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return voc_folder(tmp_path / "voc")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return coco_folder(tmp_path / "coco")


# --- VOC, boxes ---------------------------------------------------------------------------------


def test_boxes_of_voc_count_from_one_and_the_last_pixel_is_inside(voc: Path) -> None:
    data = load(voc)
    assert sizes(data) == [20, 6, 4]
    assert (data.labels, data.metric, data.objective) == (("cat", "dog"), "ap", "detection")
    assert data.train.labels[0] == ((0, 0.0, 0.0, 4.0, 8.0, 0),)
    # A difficult one is marked as such: it is not a crowd.
    assert data.train.labels[3] == (
        (0, 0.0, 0.0, 4.0, 8.0, 0), (1, 5.0, 1.0, 12.0, 8.0, 2)
    )  # fmt: skip
    assert data.train.texts[0].startswith("8x12x3:")
    assert data.notes == (
        "7 of 45 objects are crowds or difficult: nothing is learned of them, and finding them "
        "neither helps nor harms",
    )
    assert TaskData.from_json(json.loads(json.dumps(data.to_json()))) == data


def test_vocs_lists_and_years(voc: Path, tmp_path: Path) -> None:
    assert sizes(load(voc, test_split="val"))[2] == 6
    for file in (voc / "ImageSets" / "Main").glob("*.txt"):
        file.unlink()
    whole = load(voc)
    assert sum(sizes(whole)) == 30
    assert sizes(whole)[2] == 6
    kit = tmp_path / "VOCdevkit"
    kit.mkdir()
    voc.rename(kit / "VOC2007")
    assert load(tmp_path).sha256 == load(kit).sha256 == whole.sha256
    voc_folder(kit / "VOC2012", 4)
    data = load(kit / "VOC2007", test_data=str(kit / "VOC2012"))
    assert len(data.test) == 4


def test_several_years_of_boxes_are_one_set(voc: Path, tmp_path: Path) -> None:
    kit = tmp_path / "VOCdevkit"
    kit.mkdir()
    voc.rename(kit / "VOC2007")
    later = voc_folder(kit / "VOC2012")
    (later / "ImageSets" / "Main" / "test.txt").unlink()  # 2012's were never published
    data = load(kit)
    assert len(data.test) == 4, "2007's"
    assert sum(sizes(data)) == 2 * (20 + 6) + 4
    assert "holds several years of VOC (VOC2007, VOC2012); name one" in refused(
        kit, objective="segmentation"
    )


def test_a_split_without_labels_is_left_alone(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_text("9990\n9991\n")
    data = load(voc)
    assert sum(sizes(data)) == 26
    assert len(data.validation) == 6


def write(voc: Path, name: str, objects: list[tuple[Any, ...]], size: Any = (12, 8)) -> None:
    (voc / "Annotations" / f"{name}.xml").write_text(voc_xml(size, objects))


BAD_VOC: dict[str, tuple[Callable[[Path], Any], str]] = {
    "outside": (
        lambda voc: write(voc, "0001", [("cat", 1, 1, 15, 8, 0)]),
        "1 label that cannot be used: 0001, object 1: the box 0, 0, 15, 8 lies outside the picture "
        "of 12 × 8 pixels. Mend or remove them.",
    ),
    "zero area": (
        lambda voc: write(voc, "0001", [("cat", 1, 1, 4, 8, 0), ("dog", 7, 5, 6, 8, 0)]),
        "0001, object 2: the box 6, 4, 6, 8 has no area",
    ),
    "not a number": (
        lambda voc: write(voc, "0001", [("cat", "nan", 1, 4, 8, 0)]),
        "0001, object 1: the box nan, 0, 4, 8 has no area",
    ),
    "words": (
        lambda voc: write(voc, "0001", [("cat", "left", 1, 4, 8, 0)]),
        "Annotations/0001.xml has an object 1 whose bndbox is ['left', '1', '4', '8']; expected",
    ),
    "no name": (
        lambda voc: write(voc, "0001", [(" ", 1, 1, 4, 8, 0)]),
        "Annotations/0001.xml has an object 1 without a name",
    ),
    "another size": (
        lambda voc: write(voc, "0001", [], size=(8, 12)),
        "0001: its labels are of 8 × 12 pixels, the picture has 12 × 8",
    ),
    "no picture": (
        lambda voc: (voc / "JPEGImages" / "0001.jpg").unlink(),
        "0001: there is no picture of it",
    ),
    "no labels": (
        lambda voc: (voc / "Annotations" / "0001.xml").unlink(),
        "Annotations/0001.xml is missing",
    ),
    "cut": (
        lambda voc: (voc / "Annotations" / "0001.xml").write_text("<annotation><size>"),
        "Annotations/0001.xml is not XML (no element found",
    ),
    "entities": (
        lambda voc: (voc / "Annotations" / "0001.xml").write_text(
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
        ),
        "Annotations/0001.xml defines a document type or entities, which VOC's files do not",
    ),
    "much": (
        lambda voc: (voc / "Annotations" / "0001.xml").write_bytes(b" " * (1 << 20) + b"<a/>"),
        "Annotations/0001.xml has 1,048,580 bytes; expected at most 1,048,576",
    ),
    "damaged picture": (
        lambda voc: (voc / "JPEGImages" / "0001.jpg").write_bytes(
            cut((voc / "JPEGImages" / "0001.jpg").read_bytes())
        ),
        "1 image that cannot be used: 0001 is ",
    ),
    "twice": (
        lambda voc: (voc / "ImageSets" / "Main" / "train.txt").write_text("0001\n0002\n0001\n"),
        "has 1 line that cannot be used: '0001' stands there 2 times. Expected the name of a",
    ),
    "path": (
        lambda voc: (voc / "ImageSets" / "Main" / "train.txt").write_text("../0001\n0002\n"),
        "'../0001' is a path",
    ),
    "few": (
        lambda voc: (voc / "ImageSets" / "Main" / "train.txt").write_text("0001\n0002\n"),
        "has 2 images to train on; expected at least 20.",
    ),
    "strange class": (
        lambda voc: write(voc, "0029", [("cow", 1, 1, 4, 8, 0)]),
        "the test images have the class 'cow', which the training images lack; they have 'cat'",
    ),
    "nothing counts": (
        lambda voc: [write(voc, f"{n:04}", [("cat", 1, 1, 4, 8, 1)]) for n in range(20, 26)],
        "the validation part of",
    ),
}


@pytest.mark.parametrize("fault", BAD_VOC)
def test_bad_boxes_of_voc(voc: Path, fault: str) -> None:
    spoil, message = BAD_VOC[fault]
    spoil(voc)
    assert message in refused(voc)


def test_all_faults_are_said_at_once(voc: Path) -> None:
    write(voc, "0001", [("cat", 1, 1, 15, 8, 0)])
    write(voc, "0002", [("cat", 9, 9, 3, 8, 0)])
    (voc / "JPEGImages" / "0003.jpg").unlink()
    assert "has 3 labels that cannot be used: 0001, object 1:" in refused(voc)


def test_a_box_that_is_one_pixel_off_is_cut_and_counted(voc: Path) -> None:
    write(voc, "0001", [("cat", 0, 1, 13, 8, 0)])
    data = load(voc)
    assert data.train.labels[1] == ((0, 0.0, 0.0, 12.0, 8.0, 0),)
    assert data.notes[-1] == (
        "1 of 44 boxes reached up to 1 pixel beyond their picture and were cut there"
    )


def test_xml_in_other_encodings_hides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"))
    with pytest.raises(DataError, match="looks like UTF-16"):
        parse_xml(file)
    file.write_bytes(b'<?xml version="1.0" encoding="utf-7"?><a>+ADw-</a>')
    assert parse_xml(file).text == "+ADw-"


def test_what_is_no_layout_of_boxes(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    assert refused(tmp_path).startswith(
        f"{tmp_path} has no layout that --objective detection is read from; expected one of: VOC "
        "(JPEGImages/NAME.jpg, Annotations/NAME.xml"
    )
    assert refused(tmp_path / "none") == (
        f"there is no folder '{tmp_path / 'none'}'; --objective detection expects one."
    )


# --- VOC, classes of pixels -----------------------------------------------------------------------


def test_masks_of_voc(voc: Path) -> None:
    data = load(voc, "segmentation")
    assert sizes(data) == [20, 6, 4]
    assert (data.labels[0], data.labels[8], len(data.labels)) == ("background", "cat", 21)
    classes = decode_map(data.test.labels[0])
    assert classes.shape == (8, 12)
    assert classes[0].tolist() == [255] * 12
    assert classes[3].tolist() == [8] * 4 + [0] + [12] * 7
    assert TaskData.from_json(json.loads(json.dumps(data.to_json()))) == data


def test_masks_of_classes_of_your_own(voc: Path) -> None:
    (voc / "labels.txt").write_text("none\n" + "\n".join(f"kind {i}" for i in range(1, 13)) + "\n")
    assert load(voc, "segmentation").labels[12] == "kind 12"
    (voc / "labels.txt").write_text("none\ncat\ndog\n")
    message = refused(voc, "segmentation")
    assert (
        "has 30 labels that cannot be used: SegmentationClass/0000.png has the class 12" in message
    )
    assert (
        "expected 0 to 2, or 255 where nothing is asked: labels.txt has 3 names, and classes count "
        "from 0"
    ) in message


def mask(voc: Path, content: bytes) -> None:
    (voc / "SegmentationClass" / "0001.png").write_bytes(content)


def test_bad_masks(voc: Path) -> None:
    whole = (voc / "SegmentationClass" / "0001.png").read_bytes()
    grey = Image.fromarray(np.full((12, 8), 1, dtype=np.uint8))
    for content, message in (
        (saved(grey, "PNG"), "0001.png has 8 × 12 pixels, its picture 12 × 8"),
        (
            saved(grey.convert("RGB"), "PNG"),
            "0001.png is of mode RGB; expected a palette or 8 bits",
        ),
        (whole[:-30], "0001.png is damaged or cut short ("),
        (b"", "0001.png is empty (0 bytes)"),
        (b"no", "0001.png is no picture (PNG, BMP, TIFF, GIF are read)"),
    ):
        mask(voc, content)
        assert f"SegmentationClass/{message}" in refused(voc, "segmentation")
    (voc / "SegmentationClass" / "0001.png").unlink()
    assert "SegmentationClass/0001.png is missing" in refused(voc, "segmentation")
    mask(voc, saved(Image.fromarray(np.full((8, 12), 21, dtype=np.uint8)), "PNG"))
    assert "has the class 21; expected 0 to 20, or 255 where nothing is asked: VOC has 21" in (
        refused(voc, "segmentation")
    )


# --- COCO -----------------------------------------------------------------------------------------


def test_boxes_of_coco(coco: Path) -> None:
    data = load(coco, test_split="val")
    assert sizes(data) == [27, 3, 6]
    # In the order of their numbers, without the category that nothing is of.
    assert data.labels == ("zebra", "ant")
    assert data.test.labels[0] == ((0, 1.0, 2.0, 5.5, 7.0, 0),)
    assert data.test.labels[4] == ((0, 1.0, 2.0, 5.5, 7.0, 1),)
    assert sizes(load(coco)) == [24, 6, 6]  # val stays validation


def test_coco_beside_its_pictures(coco: Path) -> None:
    for split in ("train", "val"):
        (coco / f"{split}2017").rename(coco / split)
        file = coco / "annotations" / f"instances_{split}2017.json"
        file.rename(coco / split / "_annotations.coco.json")
    assert sizes(load(coco, test_split="val")) == [27, 3, 6]


def edited(part: str, number: int, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[part][number].update(values)


BAD_COCO: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "outside": (
        edited("annotations", 2, bbox=[5, 2, 9, 3]),
        "annotation 102: the box 5, 2, 14, 5 lies outside the picture of 12 × 8 pixels",
    ),
    "zero area": (
        edited("annotations", 2, bbox=[5, 2, 0, 3]),
        "annotation 102: the box 5, 2, 5, 5 has no area",
    ),
    "not finite": (
        edited("annotations", 2, bbox=[5, 2, float("nan"), 3]),
        "annotation 102 has the bbox [5, 2, nan, 3]; expected x, y, width, height",
    ),
    "huge": (
        edited("annotations", 2, bbox=[5, 2, 10**400, 3]),
        "; expected x, y, width, height",
    ),
    "no box": (
        edited("annotations", 2, bbox=None),
        "annotation 102 has the bbox None; expected x, y, width, height",
    ),
    "unknown category": (
        edited("annotations", 2, category_id=1),
        "annotation 102 has the category 1; the file's are 3, 7, 9",
    ),
    "a list as category": (
        edited("annotations", 2, category_id=[]),
        "annotation 102 has the category []; the file's are 3, 7, 9",
    ),
    "unknown image": (
        edited("annotations", 2, image_id=999),
        "annotation 102 is of the image 999, not there",
    ),
    "no picture": (
        edited("images", 2, file_name="gone.jpg"),
        "image 2 (gone.jpg): there is no picture of it",
    ),
    "path outside": (
        edited("images", 2, file_name="../val2017/30.jpg"),
        "image 2 has the file '../val2017/30.jpg', which is no path inside",
    ),
    "another size": (
        edited("images", 2, width=8),
        "image 2 (2.jpg): its labels are of 8 × 8 pixels, the picture has 12 × 8",
    ),
    "image twice": (
        edited("images", 2, id=3),
        "has 1 id that cannot be used: images have the id '3' 2 times. Expected each id once",
    ),
    "annotation twice": (
        edited("annotations", 2, id=103),
        "annotations have the id '103' 2 times",
    ),
    "category twice": (
        edited("categories", 2, id=3),
        "categories have the id '3' 2 times",
    ),
    "name twice": (
        edited("categories", 2, name="ant"),
        "has the category {'id': 9, 'name': 'ant'}; expected a whole number as id, and a name",
    ),
    "no list": (
        lambda content: content.update(images={}),
        "is not in COCO's layout; expected lists of images, annotations, categories.",
    ),
    "no objects": (
        lambda content: content.update(annotations=[]),
        "have the class 'ant', which the training images lack; they have none.",
    ),
}


@pytest.mark.parametrize("fault", BAD_COCO)
def test_bad_boxes_of_coco(coco: Path, fault: str) -> None:
    spoil, message = BAD_COCO[fault]
    content = coco_content(0, 30)
    spoil(content)
    (coco / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    assert message in refused(coco)


def test_bad_files_of_coco(coco: Path) -> None:
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text()[:100])
    assert "instances_train2017.json is not JSON: " in refused(coco)
    file.write_text("[" * 100_000)
    assert "instances_train2017.json is not JSON: " in refused(coco)
    (coco / "annotations" / "train.json").write_text("{}")
    assert (
        "has instances_train2017.json and train.json, both of the split 'train'; expected one"
        in refused(coco)
    )


def test_numbers_that_start_at_one_are_numbers_like_others(coco: Path) -> None:
    before = load(coco)
    for split, first, count in (("train2017", 0, 30), ("val2017", 30, 6)):
        content = coco_content(first, count)
        for row in content["categories"]:
            row["id"] = {3: 1, 7: 2, 9: 3}[row["id"]]
        for row in content["annotations"]:
            row["category_id"] = {3: 1, 7: 2}[row["category_id"]]
        (coco / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    assert load(coco).sha256 == before.sha256
