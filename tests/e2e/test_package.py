"""Wheel and sdist: what is in them, and that the wheel works where nothing of the tree is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import ticketry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return out


def wheel_of(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_the_version_is_said_once(built: Path) -> None:
    assert wheel_of(built).name.startswith(f"ticketry-{ticketry.__version__}-py3-none-")
    places = [
        path
        for path in (ROOT / "src").rglob("*.py")
        if f'"{ticketry.__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert places == [ROOT / "src" / "ticketry" / "__init__.py"]
    assert not re.search(r'^version = "', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"ticketry", f"ticketry-{ticketry.__version__}.dist-info"}
    for needed in ("ticketry/py.typed", "ticketry/templates/report.html.j2"):
        assert needed in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "ticketry").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= set(names)
    extras = set(re.findall(r"^Provides-Extra: (\S+)", metadata, re.MULTILINE))
    assert {"all", "data", "dev", "report"} <= extras


def test_the_sdist_can_be_built_from(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / f"ticketry-{ticketry.__version__}"
    assert not any("/tests/" in name or "/.git/" in name for name in names)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", str(tmp_path / "again")],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    (again,) = (tmp_path / "again").glob("*.whl")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel_of(built)) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_the_wheel_works_in_an_environment_of_its_own(
    built: Path, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python, command = place / "bin" / "python", place / "bin" / "ticketry"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel_of(built))], check=True
    )
    # The dependencies are this environment's; a path file comes after the environment's own.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}

    def run(program: Path, *arguments: object) -> str:
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import ticketry; print(ticketry.__file__)")
    assert Path(where.strip()).is_relative_to(place)
    assert run(command, "--version").strip() == f"ticketry {ticketry.__version__}"
    said = run(
        command,
        *("find", "--model", tiny_model, "--data", reviews),
        *("--text-column", "review", "--label-column", "verdict", "--levels", "1"),
        *("--replicates", "2", "--epochs", "1", "--controls", "none", "--workers", "2"),
        *("--out", "run"),
    )
    assert "Ticket: run/ticket" in said
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
