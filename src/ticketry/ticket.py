"""A ticket: a mask, a pointer to its base model with hashes, and the evidence of its verdict.

ticket_config.json        what it is, what it points at, SHA-256 of the other files
ticket_mask.safetensors   the mask (:mod:`ticketry.maskfile`)
ticket_evidence.json      scores, controls, verdict; absent for a candidate
ticket_rewind.safetensors weights to start from; absent where these are the pre-trained ones
README.md                 the model card; free text, not hashed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ticketry import hub
from ticketry.core.mask import Mask
from ticketry.errors import BaseMismatchError, TicketError
from ticketry.files import pretty_json, replace_folder, sha256_bytes
from ticketry.maskfile import dump_mask, is_pickle, load_mask
from ticketry.ticketfolder import (
    CARD_FILE,
    CONFIG_FILE,
    EVIDENCE_FILE,
    FORMAT,
    FORMAT_VERSION,
    MASK_FILE,
    MOST_BYTES,
    REWIND_FILE,
    REWIND_VERSION,
    check_target,
    damaged,
    find_folder,
    parse_evidence,
    read,
    read_config,
)
from ticketry.ticketform import check_counts
from ticketry.verdict import Verdict
from ticketry.weightsfile import dump_weights, load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        return None if self.evidence is None else Verdict.from_json(self.evidence["verdict"])

    @property
    def sparsity(self) -> float:
        """Pruned / prunable, in [0, 1)."""
        return self.mask.sparsity

    def config(self) -> dict[str, Any]:
        """Return ``ticket_config.json`` without the hashes of the files beside it."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION if self.rewind is None else REWIND_VERSION,
            "base_model_name_or_path": self.base.name,
            "revision": self.base.revision,
            "base_sha256": self.base.sha256,
            "base_tensors": dict(self.base.tensors),
            "model_type": self.base.model_type,
            "total_parameters": self.base.total_parameters,
            "granularity": self.pattern,
            **self._rewind_config(),
            "sparsity": self.mask.sparsity,
            "density": self.mask.density,
            "kept": self.mask.kept,
            "prunable": self.mask.prunable,
            "mask_digest": self.mask.digest(),
            "spec": dict(self.spec),
        }

    @property
    def pattern(self) -> str:
        """Of the mask: ``unstructured``, ``2:4``, ``4x4``, ``head`` …"""
        search = self.spec.get("search")
        return str(search.get("pattern", "unstructured")) if search else "unstructured"

    def _rewind_config(self) -> dict[str, Any]:
        if self.rewind is None:
            return {"rewind": "pretrained"}
        rewind = "step" if self.rewind.step else "trained"
        return {"rewind": rewind, "rewind_step": self.rewind.step}

    def files(self) -> dict[str, bytes]:
        """Return every file of the ticket's folder; equal tickets give equal bytes."""
        from ticketry.card import render_card

        files = {MASK_FILE: dump_mask(self.mask)}
        if self.evidence is not None:
            files[EVIDENCE_FILE] = pretty_json(dict(self.evidence))
        if self.rewind is not None:
            files[REWIND_FILE] = dump_weights(self.rewind.weights)
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
        check_target(folder)
        replace_folder(folder, self.files())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = hub.MESSAGE,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the ticket to a model repository of the Hugging Face hub, in one commit.

        Args:
            repo_id: ``"user/name"``; made if it is not there.
            private: for a repository that is made; by default as the account says.
            token: for the hub; by default the one of ``hf auth login`` or ``HF_TOKEN``.
            commit_message: its first line.
            revision: the branch to commit to; made from ``main`` if it is not there.
            create_pr: open a pull request instead of committing.
        Returns:
            The commit's address.

        Raises:
            HubError: the hub refuses or is out of reach, or the repository holds something that is
                not a ticket; nothing was overwritten.
        """
        return hub.push(
            self.files(),
            repo_id,
            hub.Destination(private, token, commit_message, revision, create_pr),
        )

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
            pretrained_ticket_name_or_path: a folder, one of the hub's cache too, or a hub id such
                as ``"user/ticket"``.
            revision: of the hub repository: a branch, tag or commit.
            subfolder: inside the folder or repository.
            token: for the hub.
            local_files_only: never ask the hub, use its local cache.

        Raises:
            TicketError: not a ticket, damaged, hostile or of another version; a
                :class:`~ticketry.errors.HubError` if the hub does not give it.
        """
        name = str(pretrained_ticket_name_or_path)
        if not Path(name).is_dir():
            name = str(
                hub.fetch(
                    name,
                    MOST_BYTES,
                    needed=CONFIG_FILE,
                    revision=revision,
                    subfolder=subfolder,
                    token=token,
                    local_files_only=local_files_only,
                )
            )
            revision = None  # the hub has found it
        return _load(find_folder(Path(name), revision, subfolder))

    def validate(self, model: nn.Module) -> None:
        """Check that ``model`` is built on this ticket's base.

        Args:
            model: the base model, or any task model of transformers built on it.

        Raises:
            BaseMismatchError: names the tensors that are missing, of another shape or value.
        """
        if differing := self.differing(model):
            raise BaseMismatchError(
                f"{len(differing)} of {len(self.base.tensors)} tensors differ from this ticket's "
                f"base {self.base.name}{_at(self.base.revision)}: {_some(differing)}. "
                "Load that base, or pass strict=False to mask this model all the same."
            )

    def differing(self, model: nn.Module, hashes: Mapping[str, str] | None = None) -> list[str]:
        """Return the names of the tensors whose values are not the base's, sorted.

        Args:
            model: the base model, or any task model of transformers built on it.
            hashes: of other weights to compare with, by canonical name.

        Raises:
            BaseMismatchError: names the tensors that are missing or of another shape.
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
        expected = self.base.tensors if hashes is None else hashes
        found = tensor_hashes({name: tensors[name] for name in expected if name in tensors})
        return sorted(name for name in found if found[name] != expected[name])

    def apply_(self, model: nn.Module, strict: bool = True) -> nn.Module:
        """Set the pruned weights of ``model`` to zero, in place.

        A ticket that carries weights to start from sets the base's tensors to these first.

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
        from ticketry.models.weights import put_weights_

        if strict:
            self.validate(model)
        else:
            if unfit := _unfit(self.mask, canonical_tensors(model)):
                raise BaseMismatchError(
                    f"{len(unfit)} of {len(self.mask)} masked tensors do not fit the model by "
                    f"name and shape: {_some(unfit)}. This ticket is for a {self.base.model_type}."
                )
        if self.rewind is not None:
            put_weights_(model, self.rewind.weights)
        apply_mask_(model, self.mask)
        return model

    def accelerate(self, model: nn.Module, *, tokens: int = 128, values: str = "fp32") -> nn.Module:
        """Swap the pruned matrices for packed ones where that is faster, in place.

        Args:
            model: with this ticket's zeros, on a CPU, in evaluation mode.
            tokens: batch × tokens at which dense and sparse are compared on this machine.
            values: how kept weights are stored: ``"fp32"``, or rounded to ``"bf16"`` or ``"int8"``.

        Raises:
            ModelError, MaskError: the model is in training mode or not this ticket's.
        """
        from ticketry.runtime.tickets import accelerate_ticket

        accelerate_ticket(model, self.mask, tokens, values)
        return model


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _unfit(mask: Mask, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the masked names that are missing from ``tensors`` or of another shape there."""
    return [n for n in mask if n not in tensors or tuple(tensors[n].shape) != mask.shape(n)]


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _load(folder: Path) -> Ticket:
    config = read_config(folder)
    data: dict[str, bytes] = {}
    for name, sha256 in config["files"].items():
        data[name] = read(folder, name)
        if name != EVIDENCE_FILE and is_pickle(data[name]):
            load_weights(data[name], what=str(folder / name))  # names the pickle
        if sha256_bytes(data[name]) != sha256:
            raise damaged(folder, name)
    mask = load_mask(data[MASK_FILE], what=str(folder / MASK_FILE))
    if mask.digest() != config["mask_digest"]:
        raise TicketError(f"{folder / MASK_FILE} holds another mask than {CONFIG_FILE} says.")
    check_counts(config, mask.kept, mask.prunable, folder / CONFIG_FILE)
    evidence = None
    if EVIDENCE_FILE in data:
        evidence = parse_evidence(data[EVIDENCE_FILE], folder / EVIDENCE_FILE)
        Verdict.from_json(evidence["verdict"])
    base = Base(
        name=config["base_model_name_or_path"],
        revision=config["revision"],
        sha256=config["base_sha256"],
        tensors=config["base_tensors"],
        model_type=config["model_type"],
        total_parameters=config["total_parameters"],
    )
    rewind = None
    if REWIND_FILE in config["files"]:
        rewind = _load_rewind(data[REWIND_FILE], folder / REWIND_FILE, config, mask)
    return Ticket(mask, base, config["spec"], evidence, rewind)


def _load_rewind(data: bytes, path: Path, config: Mapping[str, Any], mask: Mask) -> Rewind:
    weights = load_weights(data, what=str(path))
    strange = sorted(set(weights) - set(config["base_tensors"]))
    if strange:
        raise TicketError(f"{path} holds tensors that the base lacks: {_some(strange)}.")
    if unfit := _unfit(mask, weights):
        raise TicketError(f"{path} lacks masked tensors, or has other shapes: {_some(unfit)}.")
    return Rewind(weights, config.get("rewind_step", 0))
