"""What is to be exported: a model with zeros, its inputs, and its sizes elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ticketry.core.mask import Mask
from ticketry.errors import ModelError, PackedError, TicketError
from ticketry.files import write_bytes
from ticketry.maskfile import dump_mask
from ticketry.models.families import FAMILIES
from ticketry.models.loading import load_backbone, quiet, resolve
from ticketry.models.sources import BaseRef
from ticketry.ticketfolder import CONFIG_FILE as TICKET_FILE
from ticketry.ticketfolder import MASK_FILE

BESIDE = (
    "config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)
"""What a user of the exported model needs, copied from its folder."""


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        name: as it was given.
        model: dense, float32, on the CPU, in eval mode.
        folder: with its configuration and tokenizer.
        mask: of the ticket; None where the zeros of the model say what is pruned.
        what: ``"model"`` or ``"ticket"``.
    """

    name: str
    model: Any
    folder: Path
    mask: Mask | None
    what: str

    @property
    def dense_bytes(self) -> int:
        """Of its parameters and saved buffers, each once."""
        tensors = {id(t): t for t in self.model.state_dict(keep_vars=True).values()}
        return sum(tensor.nbytes for tensor in tensors.values())

    def packed_bytes(self) -> int | None:
        """Return the bytes of its packed file (:mod:`ticketry.packed`); None if nothing is pruned.

        It is packed into a folder that is then removed.
        """
        from ticketry.packed.packer import pack_folder

        with tempfile.TemporaryDirectory(prefix="ticketry-export-") as place:
            dense = Path(place) / "dense"
            with quiet():
                self.model.save_pretrained(dense)
            if self.mask is not None:
                write_bytes(dense / MASK_FILE, dump_mask(self.mask))
            try:
                return pack_folder(dense, Path(place) / "packed").file_bytes
            except PackedError:
                return None

    def zeros(self) -> float:
        """Return the share of zeros in the pruned matrices, or in all matrices without a mask."""
        tensors = self.model.state_dict()
        names = [n for n, t in tensors.items() if t.dim() >= 2 and t.is_floating_point()]
        if self.mask is not None:
            known = set(self.mask)
            names = [n for n in names if n in known or n.partition(".")[2] in known]
        total = sum(tensors[n].numel() for n in names)
        return sum(int((tensors[n] == 0).sum()) for n in names) / max(1, total)


def load_source(name: str, revision: str | None, say: Callable[[str], None] | None) -> Source:
    """Load a model, or a ticket's base with its zeros.

    Raises:
        InputError: it is neither, or cannot be loaded.
    """
    from ticketry.ticket import Ticket

    if not (Path(name) / TICKET_FILE).exists():
        try:
            base = resolve(name, revision, say=say)
        except ModelError as error:
            if Path(name).exists() or name.startswith((".", "/", "~")):
                raise
            try:  # a hub id may be a ticket's
                return _of_ticket(Ticket.from_pretrained(name, revision=revision), name, say)
            except TicketError:
                raise error from None
        return Source(name, _whole(base), base.path, None, "model")
    return _of_ticket(Ticket.from_pretrained(name, revision=revision), name, say)


def _of_ticket(ticket: Any, name: str, say: Callable[[str], None] | None) -> Source:
    base = resolve(ticket.base.name, ticket.base.revision, say=say)
    model = ticket.apply_(load_backbone(base)).eval()
    return Source(name, model, base.path, ticket.mask, "ticket")


def _whole(base: BaseRef) -> Any:
    from ticketry.packed.loading import load_model

    try:
        return load_model(base.path).eval()
    except PackedError:
        # A base's checkpoint may name a class whose head it lacks; the base itself is whole.
        return load_backbone(base).eval()


def length_limit(model: Any) -> int | None:
    """Return the most tokens that a model's position table holds; None where nothing limits it."""
    config = model.config
    family = FAMILIES.get(str(config.model_type))
    reserved = family.reserved_positions if family is not None else 0
    limits = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    return min((limit - reserved for limit in limits if limit), default=None)


def inputs_of(model: Any, batch: int, length: int) -> Mapping[str, Tensor]:
    """Return random inputs, the same each time; the last text is padded in its second half.

    Args:
        model: of transformers.
        batch: examples.
        length: tokens of each; images have their own size.
    """
    draw = torch.Generator().manual_seed(0)
    config = model.config
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.randn(batch, channels, height, width, generator=draw)}
    ids = torch.randint(min(4, config.vocab_size - 1), config.vocab_size, (batch, length),
                        generator=draw)  # fmt: skip
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[-1, (length + 1) // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (torch.arange(length) >= length // 2).long().repeat(batch, 1)
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return inputs
