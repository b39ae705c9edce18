"""One contender of ``inference.py`` in a process of its own, asked for one round a line.

    python benchmarks/contender.py KIND OPTIONS

KIND is a name in ``KINDS``; OPTIONS is JSON: ``folders`` (of models, one a sparsity), ``batch``,
``sequence``, ``threads``. It loads the models and answers with one line of JSON: ``ready`` and the
largest difference of each model's output to torch eager's.
A line ``INDEX COUNT`` then makes it run that model that often; it answers with the seconds of each.
Kinds of other runtimes work without ticketry, and DeepSparse without torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

warnings.filterwarnings("ignore")
Run = Callable[[], Any]


def inputs(options: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that all contenders get, int64 (batch, sequence)."""
    draw = numpy.random.default_rng(0)
    shape = (options["batch"], options["sequence"])
    ids = draw.integers(1000, 20000, shape)
    return {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}


def onnx_file(folder: Path, options: dict[str, Any], kind: str = "fp32") -> Path:
    """Return where the ONNX model of a folder lies."""
    return folder / f"{kind}-{options['batch']}x{options['sequence']}.onnx"


def truth_file(folder: Path, options: dict[str, Any]) -> Path:
    """Return where torch eager's output lies."""
    return folder / f"truth-{options['batch']}x{options['sequence']}.npy"


def torch_model(folder: Path, options: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(options["threads"])
    return AutoModel.from_pretrained(folder).eval()


def torch_run(model: Any, options: dict[str, Any]) -> Run:
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in inputs(options).items()}

    def run() -> Any:
        with torch.inference_mode():
            return model(**tensors)[0]

    return run


def eager(folder: Path, options: dict[str, Any]) -> Run:
    return torch_run(torch_model(folder, options), options)


def compiled(folder: Path, options: dict[str, Any]) -> Run:
    import torch

    return torch_run(torch.compile(torch_model(folder, options)), options)


def csr(folder: Path, options: dict[str, Any]) -> Run:
    """MKL's sparse product by torch: linear layers of the encoder as ``torch.sparse_csr``."""
    import torch

    class Csr(torch.nn.Module):
        def __init__(self, dense: Any) -> None:
            super().__init__()
            self.weight = dense.weight.detach().to_sparse_csr()
            self.bias = dense.bias.detach()[:, None]

        def forward(self, values: Any) -> Any:
            flat = values.reshape(-1, values.shape[-1]).t()
            found = torch.addmm(self.bias.expand(-1, flat.shape[1]), self.weight, flat)
            return found.t().reshape(*values.shape[:-1], -1)

    model = torch_model(folder, options)
    for name, module in list(model.encoder.named_modules()):
        if type(module) is torch.nn.Linear:
            model.encoder.set_submodule(name, Csr(module))
    return torch_run(model, options)


def ours(folder: Path, options: dict[str, Any]) -> Run:
    from ticketry.runtime.accelerating import accelerate

    model = torch_model(folder, options)
    accelerate(model, tokens=options["batch"] * options["sequence"])
    return torch_run(model, options)


def truth(folder: Path, options: dict[str, Any]) -> Run:
    """Write what all others' outputs are compared with: torch eager's."""
    numpy.save(truth_file(folder, options), eager(folder, options)())
    return lambda: numpy.zeros(0)


def export(folder: Path, options: dict[str, Any]) -> Run:
    """Write the ONNX files of a folder, in float32 and with int8 weights."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Without fused attention, which the exporter spells in more operators.
            self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask)[0]

    target = onnx_file(folder, options)
    if not target.exists():
        names = inputs(options)
        torch.onnx.export(
            States().eval(),
            tuple(torch.from_numpy(value) for value in names.values()),
            str(target),
            input_names=list(names),
            output_names=["states"],
            dynamo=False,
            opset_version=17,
        )
    first = str(folder) == options["folders"][0]  # int8 does not notice zeros: one is enough
    if first and not onnx_file(folder, options, "int8").exists():
        small = onnx_file(folder, options, "int8")
        quantize_dynamic(target, small, weight_type=QuantType.QInt8, per_channel=True)
    return lambda: numpy.zeros(0)


def onnx(folder: Path, options: dict[str, Any], kind: str = "fp32") -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    settings.inter_op_num_threads = 1
    file = str(onnx_file(folder, options, kind))
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    values = inputs(options)
    return lambda: session.run(None, values)[0]


def onnx_int8(folder: Path, options: dict[str, Any]) -> Run:
    return onnx(folder, options, "int8")


def deepsparse(folder: Path, options: dict[str, Any]) -> Run:
    from deepsparse import Engine

    file = str(onnx_file(folder, options))
    engine = Engine(model=file, batch_size=options["batch"], num_cores=options["threads"])
    values = list(inputs(options).values())
    return lambda: engine.run(values)[0]


KINDS: dict[str, Callable[[Path, dict[str, Any]], Run]] = {
    "eager": eager,
    "compile": compiled,
    "csr": csr,
    "ours": ours,
    "truth": truth,
    "export": export,
    "onnx": onnx,
    "onnx-int8": onnx_int8,
    "deepsparse": deepsparse,
}


def difference(found: Any, folder: Path, options: dict[str, Any]) -> float:
    """Return the largest difference to torch eager's output."""
    values = numpy.asarray(found)
    if not values.size:
        return 0.0
    return float(numpy.abs(numpy.load(truth_file(folder, options)) - values).max())


def serve(kind: str, options: dict[str, Any], answer: Any) -> None:
    folders = [Path(folder) for folder in options["folders"]]
    runs = [KINDS[kind](folder, options) for folder in folders]
    apart = [difference(run(), f, options) for run, f in zip(runs, folders, strict=True)]
    print(json.dumps({"ready": True, "differences": apart}), file=answer, flush=True)
    for line in sys.stdin:
        index, count = map(int, line.split())
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            runs[index]()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), file=answer, flush=True)


def main() -> None:
    # Whatever a library prints goes to standard error; answers keep the line to themselves.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        serve(sys.argv[1], json.loads(sys.argv[2]), answer)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(json.dumps({"ready": False, "why": text[:200]}), file=answer, flush=True)


if __name__ == "__main__":
    main()
