"""A ticket's mask in a training that is not ours: a callback for ``transformers.Trainer``."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ticketry.enforce import MaskEnforcer
from ticketry.errors import BaseMismatchError, ConfigError, RunMismatchError, TrainingError
from ticketry.models.loading import canonical_tensors, some_names, tensor_hashes
from ticketry.ticket import Ticket

_ALIVE: WeakValueDictionary[str, TicketCallback] = WeakValueDictionary()
"""Mask digest -> a callback of this process that holds such a ticket."""


class TicketCallback(TrainerCallback, ExportableState):
    """Keeps a ticket's pruned weights at exactly zero in a user's own ``Trainer``.

    Pruned weights are zeroed when the training begins, and their gradients as they accumulate, so
    that clipping, accumulation, momentum and decay never see them. The zeros are checked after the
    first step, before each evaluation and checkpoint, and at the end, after
    ``load_best_model_at_end``. Names in ``state_dict`` do not change. A checkpoint records the
    mask's digest alone; a resumed training needs the ticket again.

    DeepSpeed and FSDP split parameters and gradients behind the hooks' back, and are refused.

    Args:
        ticket: whose mask is kept. (Also the digest of a mask whose ticket another callback of this
            process holds: so the Trainer restores a callback from a checkpoint.)
        strict: refuse a model that does not start at the ticket's weights, which are the base's or
            those that it carries (pruned weights may be zero already), and a checkpoint of another
            mask or of none. Otherwise only names and shapes must fit, and what the optimizer
            remembers of pruned weights is cleared.

    Raises:
        RunMismatchError: a digest that no callback of this process has.
    """

    def __init__(self, ticket: Ticket | str, strict: bool = True) -> None:
        if isinstance(ticket, str):
            holder = _ALIVE.get(ticket)
            if holder is None:
                raise RunMismatchError(
                    f"the checkpoint was trained under the mask {ticket[:12]}…; no TicketCallback "
                    "here has a ticket with that mask. Give the Trainer that ticket's."
                )
            ticket, strict = holder.ticket, holder.strict
        self.ticket: Ticket = ticket
        self.strict: bool = strict
        self._digest = ticket.mask.digest()
        self._enforcer: MaskEnforcer | None = None
        self._checked = False
        _ALIVE[self._digest] = self

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint records: the mask's digest, from which a Trainer restores it."""
        return {"args": {"ticket": self._digest}, "attributes": {}}

    def detach(self) -> None:
        """Take the hooks off the model; needed only after a training that ended with an error."""
        if self._enforcer is not None:
            self._enforcer.detach()
            self._enforcer = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Zero the pruned weights and begin to mask; model and optimizer are loaded by now.

        Raises:
            ConfigError: the training is sharded.
            BaseMismatchError: the model does not fit the ticket.
            RunMismatchError: the checkpoint is of another mask or of none.
        """
        assert model is not None
        refuse_sharded(args, model)
        if self.strict and state.global_step > 0:
            self._require_checkpoint(state)
        elif self.strict and not self._is_retried(model):
            require_start(self.ticket, model)
        self.detach()
        self._enforcer = MaskEnforcer(model, self.ticket.mask).attach()
        if optimizer is not None:
            self._enforcer.clear_moments(optimizer)
        # The Trainer looks its callbacks up there when it saves; a checkpoint of a training
        # without this callback has no such entry.
        states: Any = state.stateful_callbacks
        states.setdefault(type(self).__name__, self.state())
        self._checked = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the zeros after the first step, and before an evaluation or a checkpoint."""
        if not self._checked or control.should_save or control.should_evaluate:
            self._check(state, first=not self._checked, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the zeros before an evaluation or a checkpoint."""
        if control.should_save or control.should_evaluate:
            self._check(state, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the zeros, of the best model if that was loaded, and take the hooks off."""
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        self._check(state, best=best, **kwargs)
        self.detach()

    def _is_retried(self, model: nn.Module) -> bool:
        """Say whether the Trainer begins again in mid-training (``auto_find_batch_size``)."""
        return self._enforcer is not None and self._enforcer.holds(model)

    def _require_checkpoint(self, state: TrainerState) -> None:
        states: Any = state.stateful_callbacks
        recorded = states.get(type(self).__name__, [])
        entries = recorded if isinstance(recorded, list) else [recorded]
        digests = [str(entry.get("args", {}).get("ticket")) for entry in entries]
        if self._digest not in digests:
            found = f"under the mask {digests[0][:12]}…" if digests else "without a ticket"
            raise RunMismatchError(
                f"the checkpoint at step {state.global_step} was trained {found}; expected "
                f"this ticket's mask {self._digest[:12]}…. Resume with the same ticket, start "
                "anew, or pass strict=False to mask this checkpoint from here on."
            )

    def _check(
        self,
        state: TrainerState,
        *,
        first: bool = False,
        best: str | None = None,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **_: Any,
    ) -> None:
        assert self._enforcer is not None
        assert model is not None
        self._checked = True
        if not self._enforcer.holds(model):
            raise TrainingError(
                f"at step {state.global_step} the model has other parameters than the training "
                "began with, which are not masked; expected the same. Change a model before the "
                "training, not in it."
            )
        revived = self._enforcer.revived()
        if not revived:
            return
        if first:
            kind = type(getattr(optimizer, "optimizer", optimizer)).__name__
            why = (
                f"{kind} moves weights whose gradient and state are zero, or steps inside the "
                "backward pass. Use one that does not: AdamW, SGD, Adafactor."
            )
        elif best is not None:
            why = f"load_best_model_at_end loaded {best}, which was not trained under this mask."
        else:
            why = (
                "Something besides the optimizer's step changed them: another callback, or a "
                "weight that was frozen when the training began."
            )
        raise TrainingError(
            f"at step {state.global_step} {sum(revived.values())} pruned weights are not zero "
            f"(in {some_names(sorted(revived))}); expected none. {why}"
        )


def refuse_sharded(args: TrainingArguments, model: nn.Module) -> None:
    """Refuse a training whose parameters or gradients are split where no hook sees them whole.

    Raises:
        ConfigError: names what splits them.
    """
    if (
        getattr(args, "deepspeed", None)
        or getattr(args, "hf_deepspeed_config", None) is not None
        or getattr(args, "deepspeed_plugin", None) is not None
        or any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    ):
        what = "DeepSpeed partitions parameters (ZeRO-3) or gradients, and steps inside backward"
    elif getattr(args, "fsdp", None) or os.environ.get("ACCELERATE_USE_FSDP") == "true":
        what = "FSDP shards the parameters"
    elif any(_is_sharded(parameter) for parameter in model.parameters()):
        what = "the model's parameters are sharded (FSDP or tensor parallel)"
    else:
        return
    raise ConfigError(
        f"TicketCallback cannot keep a mask here: {what}. Train with plain data parallel "
        "(torchrun or accelerate launch), or with `ticketry train`."
    )


def _is_sharded(parameter: nn.Parameter) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FlatParameter
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, FlatParameter | DTensor)


def require_start(ticket: Ticket, model: nn.Module) -> None:
    """Refuse a model that is not at the weights that a ticket starts from.

    These are its base's, or those that it carries; its mask may be applied already.

    Raises:
        BaseMismatchError: names the tensors that differ.
    """
    tensors = canonical_tensors(model)
    if ticket.rewind is None:
        hashes = None
        start = f"this ticket's base {ticket.base.name}"
        remedy = "load these in float32"
    else:
        hashes = tensor_hashes(ticket.rewind.weights)
        start = "the weights that this ticket carries"
        remedy = "put them in with ticket.apply_(model)"
    unlike = [
        name
        for name in ticket.differing(model, hashes)
        if name not in ticket.mask
        or bool((tensors[name].ne(0) & ~ticket.mask[name].to(tensors[name].device)).any())
    ]
    if unlike:
        raise BaseMismatchError(
            f"{len(unlike)} tensors of the model differ from {start}: {some_names(unlike)}. "
            f"A ticket is trained from these weights: {remedy}, or pass strict=False to train "
            "from what the model has."
        )
