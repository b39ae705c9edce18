"""The kernel library: where it is, whether it fits, and which instruction set it uses.

It is built from ``native/`` when ticketry is installed, and lies in the installed package. Without
a compiler ticketry installs all the same, without it; sparse matrices then run as dense ones.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ticketry.errors import ConfigError, PackedError, TicketryError, unknown_name

ABI = 4
ISA_VARIABLE = "TICKETRY_ISA"
LIBRARY_VARIABLE = "TICKETRY_LIBRARY"
ISAS = {"plain": 0, "neon": 1, "avx2": 2, "avx512": 3}
"""Name -> its number in ``native/ticketry.h``; later ones are preferred."""
_NAMES = ("libticketry_native.so", "libticketry_native.dylib", "ticketry_native.dll")


@dataclass(frozen=True)
class Library:
    """What was found.

    Attributes:
        path: of the library; None if there is none.
        missing: why there is none that can be used; empty if there is one.
        isas: instruction sets that this build and this machine share.
        handle: of ctypes.
    """

    path: Path | None
    missing: str
    isas: tuple[str, ...] = ()
    handle: Any = None


def library() -> Library:
    """Find and load the kernel library; it is loaded once."""
    return _load(os.environ.get(LIBRARY_VARIABLE))


def isa() -> str | None:
    """Return the instruction set in use, or None without the library.

    Raises:
        UnknownNameError: ``TICKETRY_ISA`` names none.
        ConfigError: it names one that this machine or this build lacks.
    """
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted and wanted not in ISAS:
        raise unknown_name(f"instruction set in {ISA_VARIABLE}", wanted, ISAS)
    found = library()
    if not found.isas:
        return None
    if not wanted:
        return found.isas[-1]
    if wanted not in found.isas:
        raise ConfigError(
            f"{ISA_VARIABLE}={wanted}, but this machine or this build of ticketry lacks it; "
            f"it has {', '.join(found.isas)}. Unset {ISA_VARIABLE} to use the best."
        )
    return wanted


def check(packed: Tensor, rows: int, columns: int) -> None:
    """Read a whole packed matrix; needs the library.

    Raises:
        PackedError: it is damaged, or of another shape.
    """
    handle = library().handle
    _raise(handle.ticketry_check(packed.data_ptr(), len(packed), rows, columns))


def multiply(
    packed: Tensor,
    shape: tuple[int, int],
    input: Tensor,
    bias: Tensor | None,
    activation: int,
    tokens_first: bool,
    found: Tensor | None = None,
) -> Tensor:
    """Return the product of a packed matrix; needs the library.

    Args:
        packed: uint8, of :func:`ticketry.runtime.packing.pack`.
        shape: (rows, columns).
        input: float32 (columns, tokens), or (tokens, columns) with ``tokens_first``; the last
            axis's elements are adjacent.
        bias: float32 (rows), or None.
        activation: its number in ``native/ticketry.h``.
        tokens_first: the layout of input and output.
        found: where it is written, contiguous; None makes one.
    Returns:
        float32 (rows, tokens), or (tokens, rows) with ``tokens_first``.

    Raises:
        PackedError: the packed matrix is damaged, or of another shape.
    """
    rows, columns = shape
    tokens = input.shape[0] if tokens_first else input.shape[1]
    if found is None:
        found = input.new_empty((tokens, rows) if tokens_first else (rows, tokens))
    _raise(
        library().handle.ticketry_multiply(
            *(_isa(), packed.data_ptr(), len(packed), rows, columns),
            *(input.data_ptr(), max(input.stride(0), input.shape[1]), int(tokens_first), tokens),
            *(None if bias is None else bias.data_ptr(), activation),
            *(found.data_ptr(), found.shape[1], int(tokens_first), torch.get_num_threads()),
        )
    )
    return found


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    shape: tuple[int, int],
    scaling: float,
) -> Tensor:
    """Return softmax(scaling · qᵀk + bias)·v for tokens in the last axis; needs the library.

    Args:
        query: float32 (heads · size, batch · length), contiguous; so are key and value.
        key: like the query.
        value: like the query.
        bias: float32 (batch, length), added to the scores of its key; None adds nothing.
        shape: (batch, heads).
        scaling: of the scores.
    Returns:
        Like the query.
    """
    (batch, heads), (features, tokens) = shape, query.shape
    found = torch.empty_like(query)
    _raise(
        library().handle.ticketry_attend(
            *(_isa(), query.data_ptr(), key.data_ptr(), value.data_ptr(), tokens, batch),
            *(tokens // max(batch, 1), heads, features // heads),
            *(None if bias is None else bias.data_ptr(), scaling, found.data_ptr()),
            torch.get_num_threads(),
        )
    )
    return found


def add_norm(input: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(input + residual) over the first axis; needs the library.

    Args:
        input: float32 (features, tokens), contiguous.
        residual: like the input.
        weight: float32 (features).
        bias: like the weight.
        eps: added to the variance.
    """
    found = torch.empty_like(input)
    _raise(
        library().handle.ticketry_add_norm(
            *(_isa(), input.data_ptr(), residual.data_ptr(), *input.shape, weight.data_ptr()),
            *(bias.data_ptr(), eps, found.data_ptr(), torch.get_num_threads()),
        )
    )
    return found


def layers(tensors: list[Tensor]) -> Any:
    """Return an encoder's layers as the library reads them: where the tensors lie.

    Args:
        tensors: of :func:`ticketry.runtime.ops.encode`, contiguous; they must outlive it.
    """
    found = (_LAYER * (len(tensors) // 16))()
    for layer, start in zip(found, range(0, len(tensors), 16), strict=True):
        each = tensors[start : start + 16]
        for matrix, data, add in zip(layer.matrices, each[:12:2], each[1:12:2], strict=True):
            matrix.data, matrix.bias = data.data_ptr(), add.data_ptr()
            matrix.bytes = len(data) if data.dtype == torch.uint8 else -1
        for i in range(2):
            layer.norm_weight[i] = each[12 + 2 * i].data_ptr()
            layer.norm_bias[i] = each[13 + 2 * i].data_ptr()
    return found


def encode(
    states: Tensor,
    layers: Any,
    inner: int,
    bias: Tensor | None,
    heads: int,
    numbers: tuple[float, float, int],
) -> Tensor:
    """Return what an encoder's layers make of its states; needs the library.

    Args:
        states: float32 (batch, length, hidden), contiguous; not empty.
        layers: of :func:`layers`.
        inner: width of the feed-forward part.
        bias: float32 (batch, length), added to the scores of its key; None adds nothing.
        heads: of the attention.
        numbers: scaling of the scores, eps of the norms, the activation's number.
    Returns:
        Like the states.

    Raises:
        PackedError: a packed matrix is damaged, or of another shape.
    """
    batch, length, hidden = states.shape
    scaling, eps, activation = numbers
    found = torch.empty_like(states)
    _raise(
        library().handle.ticketry_encode(
            *(_isa(), layers, len(layers), states.data_ptr(), batch, length, heads),
            *(hidden // heads, inner, None if bias is None else bias.data_ptr(), scaling, eps),
            *(activation, found.data_ptr(), torch.get_num_threads()),
        )
    )
    return found


class _MATRIX(ctypes.Structure):
    """``ticketry_matrix`` of ``native/ticketry.h``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
    )


class _LAYER(ctypes.Structure):
    """``ticketry_layer`` of ``native/ticketry.h``."""

    _fields_ = (
        ("matrices", _MATRIX * 6),
        ("norm_weight", ctypes.c_void_p * 2),
        ("norm_bias", ctypes.c_void_p * 2),
    )


def _isa() -> int:
    chosen = isa()
    if chosen is None:
        raise TicketryError(library().missing)
    return ISAS[chosen]


_FAULTS = {
    2: "the packed matrix is damaged: its counts do not add up. Pack the weights again.",
    3: "the packed matrix has another shape than its layer.",
}


def _raise(status: int) -> None:
    if status == 0:
        return
    if status in _FAULTS:
        raise PackedError(_FAULTS[status])
    if status == 5:
        raise MemoryError("not enough memory for a sparse product")
    raise TicketryError(f"the kernel library refused a call (status {status}); this is a bug.")


@cache
def _load(chosen: str | None) -> Library:
    places = [Path(chosen)] if chosen else _places()
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        where = f"{chosen} is no file" if chosen else "it was installed without a C++ compiler"
        return Library(
            None,
            f"ticketry's sparse kernels are missing ({where}): sparse layers run as dense ones. "
            "Install a C++17 compiler, then ticketry again (`make setup` in a checkout).",
        )
    try:
        handle = ctypes.CDLL(str(path))
        abi = handle.ticketry_abi()
    except (OSError, AttributeError) as error:
        return Library(path, f"ticketry's sparse kernels cannot be loaded: {error}")
    if abi != ABI:
        return Library(
            path,
            f"ticketry's sparse kernels at {path} are of version {abi}, this ticketry needs "
            f"{ABI}: sparse layers run as dense ones. Install ticketry again.",
        )
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    number = ctypes.c_int32
    handle.ticketry_check.argtypes = [pointer, integer, integer, integer]
    handle.ticketry_multiply.argtypes = [
        *(number, pointer, integer, integer, integer, pointer, integer, number, integer, pointer),
        *(number, pointer, integer, number, number),
    ]
    real = ctypes.c_float
    handle.ticketry_attend.argtypes = [
        *(number, pointer, pointer, pointer, integer, integer, integer, integer, integer),
        *(pointer, real, pointer, number),
    ]
    handle.ticketry_add_norm.argtypes = [
        *(number, pointer, pointer, integer, integer, pointer, pointer, real, pointer, number)
    ]
    handle.ticketry_encode.argtypes = [
        *(number, pointer, integer, pointer, integer, integer, integer, integer, integer),
        *(pointer, real, real, number, pointer, number),
    ]
    handle.ticketry_use_team.argtypes = [pointer]
    handle.ticketry_use_team.restype = None
    handle.ticketry_use_team(_team())
    isas = tuple(name for name, code in ISAS.items() if handle.ticketry_has(code))
    return Library(path, "", isas, handle)


def _team() -> Any:
    """Return ``GOMP_parallel`` of the OpenMP library that torch has loaded, or None.

    Work shared among torch's own threads need not fight for the processors with them: they spin for
    a while after each of torch's operators.
    """
    inside = Path(torch.__file__).parent
    for folder in (inside / "lib", inside.parent / "torch.libs"):
        for path in sorted(folder.glob("lib*omp*")):
            try:
                only_loaded = getattr(os, "RTLD_NOLOAD", None)
                if only_loaded is None:
                    return None
                handle = ctypes.CDLL(str(path), mode=only_loaded | os.RTLD_LAZY)
                return ctypes.cast(handle.GOMP_parallel, ctypes.c_void_p)
            except (OSError, AttributeError):
                continue
    return None


def _places() -> list[Path]:
    """Return where the library may lie: beside the package's code, or where it was installed.

    An editable installation has code and library in different folders (``native/install.sh``).
    """
    folders = [Path(__file__).parents[1]]
    folders += [Path(sysconfig.get_path(kind)) / "ticketry" for kind in ("platlib", "purelib")]
    return [folder / name for folder in folders for name in _NAMES]
