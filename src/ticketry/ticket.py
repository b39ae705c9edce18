"""A ticket: a mask, a pointer to its base model with hashes, and the evidence of its verdict.

ticket_config.json        what it is, what it points at, SHA-256 of the other files
ticket_mask.safetensors   the mask (:mod:`ticketry.maskfile`)
ticket_evidence.json      scores, controls, verdict; absent for a candidate
README.md                 the model card; free text, not hashed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ticketry.core.mask import Mask
from ticketry.errors import BaseMismatchError, TicketError
from ticketry.files import pretty_json, replace_folder, sha256_bytes
from ticketry.maskfile import dump_mask, is_pickle, load_mask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ticketry.verdict import Verdict

FORMAT = "ticketry-ticket"
FORMAT_VERSION = 1
CONFIG_FILE = "ticket_config.json"
MASK_FILE = "ticket_mask.safetensors"
EVIDENCE_FILE = "ticket_evidence.json"
CARD_FILE = "README.md"
_MOST_BYTES = {CONFIG_FILE: 64 << 20, EVIDENCE_FILE: 256 << 20, MASK_FILE: 64 << 30}
_SHOWN = 5


@dataclass(frozen=True)
class Base:
    """The pre-trained model that a ticket points at.

    Attributes:
        name: hub id, folder or packaged name, as it was given.
        revision: of the hub id.
        sha256: over all tensors.
        tensors: canonical name -> SHA-256 of shape and float32 values.
        model_type: transformers' name of the architecture.
        total_parameters: weights of the base model, heads aside.
    """

    name: str
    revision: str | None
    sha256: str
    tensors: Mapping[str, str]
    model_type: str
    total_parameters: int


@dataclass(frozen=True, eq=False)
class Rewind:
    """Weights that a ticket starts from instead of the pre-trained ones.

    Attributes:
        weights: the base's tensors by canonical name; heads are drawn anew in every training.
        step: optimizer steps of the schedule that they have behind them; 0 where the schedule
            starts again.
    """

    weights: Mapping[str, Tensor]
    step: int = 0


@dataclass(frozen=True)
class Ticket:
    """A mask over a base model, with what is known about it.

    Attributes:
        mask: name -> bool tensor, True = kept, named as in the base model's ``state_dict``.
        base: what the mask applies to.
        spec: how it was found (the find spec as JSON values).
        evidence: scores, controls and verdict; None for a candidate that was never verified.
        rewind: weights to start from; None for the pre-trained ones.
    """

    mask: Mask
    base: Base
    spec: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] | None = None
    rewind: Rewind | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, or None for a candidate."""
        from ticketry.verdict import Verdict

        return None if self.evidence is None else Verdict.from_json(self.evidence["verdict"])

    @property
    def sparsity(self) -> float:
        """Pruned / prunable, in [0, 1)."""
        return self.mask.sparsity

    def config(self) -> dict[str, Any]:
        """Return ``ticket_config.json`` without the hashes of the files beside it."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "base_model_name_or_path": self.base.name,
            "revision": self.base.revision,
            "base_sha256": self.base.sha256,
            "base_tensors": dict(self.base.tensors),
            "model_type": self.base.model_type,
            "total_parameters": self.base.total_parameters,
            "granularity": "unstructured",
            "rewind": "pretrained",
            "sparsity": self.mask.sparsity,
            "density": self.mask.density,
            "kept": self.mask.kept,
            "prunable": self.mask.prunable,
            "mask_digest": self.mask.digest(),
            "spec": dict(self.spec),
        }

    def files(self) -> dict[str, bytes]:
        """Return every file of the ticket's folder; equal tickets give equal bytes."""
        from ticketry.card import render_card

        files = {MASK_FILE: dump_mask(self.mask)}
        if self.evidence is not None:
            files[EVIDENCE_FILE] = pretty_json(dict(self.evidence))
        config = self.config()
        config["files"] = {name: sha256_bytes(data) for name, data in files.items()}
        files[CARD_FILE] = render_card(self.evidence, config).encode()
        files[CONFIG_FILE] = pretty_json(config)
        return files

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the ticket's folder; it appears whole or not at all.

        Args:
            save_directory: the folder; an older ticket in it is replaced, anything else refused.

        Raises:
            TicketError: the folder holds something that is not a ticket.
            StorageError: it could not be written.
        """
        folder = Path(save_directory)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_FILE).exists():
            raise TicketError(
                f"{folder} is not empty and holds no ticket; nothing was written. "
                "Choose a new folder."
            )
        replace_folder(folder, self.files())

    @classmethod
    def from_pretrained(
        cls,
        pretrained_ticket_name_or_path: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Ticket:
        """Load a ticket from a folder or from the Hugging Face hub, and check every hash.

        Args:
            pretrained_ticket_name_or_path: a folder, or a hub id such as ``"user/ticket"``.
            revision: of the hub repository.
            subfolder: inside the folder or repository.
            token: for the hub.
            local_files_only: never ask the hub, use its local cache.

        Raises:
            TicketError: not a ticket, damaged, hostile or of another version.
        """
        name = str(pretrained_ticket_name_or_path)
        if Path(name).is_dir():
            root = Path(name).resolve()
            trusted = False
        else:
            root = _download(name, revision, token, local_files_only)
            trusted = True  # the hub's cache is made of links into its blobs
        folder = _inside(root, subfolder) if subfolder else root
        return _load(folder, trusted)

    def validate(self, model: nn.Module) -> None:
        """Check that ``model`` is built on this ticket's base.

        Args:
            model: the base model, or any task model of transformers built on it.

        Raises:
            BaseMismatchError: names the tensors that are missing, of another shape or value.
        """
        from ticketry.models.loading import canonical_tensors, tensor_hashes

        tensors = canonical_tensors(model)
        missing = sorted(set(self.mask) - set(tensors))
        if missing:
            raise BaseMismatchError(
                f"the model lacks {_some(missing)} of this ticket; it was made for "
                f"{self.base.name} ({self.base.model_type})."
            )
        shapes = [
            f"{name} (ticket {self.mask.shape(name)}, model {tuple(tensors[name].shape)})"
            for name in self.mask
            if tuple(tensors[name].shape) != self.mask.shape(name)
        ]
        if shapes:
            raise BaseMismatchError(
                f"the model has other shapes than this ticket's base {self.base.name}: "
                f"{_some(shapes)}."
            )
        known = {name: tensors[name] for name in self.base.tensors if name in tensors}
        found = tensor_hashes(known)
        differing = sorted(name for name in known if found[name] != self.base.tensors[name])
        if differing:
            raise BaseMismatchError(
                f"{len(differing)} of {len(known)} tensors differ from this ticket's base "
                f"{self.base.name}{_at(self.base.revision)}: {_some(differing)}. "
                "Load that base, or pass strict=False to mask this model all the same."
            )

    def apply_(self, model: nn.Module, strict: bool = True) -> nn.Module:
        """Set the pruned weights of ``model`` to zero, in place.

        The model's ``state_dict`` keys stay as they are. Nothing keeps the weights at zero in a
        later training: ``ticketry train`` does.

        Args:
            model: the base model, or any task model of transformers built on it.
            strict: refuse a model whose weights are not the base's (:meth:`validate`); otherwise
                only names and shapes must fit.
        Returns:
            The same model.

        Raises:
            BaseMismatchError: names the tensors that do not fit; the model is unchanged.
        """
        from ticketry.models.loading import apply_mask_, canonical_tensors

        if strict:
            self.validate(model)
        else:
            tensors = canonical_tensors(model)
            unfit = [
                name
                for name in self.mask
                if name not in tensors or tuple(tensors[name].shape) != self.mask.shape(name)
            ]
            if unfit:
                raise BaseMismatchError(
                    f"{len(unfit)} of {len(self.mask)} masked tensors do not fit the model by "
                    f"name and shape: {_some(unfit)}. This ticket is for a {self.base.model_type}."
                )
        apply_mask_(model, self.mask)
        return model


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _download(
    name: str, revision: str | None, token: str | bool | None, local_files_only: bool
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=[f"**{file}" for file in (*_MOST_BYTES, CARD_FILE)],
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TicketError(
            f"no ticket at {name!r}: it is not a folder here, and the hub could not give it "
            f"({reason})."
        ) from error
    return Path(folder)


def _inside(root: Path, name: str) -> Path:
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise TicketError(f"{name!r} climbs out of the ticket's folder; it was not opened.")
    return path


def _read(folder: Path, name: str, trusted: bool) -> bytes:
    path = folder / name
    if not trusted and path.exists() and not path.resolve().is_relative_to(folder.resolve()):
        raise TicketError(
            f"{path} is a link that climbs out of the ticket's folder; it was not opened."
        )
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES[name]:
            raise TicketError(f"{path} has {size:,} bytes; at most {_MOST_BYTES[name]:,} are read.")
        return path.read_bytes()
    except OSError as error:
        raise TicketError(
            f"{path} cannot be read ({error.strerror}); a ticket is a folder with {CONFIG_FILE} "
            f"and {MASK_FILE}."
        ) from error


def _load(folder: Path, trusted: bool) -> Ticket:
    config = _json(_read(folder, CONFIG_FILE, trusted), folder / CONFIG_FILE)
    _check_config(config, folder)
    data: dict[str, bytes] = {}
    for name, sha256 in config["files"].items():
        data[name] = _read(folder, name, trusted)
        if name == MASK_FILE and is_pickle(data[name]):
            load_mask(data[name], what=str(folder / name))  # names the pickle
        if sha256_bytes(data[name]) != sha256:
            raise TicketError(
                f"{folder / name} is damaged or was edited: its SHA-256 is not the one in "
                f"{CONFIG_FILE}. Fetch the ticket again."
            )
    mask = load_mask(data[MASK_FILE], what=str(folder / MASK_FILE))
    if mask.digest() != config["mask_digest"]:
        raise TicketError(f"{folder / MASK_FILE} holds another mask than {CONFIG_FILE} says.")
    evidence = None
    if EVIDENCE_FILE in data:
        evidence = _json(data[EVIDENCE_FILE], folder / EVIDENCE_FILE)
    base = Base(
        name=config["base_model_name_or_path"],
        revision=config["revision"],
        sha256=config["base_sha256"],
        tensors=config["base_tensors"],
        model_type=config["model_type"],
        total_parameters=config["total_parameters"],
    )
    return Ticket(mask, base, config["spec"], evidence)


def _json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise TicketError(f"{path} holds {type(value).__name__}; expected a JSON object.")
    return value


_CONFIG_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "base_model_name_or_path": str,
    "revision": (str, type(None)),
    "base_sha256": str,
    "base_tensors": dict,
    "model_type": str,
    "total_parameters": int,
    "mask_digest": str,
    "spec": dict,
    "files": dict,
}


def _check_config(config: dict[str, Any], folder: Path) -> None:
    path = folder / CONFIG_FILE
    if config.get("format") != FORMAT:
        raise TicketError(f"{path} is not a ticket's: its format is {config.get('format')!r}.")
    if config.get("format_version") != FORMAT_VERSION:
        raise TicketError(
            f"{path} has format version {config.get('format_version')!r}; this ticketry reads "
            f"version {FORMAT_VERSION}. Update ticketry."
        )
    faults = [
        name for name, kind in _CONFIG_TYPES.items() if not isinstance(config.get(name, ...), kind)
    ]
    if faults:
        raise TicketError(f"{path} is damaged: {', '.join(faults)} missing or of a wrong type.")
    for name in config["files"]:
        if name not in (MASK_FILE, EVIDENCE_FILE):
            climbs = "climbs out of the folder" if "/" in name or ".." in name else "is not known"
            raise TicketError(f"{path} names the file {name!r}, which {climbs}; nothing was read.")
    if MASK_FILE not in config["files"]:
        raise TicketError(f"{path} is damaged: it names no {MASK_FILE}.")
