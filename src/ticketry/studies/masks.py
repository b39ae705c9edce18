"""Masks beside a study's records, so that a store that is gone costs no search again.

    OUT/masks/DIGEST.safetensors    a mask that fine-tunings or overlaps read, by its own digest

A mask that was searched from θ0 differs from the magnitude mask of θ0 at the same density in a few
percent of the weights at most. Where that is shorter, the file holds the difference (exclusive or)
to that mask, which anybody who has the base can make: MiniLM's masks at 50% take an eighth of the
bytes then. Either way it is an ordinary mask file; a mask that it yields counts only if its digest
is the one that the record says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ticketry.errors import TicketryError
from ticketry.files import read_regular, write_bytes
from ticketry.steps import MASK_FILE, Step
from ticketry.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from ticketry.core.mask import Mask
    from ticketry.studies.cells import Grid
    from ticketry.studies.ledger import Ledger

MASKS_FOLDER = "masks"
_SUFFIX = ".safetensors"
_MOST_BYTES = 1 << 30


def read_for_masks(step: Step) -> tuple[str, ...]:
    """Return the steps of which this one reads the mask and nothing else."""
    if step.kind in ("overlaps", "kernels"):
        return step.needs
    # The weights that a ticket carries come from another of the needs, or from the same step.
    if step.kind == "replicate" and step.needs:
        return () if step.needs[0] in step.needs[1:] else step.needs[:1]
    if step.kind == "level" and step.params["rewind"] == "pretrained":
        return step.needs[:1] if step.params["level"] > 1 else ()
    return ()


def masks_to_keep(steps: Iterable[Step]) -> frozenset[str]:
    """Return the steps whose masks are read by others than the next round of their search."""
    return frozenset(key for step in steps if step.kind != "level" for key in read_for_masks(step))


class KeptMasks:
    """The masks beside a study's records.

    Args:
        out: the study's folder.
        grid: the study; its bases are loaded when a mask is first kept or brought back.
        store: where steps read masks.
        others: folders of other studies, whose masks are read too.
    """

    def __init__(self, out: Path, grid: Grid, store: Store, others: Iterable[Path] = ()) -> None:
        self.folder = out / MASKS_FOLDER
        self._others = [other / MASKS_FOLDER for other in others]
        self._damaged: set[Path] = set()
        self.grid = grid
        self.store = store
        self.wanted = masks_to_keep(grid.steps)
        self._contexts = {step.key: step.context_key for step in grid.steps}
        self._pretrained: dict[str, Mapping[str, Tensor]] = {}
        self._references: dict[tuple[str, int], Mask] = {}

    def file(self, digest: str) -> Path:
        """Return where a mask lies, or would lie in this study's folder."""
        own = self.folder / f"{digest}{_SUFFIX}"
        places = [own, *(folder / own.name for folder in self._others)]
        return next((p for p in places if p.is_file() and p not in self._damaged), own)

    def has(self, key: str, ledger: Ledger) -> bool:
        """Say whether a step's mask is kept; whether it is whole is seen when it is brought."""
        return key in ledger and self.file(_digest(key, ledger)).is_file()

    def keep(self, key: str, ledger: Ledger) -> None:
        """Keep the mask of a step that is recorded, if somebody may read it again.

        It comes from the store or, where it was searched for another study, from that one's folder.
        """
        from ticketry.maskfile import dump_mask, load_mask

        if key not in self.wanted or key not in ledger:
            return
        digest = _digest(key, ledger)
        own = self.folder / f"{digest}{_SUFFIX}"
        if own.exists():
            return
        mask = load_mask(self.store.read(key, MASK_FILE)) if self.store.has(key) else None
        if mask is None or mask.digest() != digest:  # a record of another machine may tell another
            mask = self._read(self.file(digest), key, ledger)
        if mask is not None:
            told = _difference(mask, self._reference(key, mask.kept))
            write_bytes(own, min(dump_mask(mask), dump_mask(told), key=len))

    def keep_all(self, ledger: Ledger) -> None:
        """Keep every mask that may be read again, whoever searched it."""
        for key in sorted(self.wanted):
            self.keep(key, ledger)

    def bring(self, key: str, ledger: Ledger) -> bool:
        """Put a step's mask where other steps read it; say whether it was whole.

        A file that is not what was written is passed over, so that its search is done again; in
        this study's own folder it is renamed.
        """
        from ticketry.maskfile import dump_mask

        path = self.file(_digest(key, ledger))
        mask = self._read(path, key, ledger)
        if mask is None:
            if path.parent == self.folder:
                path.replace(path.with_suffix(".damaged"))
            else:
                self._damaged.add(path)
            return False
        self.store.bring_mask(key, dump_mask(mask))
        return True

    def _read(self, path: Path, key: str, ledger: Ledger) -> Mask | None:
        """Return the mask that a file tells; None if it is not the one of the record."""
        from ticketry.maskfile import load_mask

        digest = _digest(key, ledger)
        try:
            mask = load_mask(read_regular(path, _MOST_BYTES), what=str(path))
            if mask.digest() != digest:
                mask = _difference(mask, self._reference(key, ledger.record(key)["kept"]))
        except (TicketryError, OSError, ValueError):
            return None
        return mask if mask.digest() == digest else None

    def _reference(self, key: str, kept: int) -> Mask:
        """Return the mask of θ0's largest magnitudes that keeps so many weights."""
        from ticketry.bench import Bench
        from ticketry.core.select import select

        context = self.grid.contexts[self._contexts[key]]
        base = f"{context.base_sha256} {','.join(context.scope)}"
        if base not in self._pretrained:
            self._pretrained[base] = Bench(context, self.store).pretrained
        if (base, kept) not in self._references:
            weights = self._pretrained[base]
            prunable = sum(tensor.numel() for tensor in weights.values())
            self._references[base, kept] = select(weights, kept / prunable)
        return self._references[base, kept]


def _digest(key: str, ledger: Ledger) -> str:
    digest = str(ledger.record(key).get("digest", ""))
    # It names a file, and records come from anywhere.
    return digest if len(digest) == 64 and set(digest) <= set("0123456789abcdef") else "none"


def _difference(mask: Mask, other: Mask) -> Mask:
    return (mask & ~other) | (~mask & other)
