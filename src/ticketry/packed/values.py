"""How kept weights are stored: as they are, in 16 bits, or as int8 with a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ticketry.errors import PackedError, unknown_name

FLOATS: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
INT8 = "int8"
KINDS = (*FLOATS, INT8)
_MOST = 127


def kind_of(values: Tensor) -> str:
    """Return the name of a stored tensor's kind.

    Raises:
        PackedError: there is none of its dtype.
    """
    for kind in KINDS:
        if values.dtype == FLOATS.get(kind, torch.int8):
            return kind
    raise PackedError(
        f"kept values are stored as {', '.join(KINDS)}, not as "
        f"{str(values.dtype).removeprefix('torch.')}."
    )


def check_kind(kind: str) -> None:
    """Refuse an unknown kind.

    Raises:
        UnknownNameError: it lists the known ones.
    """
    if kind not in KINDS:
        raise unknown_name("kind of values", kind, KINDS)


def encode(weight: Tensor, mask: Tensor, kind: str, name: str) -> tuple[Tensor, Tensor | None]:
    """Return a tensor's kept values, in row-major order, and the scales of its rows.

    A row is what one index of the first axis holds. Its scale, in bfloat16, is its largest kept
    magnitude over 127, rounded up; the values are rounded to the nearest multiple.

    Args:
        weight: any floating dtype.
        mask: bool of the same shape, True = kept.
        kind: one of :data:`KINDS`.
        name: of the tensor, for messages.
    Returns:
        Values, one axis; scales, (rows), or None where there are none.

    Raises:
        PackedError: a kept value is not finite, or too large for float16.
    """
    kept = weight[mask]
    if not torch.isfinite(kept).all():
        raise PackedError(f"{name} has kept weights that are not finite; train the model again.")
    if kind != INT8:
        values = kept.to(FLOATS[kind])
        if not torch.isfinite(values).all():
            raise PackedError(
                f"{name} has weights too large for {kind} (up to {float(kept.abs().max()):.3g}); "
                "use bf16 or fp32."
            )
        return values, None
    if not mask.numel():
        return kept.to(torch.int8), torch.zeros(len(weight), dtype=torch.bfloat16)
    rows = weight.float().masked_fill(~mask, 0).reshape(len(weight), -1)
    largest = rows.abs().amax(1) / _MOST
    # One part in 256 more, so that rounding to bfloat16's 8 bits never ends below.
    scales = (largest * (1 + 2**-8)).to(torch.bfloat16)
    step = _spread(scales, mask)
    steps = torch.where(step > 0, kept.float() / step, torch.zeros(()))
    return steps.round().clamp(-_MOST, _MOST).to(torch.int8), scales


def decode(values: Tensor, scales: Tensor | None, mask: Tensor) -> Tensor:
    """Return the kept values as float32.

    Args:
        values: as stored, one for each kept weight.
        scales: (rows) for int8, else None.
        mask: bool, True = kept.
    """
    found = values.to(torch.float32)
    return found if scales is None else found * _spread(scales, mask)


def _spread(scales: Tensor, mask: Tensor) -> Tensor:
    if not mask.numel():
        return torch.zeros(0)
    return scales.float().repeat_interleave(mask.reshape(len(scales), -1).sum(1))
