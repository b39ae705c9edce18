"""To ONNX, by torch's own exporter; the outputs are compared under ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ticketry.errors import ExportError
from ticketry.export.source import BESIDE, Source, inputs_of, length_limit
from ticketry.export.written import RECORD_FILE, Export
from ticketry.files import pretty_json, storage_errors, swap_folder

MODEL_FILE = "model.onnx"
NEEDS = ("onnx", "onnxruntime", "onnxscript")
LARGEST_DIFFERENCE = 1e-4
"""Of outputs, times the largest output; more is refused. Orders of float32 sums differ."""
_TRACED = (2, 16)
_COMPARED = ((1, 1), (2, 16), (3, 50), (1, 128))
_ONE_FILE_BYTES = 1_500_000_000
"""A protobuf file ends at 2 GiB; larger weights go into a file beside it."""


def check_libraries() -> None:
    """Refuse at once what could not be written or compared.

    Raises:
        ExportError: names what is missing and the command that installs it.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"the export to ONNX needs {', '.join(missing)}, not installed here; run: "
            "pip install 'ticketry[onnx]'"
        )


def write_onnx(source: Source, out: Path) -> Export:
    """Write a model's folder: ``model.onnx``, configuration, tokenizer, and a record.

    The batch and the number of tokens are free. Zeros stay in the file as ordinary numbers.

    Args:
        source: the model.
        out: the folder to write.

    Raises:
        ExportError: torch's exporter does not take the model, or ONNX Runtime gives other outputs;
            nothing was written.
    """
    wrapped = _Outputs(source.model, inputs_of(source.model, *_TRACED))
    out.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(out), tempfile.TemporaryDirectory(
        prefix=f".{out.name}.", dir=out.parent
    ) as place:  # fmt: skip
        folder = Path(place) / "new"
        folder.mkdir()
        _export(wrapped, source, folder / MODEL_FILE)
        difference, largest, compared = _compare(wrapped, source, folder / MODEL_FILE)
        found = Export(
            target="onnx",
            source=source.name,
            file_bytes=sum(path.stat().st_size for path in folder.iterdir()),
            dense_bytes=source.dense_bytes,
            packed_bytes=source.packed_bytes(),
            zeros=source.zeros(),
            largest_difference=difference,
            largest_output=largest,
            compared=compared,
            inputs=wrapped.inputs,
            outputs=tuple(wrapped.names),
            versions=_versions(),
        )
        for name in BESIDE:
            if (source.folder / name).is_file():
                (folder / name).write_bytes((source.folder / name).read_bytes())
        (folder / RECORD_FILE).write_bytes(pretty_json(found.to_json()))
        swap_folder(folder, out)
    return found


class _Outputs(nn.Module):
    """Gives a model's tensors by position, as an ONNX graph does."""

    def __init__(self, model: Any, inputs: Iterable[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.options: dict[str, Any] = {"return_dict": True}
        if hasattr(model.config, "use_cache"):
            self.options["use_cache"] = False
        self.names: list[str] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, inputs, strict=True)), **self.options)
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        self.names = list(tensors)
        return tuple(tensors.values())


def _export(wrapped: _Outputs, source: Source, path: Path) -> None:
    inputs = inputs_of(source.model, *_TRACED)
    with torch.inference_mode():
        wrapped(*inputs.values())  # says the outputs' names
    batch = torch.export.Dim("batch")
    axes: dict[str, dict[int, Any]] = {}
    for name, value in inputs.items():
        axes[name] = {0: batch}
        if value.dim() == 2:
            word = "target" if name.startswith("decoder") else "sequence"
            axes[name][1] = torch.export.Dim(word, max=length_limit(source.model))
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapped,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=wrapped.names,
                dynamic_shapes=(tuple(axes[name] for name in inputs),),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            _forget_origins(program.model)
            program.save(str(path), external_data=source.dense_bytes > _ONE_FILE_BYTES)
    except Exception as error:  # torch and onnxscript raise kinds of their own by the dozen
        # The innermost one has the reason; what wraps it speaks to the exporter's developers.
        inner: BaseException = error
        while inner.__cause__ is not None:
            inner = inner.__cause__
        lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
        raise ExportError(
            f"torch cannot export a {type(source.model).__name__} to ONNX: "
            f"{type(inner).__name__}: {' '.join(lines[:2])[:300]}. Nothing was written."
        ) from error


def _forget_origins(model: Any) -> None:
    """Drop what the exporter notes of each node: lines of source with the paths of this machine."""
    for part in (model, model.graph, *model.graph.all_nodes(), *model.graph.initializers.values()):
        part.metadata_props.clear()
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
    for value in model.graph.inputs:
        value.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        for node in function.all_nodes():
            node.metadata_props.clear()


def _compare(
    wrapped: _Outputs, source: Source, path: Path
) -> tuple[float, float, tuple[tuple[int, ...], ...]]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    limit = length_limit(source.model) or max(length for _, length in _COMPARED)
    difference = largest = 0.0
    shapes = dict.fromkeys((batch, min(length, limit)) for batch, length in _COMPARED)
    compared = []
    for batch, length in shapes:
        inputs = inputs_of(source.model, batch, length)
        compared.append(tuple(next(iter(inputs.values())).shape))
        given = {name: value.numpy() for name, value in inputs.items()}
        known = {value.name for value in session.get_inputs()}
        theirs = session.run(None, {n: v for n, v in given.items() if n in known})
        with torch.inference_mode():
            ours = wrapped(*inputs.values())
        for name, found, wanted in zip(wrapped.names, theirs, ours, strict=True):
            apart = (torch.from_numpy(found) - wanted).abs().max().item()
            scale = wanted.abs().max().item()
            if not apart <= LARGEST_DIFFERENCE * max(scale, 1.0):  # NaN is refused too
                raise ExportError(
                    f"under ONNX Runtime {name} differs from torch's by {apart:.1e} on inputs of "
                    f"shape {compared[-1]}, where the largest output is {scale:.1e} and "
                    f"{LARGEST_DIFFERENCE:.0e} of that is allowed. Nothing was written."
                )
            difference, largest = max(difference, apart), max(largest, scale)
    return difference, largest, tuple(dict.fromkeys(compared))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", *NEEDS)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its developers off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
