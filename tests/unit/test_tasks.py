"""The packaged tasks and the asset cache. What needs a download is skipped until it was fetched."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ticketry import assets
from ticketry.assets import HUTTO, MINILM, Asset, cache_dir, fetch, is_fetched, verify_asset
from ticketry.errors import DataError, UnknownNameError
from ticketry.tasks.registry import TASKS, load_task
from ticketry.tasks.splits import normalise

needs_sentences = pytest.mark.skipif(
    not is_fetched(HUTTO), reason="the packaged sentences were not fetched yet (make ticket)"
)
needs_minilm = pytest.mark.skipif(
    not is_fetched(MINILM), reason="the packaged BERT was not fetched yet (make ticket)"
)


def test_an_unknown_task_shows_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'movie'. Did you mean 'movies'"):
        load_task("movie")


@needs_sentences
def test_movies_by_count() -> None:
    data = load_task("movies")
    # 10,605 sentences less 562 within ±0.5.
    sizes = [len(s.labels) for s in (data.train, data.validation, data.test)]
    assert sizes == [7043, 1000, 2000]
    assert sum(sizes) == 10_605 - 562
    assert data.labels == ("negative", "positive")
    assert "562 sentences rated within ±0.5 were left out" in data.notes
    assert not set(data.train.texts) & set(data.test.texts)
    assert data.sha256 == load_task("movies").sha256


@needs_sentences
def test_amazon_keeps_a_review_on_one_side() -> None:
    data = load_task("amazon")
    assert sum(len(s.labels) for s in (data.train, data.validation, data.test)) == 2943
    path = cache_dir() / HUTTO.name / "amazonReviewSnippets_GroundTruth.txt"
    document = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, text = line.split("\t")
        document.setdefault(text.strip(), set()).add(name.rsplit("_", 1)[0])
    sides: dict[str, set[str]] = {}
    for side in ("train", "validation", "test"):
        for text in getattr(data, side).texts:
            if len(document[text]) == 1:
                sides.setdefault(next(iter(document[text])), set()).add(side)
    assert len(sides) > 250
    assert all(len(found) == 1 for found in sides.values())


RATED = {
    # 4,200 tweets less 838 within ±0.5 and 2 with two labels; editorials less 2,402.
    "tweets": 3360,
    "nyt": 2788,
    "movies-rating": 10_605,
    "amazon-rating": 3708,
    "tweets-rating": 4200,
    "nyt-rating": 5190,
}


@needs_sentences
@pytest.mark.parametrize("name", RATED)
def test_rated_corpora_by_count(name: str) -> None:
    data = load_task(name)
    splits = (data.train, data.validation, data.test)
    assert sum(map(len, splits)) == RATED[name]
    assert f"{RATED[name]:,}" in TASKS[name].description
    assert (data.metric, data.objective) == (TASKS[name].metric, TASKS[name].objective)
    if name.endswith("-rating"):
        assert data.labels == ("rating",)
        assert all(-4 <= label <= 4 for part in splits for label in part.labels)
        means = [sum(part.labels) / len(part) for part in splits]
        assert max(means) - min(means) < 0.2  # stratified, as far as whole documents allow
    assert not set(map(normalise, data.train.texts)) & set(map(normalise, data.test.texts))


def test_a_line_that_is_no_rated_sentence_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ticketry.tasks import embedded

    monkeypatch.setattr(embedded, "fetch_hutto", lambda say: tmp_path)
    for line, message in (("1\t0.5", "2 fields; expected 3"), ("1\tx\tt", "the rating is 'x'; ex")):
        (tmp_path / "a.txt").write_text(f"1\t2.5\tfine\n{line}\n")
        with pytest.raises(DataError, match=f"line 2: {message}"):
            embedded.load_rated(
                "a", "a.txt", polarity=True, by_document=False, split_seed=0, say=print
            )


@needs_sentences
@needs_minilm
def test_cached_assets_are_what_was_published() -> None:
    assert verify_asset(HUTTO) == []
    assert verify_asset(MINILM) == []


def make_asset(tmp_path: Path, *, nested: bool = False) -> tuple[Asset, bytes]:
    content = b"hello"
    sha256 = hashlib.sha256(content).hexdigest()
    buffer = io.BytesIO()
    if nested:
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w:gz") as tar:
            info = tarfile.TarInfo("in/a.txt")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            info = tarfile.TarInfo("out/inner.tar.gz")
            info.size = len(inner.getvalue())
            tar.addfile(info, io.BytesIO(inner.getvalue()))
        name, inside, prefix = "a.tar.gz", "out/inner.tar.gz", "in/"
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("in/a.txt", content)
            archive.writestr("../../evil.txt", "climbs out")
        name, inside, prefix = "a.whl", None, "in/"
    data = buffer.getvalue()
    asset = Asset(
        "small", "a small thing", "small==1", False, name, hashlib.sha256(data).hexdigest(), 1,
        inside, prefix, {"a.txt": sha256},
    )  # fmt: skip
    return asset, data


@pytest.mark.parametrize("nested", [False, True])
def test_only_named_files_are_unpacked_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    asset, data = make_asset(tmp_path, nested=nested)
    (tmp_path / asset.archive).write_bytes(data)
    assets._unpack(asset, tmp_path / asset.archive, tmp_path / "files")
    assert [p.name for p in (tmp_path / "files").iterdir()] == ["a.txt"]
    assert not (tmp_path.parent / "evil.txt").exists()
    wrong = Asset(**{**asset.__dict__, "files": {"a.txt": "0" * 64}})
    with pytest.raises(DataError, match="is not what was published"):
        assets._unpack(wrong, tmp_path / asset.archive, tmp_path / "wrong")


def test_a_package_that_cannot_be_had_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset, _ = make_asset(tmp_path)
    monkeypatch.setenv("TICKETRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match="a small thing could not be fetched as the package small"):
        fetch(asset)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_a_package_with_another_hash_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real wheel that pip really gives, under a hash that it does not have.
    name = "small-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr(
            "small-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1\n"
        )
        wheel.writestr("small-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("small-1.dist-info/RECORD", "")
    asset = Asset("small", "it", "small==1", False, name, "0" * 64, 1, None, "in/", {"a.txt": ""})
    monkeypatch.setenv("TICKETRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match="is not what was published: its SHA-256 is"):
        fetch(asset)
    assert not is_fetched(asset)
