"""What a step is, and what it leaves in the store; :mod:`ticketry.kinds` carries them out.

A step is plain data. Its key is the hash of everything that decides its output: kind, parameters,
the keys of the steps it reads, and the context (base weights, data, recipe, device, threads and
library versions). Equal keys mean equal outputs on one machine, so a finished step is never redone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ticketry.config import fingerprint
from ticketry.errors import StorageError
from ticketry.files import pretty_json, sha256_bytes
from ticketry.store import RECORD, Store

if TYPE_CHECKING:
    from ticketry.core.mask import Mask

STEP_VERSION = 3
MASK_FILE = "mask.safetensors"
WEIGHTS_FILE = "weights.safetensors"
MODEL_PREFIX = "model/"


@dataclass(frozen=True)
class Context:
    """What all steps of a run share; everything here is part of every key.

    Attributes:
        base_sha256: hash over the base's tensors.
        data_sha256: hash over texts, labels and split membership.
        scope: names of the prunable tensors, sorted.
        recipe: the recipe as JSON values.
        device: ``cpu`` or ``cuda``.
        threads: torch threads of a training; another number gives other low bits.
        versions: torch and transformers versions.
        processes: that share each training; sums over them have other low bits.
    """

    base_name: str
    base_revision: str | None
    base_sha256: str
    data_sha256: str
    scope: tuple[str, ...]
    recipe: Mapping[str, Any]
    device: str
    threads: int
    versions: Mapping[str, str]
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the context as JSON values (for a worker)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Context:
        """Rebuild a context from :meth:`to_json`."""
        return cls(**{**data, "scope": tuple(data["scope"])})

    @property
    def key(self) -> str:
        """The fingerprint of :attr:`identity`, as steps name their context."""
        return fingerprint(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """The part that goes into keys: the base counts by its hash, not by its name."""
        data = self.to_json()
        del data["base_name"], data["base_revision"]
        if self.processes == 1:
            del data["processes"]
        return data


@dataclass(frozen=True)
class Step:
    """One unit of work and of resume.

    Attributes:
        name: for people, such as ``dense, seed 1``.
        kind: a key of :data:`ticketry.kinds.KINDS`.
        params: everything that decides the outcome beside context and needs; JSON values.
        needs: keys of the steps whose outputs are read.
        train_passes: examples seen forward and backward.
        eval_passes: examples seen forward only.
        calibration_passes: examples seen forward and backward to score weights.
        searching: whether its passes count as the search's cost.
    """

    name: str
    kind: str
    params: Mapping[str, Any]
    context_key: str
    needs: tuple[str, ...] = ()
    train_passes: int = 0
    eval_passes: int = 0
    calibration_passes: int = 0
    searching: bool = False

    @functools.cached_property
    def key(self) -> str:
        """The step's content address."""
        return fingerprint(
            {
                "version": STEP_VERSION,
                "kind": self.kind,
                "params": dict(self.params),
                "needs": list(self.needs),
                "context": self.context_key,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the step as JSON values (for a worker and for ``plan.json``)."""
        return {**dataclasses.asdict(self), "key": self.key}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        """Rebuild a step from :meth:`to_json`."""
        values = {name: value for name, value in data.items() if name != "key"}
        return cls(**{**values, "needs": tuple(values["needs"])})


@dataclass
class Output:
    """What a step leaves: a record, and files beside it."""

    record: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


def mask_output(
    mask: Mask, record: dict[str, Any], files: Mapping[str, bytes] | None = None
) -> Output:
    """Return the output of a step that leaves a mask: ``record`` and the mask's own facts."""
    from ticketry.maskfile import dump_mask

    record |= {
        "kept": mask.kept,
        "prunable": mask.prunable,
        "sparsity": mask.sparsity,
        "digest": mask.digest(),
        "empty_layers": list(mask.empty_layers()),
    }
    return Output(record, {MASK_FILE: dump_mask(mask), **(files or {})})


def given_mask_key(mask: Mask) -> str:
    """Return the key under which a mask that was brought along is stored."""
    return fingerprint({"version": STEP_VERSION, "kind": "given-mask", "digest": mask.digest()})


def given_weights_key(data: bytes) -> str:
    """Return the key under which weights that were brought along are stored."""
    digest = sha256_bytes(data)
    return fingerprint({"version": STEP_VERSION, "kind": "given-weights", "sha256": digest})


def put_given_mask(store: Store, mask: Mask) -> None:
    """Store a mask that was brought along, as if a step had made it."""
    output = mask_output(mask, {})
    _put(store, given_mask_key(mask), output.record, output.files, "given mask")


def put_given_weights(store: Store, data: bytes) -> None:
    """Store weights that were brought along, as if a step had made them."""
    _put(store, given_weights_key(data), {}, {WEIGHTS_FILE: data}, "given weights")


def _put(
    store: Store, key: str, record: Mapping[str, Any], files: Mapping[str, bytes], name: str
) -> None:
    if (damage := store.check(key)) is not None and store.folder(key).exists():
        store.set_aside(damage)
    store.write(key, {RECORD: pretty_json(dict(record)), **files}, {"name": name})


def copy_model(store: Store, key: str) -> dict[str, bytes]:
    """Return the files of the fine-tuned model that a step kept."""
    folder = store.folder(key) / MODEL_PREFIX
    if not folder.is_dir():
        raise StorageError(f"step {key[:12]} kept no model.")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
