"""The kernels under address and undefined-behaviour sanitizers, on whole and damaged matrices."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from ticketry.runtime import packing

NATIVE = Path(__file__).parents[2] / "native"

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="no compiler or cmake"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sanitized")
    for command in (
        ["cmake", "-S", str(NATIVE), "-B", str(out), "-DTICKETRY_SANITIZE=ON"],
        ["cmake", "--build", str(out)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return out / "ticketry_check"


def write_case(
    path: Path, rows: int, columns: int, tokens: int, sparsity: float, values: str = "fp32"
) -> None:
    draw = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = torch.randn(rows, columns, generator=draw)
    mask = torch.rand(rows, columns, generator=draw) >= sparsity
    inputs = torch.randn(columns, tokens, generator=draw)
    bias = torch.randn(rows, generator=draw)
    packed = packing.pack(weight, mask, values=values, block=64, panel=48)
    expected = packing.unpack(packed).double() @ inputs.double() + bias.double()[:, None]
    data = struct.pack("<4q", rows, columns, tokens, len(packed))
    for part in (packed, inputs, bias, expected.float()):
        data += part.contiguous().numpy().tobytes()
    path.write_bytes(data)


def test_no_matrix_whole_or_damaged_makes_the_kernels_step_outside(
    program: Path, tmp_path: Path
) -> None:
    shapes = [
        (1, 1, 1, 0.0),
        (7, 5, 1, 0.5),
        (130, 70, 67, 0.8),
        (96, 257, 5, 0.95),
        (9, 65, 33, 1),
        (130, 70, 67, 0.8, "bf16"),
        (96, 257, 5, 0.9, "int8"),
        (50, 64, 1, 0.6, "int8"),
        *((48, 48, 3, 0.7, values) for values in packing.VALUES),
    ]
    paths = []
    for i, shape in enumerate(shapes):
        paths.append(tmp_path / f"{i}.case")
        write_case(paths[-1], *shape)
    done = subprocess.run(
        [str(program), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(
        r"(\d+) products right, (\d+) damaged matrices refused, (\d+) read without a fault\n",
        done.stdout,
    )
    assert found
    whole, refused, passed = map(int, found.groups())
    assert whole >= 6 * len(shapes)
    assert refused >= 1000  # most damages hit a count; those of a value cannot be seen
    assert passed >= 100


def test_the_program_sees_a_wrong_product(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.case"
    write_case(path, 7, 5, 3, 0.5)
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)
    done = subprocess.run([str(program), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "status 0, element 20" in done.stderr
