"""Several tasks' tickets, served from one copy of their base's weights.

What all tasks share is the base. A task's served weights are ``mask * base``, and of its own it has
a head, and biases, norms and a pooler if it trained them. In memory there are

- the base's tensors, once, which only the bank reads;
- one image of the masked matrices, into which the base is masked anew when the task changes;
- for each task its mask (a bit for each weight), its head and its small tensors.

A switch reads the base and the mask and writes the image; nothing is undone or added up, so an
image never depends on what was served before.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ticketry.bank.image import Image
from ticketry.bank.sizes import BankBytes, TaskBytes
from ticketry.bank.tickets import check_ticket, task_name
from ticketry.core.mask import Mask
from ticketry.errors import BankError, unknown_name
from ticketry.models.loading import (
    base_model,
    base_state,
    canonical_tensors,
    config_of,
    load_backbone,
    resolve,
    some_names,
    tensor_hashes,
)
from ticketry.models.sharing import own_tensors, shared_model
from ticketry.ticket import Ticket


@dataclass(frozen=True, eq=False)
class _Task:
    mask: Mask
    model: nn.Module
    places: tuple[tuple[nn.Parameter, int], ...]
    """Its parameters, and the address where the values of each must lie."""
    size: TaskBytes


class TicketBank:
    """Tickets of one base, of which one at a time is served from one copy of the weights.

    Any thread may call any method: what changes the image waits until the task in use is done.

    Args:
        base: a packaged name, folder or hub id; or a model of transformers built on the base,
            on the CPU in float32, whose tensors are then used, not copied: do not change it.
        revision: of a hub id.

    Raises:
        ModelError: the base cannot be found or loaded.
        BankError: the model's tensors are not float32 on the CPU.
    """

    def __init__(self, base: str | Path | nn.Module, *, revision: str | None = None) -> None:
        if isinstance(base, nn.Module):
            self.name = str(getattr(config_of(base), "name_or_path", "") or type(base).__name__)
            self._backbone = base_model(base)
        else:
            self.name = str(base)
            with torch.inference_mode(False):
                self._backbone = load_backbone(resolve(str(base), revision))
        self._base = canonical_tensors(self._backbone)
        _check_tensors(self._base, self.name)
        self._hashes = tensor_hashes(self._base)
        self._versions = {name: tensor._version for name, tensor in self._base.items()}
        self._image = Image(self._base)
        self._tasks: dict[str, _Task] = {}
        self._lock = threading.RLock()
        self._uses: list[str] = []
        self._user: int | None = None
        self._broken = ""

    # --- what is in it ---------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names, in the order in which they were added."""
        return tuple(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def add(
        self,
        ticket: Ticket | str | Path,
        head: nn.Module | str | Path | None = None,
        *,
        name: str | None = None,
    ) -> TicketBank:
        """Add a task.

        Args:
            ticket: of this base, at its pre-trained weights; a folder or hub id is loaded.
            head: a task model of transformers whose base is the masked base but for biases, norms
                and pooler (:func:`freeze_` trains one), or the folder or hub id of one; only what
                is its own is kept. None serves the base alone.
            name: of the task; None takes the one that the ticket was found on.
        Returns:
            The bank.

        Raises:
            BaseMismatchError: the ticket is of another base.
            BankError: the name is missing or taken, the ticket carries other weights to start
                from, or the model shares less with the base; the bank is unchanged.
        """
        if not isinstance(ticket, Ticket):
            ticket = Ticket.from_pretrained(ticket)
        name = name or task_name(ticket)
        check_ticket(ticket, self._base, self._hashes, self.name)
        model = self._backbone if head is None else head
        if not isinstance(model, nn.Module):
            model = _load(str(model))
        with self._lock, torch.inference_mode(False):
            self._check_whole()
            if name in self._tasks:
                raise BankError(f"the bank has a task {name!r} already; remove it first.")
            own = (
                frozenset()
                if head is None
                else own_tensors(model, self._base, ticket.mask, self.name)
            )
            image = self._image.grown(ticket.mask)
            shared = {n: t for n, t in {**self._base, **image}.items() if n not in own}
            task = _task(model, ticket.mask, shared, own)
            task.model.register_forward_pre_hook(_Guard(self, name))
            self._image.keep(image)
            self._tasks[name] = task
            if self._uses:
                self._show(self._uses[-1])
        return self

    def remove(self, name: str) -> None:
        """Forget a task.

        Raises:
            UnknownNameError: there is none of that name.
            BankError: it is in use.
        """
        with self._lock:
            self._task(name)
            if name in self._uses:
                raise BankError(f"the task {name!r} is in use; remove it outside its `with`.")
            del self._tasks[name]
            self._image.shrink({n for task in self._tasks.values() for n in task.mask})
            if self._uses:
                self._show(self._uses[-1])

    def size(self) -> BankBytes:
        """Return what is in memory, in bytes."""
        with self._lock:
            tasks = {name: task.size for name, task in self._tasks.items()}
            return BankBytes(_nbytes(self._base), self._image.nbytes, tasks)

    # --- serving ---------------------------------------------------------------------------------

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """Serve a task: ``with bank.use("movies") as model: model(**inputs)``.

        Other threads wait for the end of the block. In it the same thread may use another task,
        after which this one is served again. A model that is called outside its block, or in
        another thread, refuses, for its weights may be another task's.

        Args:
            name: of the task.
        Returns:
            An ordinary model of transformers, the same at each use. Its weights are the bank's:
            :meth:`copy` gives one that may be changed.

        Raises:
            UnknownNameError: there is no such task; shows the nearest.
            BankError: shared weights were changed from outside.
        """
        with self._lock:
            task = self._task(name)
            self._check_whole()
            self._check_places(name, task)
            self._uses.append(name)
            self._user = threading.get_ident()
            try:
                self._show(name)
                yield task.model
            except BaseException:
                self._leave()
                raise
            touched = self._leave()
            self._check_whole()
            if touched:
                raise BankError(
                    f"{len(touched)} masked tensors were changed in place while {name!r} was in "
                    f"use ({some_names(touched)}); the bank has put them back. Change the model "
                    f"that bank.copy({name!r}) gives."
                )

    def copy(self, name: str) -> Any:
        """Return a task's model with weights of its own, which may be trained, saved, accelerated.

        Raises:
            UnknownNameError: there is no such task; shows the nearest.
        """
        with self.use(name) as model, torch.inference_mode(False):
            guards = {
                key: hook for key, hook in model._forward_pre_hooks.items() if type(hook) is _Guard
            }
            # Standing for itself in the memo, it is not asked to be copied, which it refuses.
            copied = copy.deepcopy(model, {id(hook): hook for hook in guards.values()})
            for key in guards:
                del copied._forward_pre_hooks[key]
            return copied.requires_grad_(True)

    def verify(self) -> None:
        """Hash the whole base again (a second for 500 MB), and compare.

        Each use looks for changes by torch's counters, which ``tensor.data`` and other libraries
        get around; this does not.

        Raises:
            BankError: names the tensors that are no longer the base's.
        """
        with self._lock:
            found = tensor_hashes(self._base)
            if changed := [name for name in found if found[name] != self._hashes[name]]:
                self._broken = self._broken or _changed(changed)
            self._check_whole()
            self._image.forget()
            if self._uses:
                self._show(self._uses[-1])

    def _task(self, name: str) -> _Task:
        if name not in self._tasks:
            raise unknown_name("task", str(name), self._tasks)
        return self._tasks[name]

    def _show(self, name: str) -> None:
        self._image.show(self._tasks[name].mask)

    def _leave(self) -> list[str]:
        """End the innermost use, and serve again what was served around it.

        Returns:
            The masked tensors that were changed meanwhile.
        """
        self._uses.pop()
        touched = self._image.heal()
        if self._uses:
            self._show(self._uses[-1])
        else:
            self._user = None
        return touched

    # --- what must hold --------------------------------------------------------------------------

    def _check_whole(self) -> None:
        changed = [n for n, t in self._base.items() if t._version != self._versions[n]]
        if changed and not self._broken:
            self._broken = _changed(changed)
        if self._broken:
            raise BankError(self._broken)

    def _check_places(self, name: str, task: _Task) -> None:
        if any(parameter.data_ptr() != at for parameter, at in task.places):
            raise BankError(
                f"the model of the task {name!r} was moved or converted, so it no longer shares "
                f"the bank's weights. Remove the task and add it again; bank.copy({name!r}) gives "
                "a model that may be moved."
            )

    def _guard(self, name: str) -> None:
        if self._uses[-1:] != [name] or self._user != threading.get_ident():
            raise BankError(
                f"the model of the task {name!r} was called outside `with bank.use({name!r})` of "
                "its thread, where the bank's weights may be another task's."
            )

    def __reduce__(self) -> NoReturn:
        raise BankError("a bank is not copied or pickled; build it again from its tickets.")


class _Guard:
    """Refuses a call of a task's model while the weights may be another task's."""

    def __init__(self, bank: TicketBank, name: str) -> None:
        self._bank, self._name = bank, name

    def __call__(self, *_: Any) -> None:
        self._bank._guard(self._name)

    def __reduce__(self) -> NoReturn:
        raise BankError(
            f"a bank's model shares its weights; bank.copy({self._name!r}) gives one that may be "
            "copied, pickled and changed."
        )


def _changed(names: list[str]) -> str:
    return (
        f"{len(names)} of the base's tensors were changed in place from outside the bank "
        f"({some_names(sorted(names))}), so no task can be served exactly any more. Build the bank "
        "again; change the model that bank.copy gives."
    )


def _check_tensors(base: Mapping[str, Tensor], name: str) -> None:
    unfit = [
        tensor
        for tensor, values in base.items()
        if values.device.type != "cpu"
        or values.is_inference()
        or (values.is_floating_point() and values.dtype != torch.float32)
    ]
    if unfit:
        raise BankError(
            "a bank serves float32 weights on the CPU that were made outside torch.inference_mode; "
            f"{len(unfit)} of {len(base)} tensors of {name} are not ({some_names(sorted(unfit))}). "
            "Give the base's name or folder instead."
        )


def _task(model: nn.Module, mask: Mask, shared: Mapping[str, Tensor], own: Set[str]) -> _Task:
    """Build a task's model over shared tensors, and say what it takes beside them."""
    model = shared_model(model, shared)
    inside = {id(tensor): name for name, tensor in base_state(model).items()}
    saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    head = small = tables = 0
    for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        name = inside.get(id(tensor))
        if name in own:
            small += tensor.nbytes
        elif id(tensor) not in saved:
            tables += tensor.nbytes
        elif name not in shared:
            head += tensor.nbytes
    bits = sum(len(mask.packed(name)) for name in mask)
    places = tuple((parameter, parameter.data_ptr()) for parameter in model.parameters())
    return _Task(mask, model, places, TaskBytes(bits, head, small, tables))


def _nbytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _load(name: str) -> nn.Module:
    from ticketry.packed.loading import load_model

    model: nn.Module = load_model(name)
    return model
