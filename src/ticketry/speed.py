"""Dense against sparse on the user's own model and machine, for ``ticketry bench``."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ticketry.errors import ConfigError
from ticketry.runtime import native
from ticketry.runtime.accelerating import Layer, accelerate
from ticketry.runtime.tickets import accelerate_ticket


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        batch: examples at once.
        length: tokens of each; images have their own size.
        threads: None leaves torch's number.
        rounds: how often each model runs, in turns.
        values: how kept weights are stored; see :func:`ticketry.runtime.accelerating.accelerate`.
    """

    batch: int = 1
    length: int = 128
    threads: int | None = None
    rounds: int = 15
    values: str = "fp32"

    def __post_init__(self) -> None:
        """Check the numbers."""
        given = {"--batch": self.batch, "--length": self.length, "--rounds": self.rounds}
        if self.threads is not None:
            given["--threads"] = self.threads
        faults = [
            f"{name} must be at least 1, not {value}." for name, value in given.items() if value < 1
        ]
        if faults:
            raise ConfigError(faults)


def bench(
    name: str, workload: Workload, say: Callable[[str], None], revision: str | None = None
) -> dict[str, Any]:
    """Measure a ticket's or a model's base, dense and accelerated, in turns.

    Args:
        name: a ticket or a model: a folder, a hub id, or a packaged model's name.
        workload: what is measured.
        say: given a line about a download.
        revision: of the hub id.
    Returns:
        ``dense`` and ``sparse`` with the median and the quartiles in seconds, ``speedup`` of the
        medians, ``largest_difference`` of the outputs, ``layers``, ``isa``, ``threads``.

    Raises:
        InputError: it is neither, or cannot be loaded.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(workload.threads or before)
    try:
        return _bench(*_load(name, revision, say), workload)
    finally:
        torch.set_num_threads(before)


def _load(name: str, revision: str | None, say: Callable[[str], None]) -> tuple[Any, Any]:
    from ticketry.models.loading import load_backbone, resolve
    from ticketry.ticket import CONFIG_FILE, Ticket

    if not (Path(name) / CONFIG_FILE).exists():
        return load_backbone(resolve(name, revision, say=say)).eval(), None
    ticket = Ticket.from_pretrained(name, revision=revision)
    base = load_backbone(resolve(ticket.base.name, ticket.base.revision, say=say))
    return ticket.apply_(base).eval(), ticket.mask


def _bench(dense: Any, mask: Any, workload: Workload) -> dict[str, Any]:
    tokens = workload.batch * workload.length
    sparse = copy.deepcopy(dense)
    if mask is None:
        layers = accelerate(sparse, tokens=tokens, values=workload.values)
    else:
        layers = accelerate_ticket(sparse, mask, tokens, workload.values)
    inputs = inputs_for(dense, workload)
    models = {"dense": dense, "sparse": sparse}
    seconds: dict[str, list[float]] = {which: [] for which in models}
    outputs = {which: _run(model, inputs) for which, model in models.items()}
    for _ in range(workload.rounds):
        for which, model in models.items():
            start = time.perf_counter()
            _run(model, inputs)
            seconds[which].append(time.perf_counter() - start)
    medians = {which: statistics.median(times) for which, times in seconds.items()}
    return {
        **{which: _spread(times) for which, times in seconds.items()},
        "speedup": medians["dense"] / medians["sparse"],
        "largest_difference": float((outputs["dense"] - outputs["sparse"]).abs().max()),
        "largest_output": float(outputs["dense"].abs().max()),
        "isa": native.isa(),
        "threads": torch.get_num_threads(),
        "batch": workload.batch,
        "length": workload.length,
        "layers": [layer.to_json() for layer in layers],
    }


def inputs_for(model: Any, workload: Workload) -> dict[str, Tensor]:
    """Return random inputs of a base model, the same each time."""
    draw = torch.Generator().manual_seed(0)
    config, batch = model.config, workload.batch
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.randn(batch, channels, height, width, generator=draw)}
    longest = getattr(config, "max_position_embeddings", None)
    if longest and workload.length > longest:
        raise ConfigError(f"--length {workload.length} is more than the model's {longest} tokens.")
    ids = torch.randint(4, config.vocab_size, (batch, workload.length), generator=draw)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return inputs


def _run(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        found = model(**inputs)
        states: Tensor = found[0]
        return states.float()


def _spread(times: list[float]) -> dict[str, float]:
    low, middle, high = (
        statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    )
    return {"median_s": middle, "low_s": low, "high_s": high}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Say what :func:`bench` found in lines for people."""
    rows = [Layer(**row) for row in found["layers"]]
    width = max([len(row.name) for row in rows] + [5])
    shown = [
        f"{'layer':<{width}}  {'out x in':>11}  sparsity  runs as  dense     sparse    why",
    ]
    for row in rows:
        shown.append(
            f"{row.name:<{width}}  {f'{row.rows} x {row.columns}':>11}  {row.sparsity:>7.1%}  "
            f"{row.runs_as:<7}  {_micros(row.dense_s)}  {_micros(row.sparse_s)}  {row.why}"
        )
    for which in ("dense", "sparse"):
        times = found[which]
        shown.append(
            f"whole model, {which:<6} {times['median_s'] * 1e3:9.2f} ms (middle half "
            f"{times['low_s'] * 1e3:.2f} to {times['high_s'] * 1e3:.2f})"
        )
    count = sum(row.runs_as == "sparse" for row in rows)
    shown.append(
        f"{found['speedup']:.2f} times as fast: {count} of {len(rows)} layers sparse, batch "
        f"{found['batch']}, length {found['length']}, threads {found['threads']}, kernels "
        f"{found['isa'] or 'missing'}; outputs differ by at most {found['largest_difference']:.1e} "
        f"of {found['largest_output']:.1e}."
    )
    return shown


def _micros(seconds: float | None) -> str:
    return f"{'-':>8}" if seconds is None else f"{seconds * 1e6:>5.0f} µs"
