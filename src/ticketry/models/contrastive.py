"""Models that learn images without labels, over a pre-trained base: simCLR and MoCo v2.

Projection heads and loss are lightly's. Nothing here outlives a training: a model is built anew
for each, and MoCo's queue and momentum encoder begin with its first step.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.func import functional_call

from ticketry.errors import ModelError
from ticketry.models.loading import base_model
from ticketry.models.sources import PROJECTION_FILE, BaseRef

PROJECTION = 128
"""Outputs of a projection head."""
GROUP = 32
"""Images that MoCo normalises together: as many as the paper's 256 on each of its 8 GPUs."""
PROJECTED = ("simclr", "moco")
"""Objectives that learn through a projection head, which a pre-trained folder may hold."""


def need_lightly() -> None:
    """Refuse to go on without lightly.

    Raises:
        ModelError: says how to get it.
    """
    try:
        import lightly  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision's own, where it does not fit torch
        raise ModelError(
            f"pre-training on images cannot be used here ({type(error).__name__}: "
            f"{str(error)[:120]}); install lightly, timm and the torchvision that fits your torch: "
            "pip install 'ticketry[vision]'"
        ) from error


def features(net: nn.Module, pixels: Tensor) -> Tensor:
    """Return one vector an image, as a head of the base is given it; shape [images, features].

    Args:
        net: a base (:func:`ticketry.models.loading.base_model`).
        pixels: [images, channels, height, width].
    """
    model: Any = net
    if hasattr(model, "forward_head"):  # timm's
        found: Tensor = model.forward_head(model.forward_features(pixels), pre_logits=True)
        return found.flatten(1)
    output = model(pixel_values=pixels)
    pooled = getattr(output, "pooler_output", None)
    return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)


class Encoder(nn.Module):
    """A base and the head that projects its features."""

    def __init__(self, base: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        """Return projections [images, :data:`PROJECTION`]."""
        found: Tensor = self.head(features(base_model(self.base), pixels))
        return found


class SimCLR(nn.Module):
    """Pulls two views of an image together and all others of the batch apart.

    Args:
        base: at θ0.
        head: the projection.
        temperature: of the similarities.

    Source: Chen et al. 2020 (arXiv 2002.05709), Algorithm 1.
    """

    def __init__(self, base: nn.Module, head: nn.Module, temperature: float) -> None:
        from lightly.loss import NTXentLoss

        super().__init__()
        self.encoder = Encoder(base, head)
        self.criterion = NTXentLoss(temperature)
        # Without a bank lightly leaves this buffer as it found the memory, and a checkpoint has it.
        self.criterion.memory_bank.bank_ptr.zero_()

    def forward(self, pixel_values: Tensor, other_views: Tensor | None = None) -> SimpleNamespace:
        """Return projections as ``logits``."""
        return SimpleNamespace(logits=self.encoder(pixel_values))

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the mean NT-Xent loss of a batch of pairs."""
        one, other = self.encoder(torch.cat([first, second])).float().chunk(2)
        with _exact(one):
            found: Tensor = self.criterion(one, other)
        return found


class MoCo(nn.Module):
    """Tells an image's other view from a queue of earlier ones, encoded by a slow copy of itself.

    Queue, momentum encoder and whether they have begun are buffers that are not saved with the
    weights: a checkpoint of a training holds them, and a rewind cannot bring them along.

    Args:
        base: at θ0.
        head: the projection.
        temperature: of the similarities.
        queue: keys that are kept.
        momentum: share of the momentum encoder that stays at each step.

    In training the batch is normalised in groups of :data:`GROUP`: queries in one division of the
    batch, keys in another, so that a group's statistics do not tell which key is whose. The paper
    shuffles the batch between GPUs to the same end.

    Source: He et al. 2020 (arXiv 1911.05722), 3.3 for the groups; Chen et al. 2020 (arXiv
        2003.04297).
    """

    def __init__(
        self, base: nn.Module, head: nn.Module, temperature: float, queue: int, momentum: float
    ) -> None:
        from lightly.loss import NTXentLoss

        super().__init__()
        self.encoder = Encoder(base, head)
        self.criterion = NTXentLoss(temperature, memory_bank_size=(queue, PROJECTION))
        self.momentum = momentum
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool), persistent=False)
        for number, tensor in enumerate(self._own().values()):
            self.register_buffer(f"key_{number}", torch.zeros_like(tensor), persistent=False)

    def _own(self) -> dict[str, Tensor]:
        """Return the encoder's parameters and buffers, themselves."""
        encoder = self.encoder
        return {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}

    def _keys(self) -> dict[str, Tensor]:
        """Return the momentum encoder's tensors, by the encoder's names."""
        return {name: self.get_buffer(f"key_{n}") for n, name in enumerate(self._own())}

    @property
    def followers(self) -> Mapping[int, Tensor]:
        """The id of a parameter -> the momentum encoder's tensor, which the same mask prunes."""
        keys = self._keys()
        return {id(tensor): keys[name].detach() for name, tensor in self._own().items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Move the momentum encoder towards the encoder; at the first step, onto it."""
        begun = bool(self.begun)
        for key, own in zip(self._keys().values(), self._own().values(), strict=True):
            if begun and key.is_floating_point():
                key.lerp_(own, 1.0 - self.momentum)
            else:
                key.copy_(own)
        self.get_buffer("begun").fill_(True)

    @torch.no_grad()
    def encode_keys(self, pixels: Tensor, groups: int = 1) -> Tensor:
        """Return projections by the momentum encoder; by the encoder before the first step.

        Args:
            pixels: [images, channels, height, width].
            groups: every so manieth image is normalised with those so far away.
        """
        # A forward in training moves averaged statistics: of a copy, so that of none that is kept.
        tensors = {
            name: tensor.clone()
            for name, tensor in (self._keys() if self.begun else self._own()).items()
        }
        found: Tensor | None = None
        for group in range(groups):
            part: Tensor = functional_call(self.encoder, tensors, (pixels[group::groups],))
            found = part.new_empty(len(pixels), part.shape[1]) if found is None else found
            found[group::groups] = part
        assert found is not None
        return found

    def forward(self, pixel_values: Tensor, other_views: Tensor | None = None) -> SimpleNamespace:
        """Return projections as ``logits``."""
        return SimpleNamespace(logits=self.encoder(pixel_values))

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the mean loss of a batch of pairs; in training, their keys enter the queue."""
        # To score weights (in eval mode) must change nothing.
        criterion = self.criterion if self.training else copy.deepcopy(self.criterion)
        groups = 1
        if self.training:
            self.follow()
            groups = max(1, len(first) // GROUP)
        keys = self.encode_keys(second, groups).float()
        queries = torch.cat([self.encoder(part) for part in first.chunk(groups)]).float()
        with _exact(queries):
            found: Tensor = criterion(queries, keys)
        return found


@contextlib.contextmanager
def _exact(tensor: Tensor) -> Iterator[None]:
    """Compute in float32 meanwhile: similarities over a temperature lose too much in bfloat16."""
    with torch.autocast(tensor.device.type, enabled=False):
        yield


def projection_head(objective: str, size: int) -> nn.Module:
    """Return an objective's projection head over ``size`` features, drawn from the global RNG."""
    from lightly.models.modules.heads import MoCoProjectionHead, SimCLRProjectionHead

    head = SimCLRProjectionHead if objective == "simclr" else MoCoProjectionHead
    found: nn.Module = head(size, size, PROJECTION)
    return found


def own_projection(base: BaseRef, objective: str) -> dict[str, Tensor]:
    """Return the projection head that a pre-trained folder brings along.

    Args:
        base: the base model.
        objective: one of :data:`PROJECTED`.
    Returns:
        The head's tensors by its own names; nothing where the folder has none of this objective.

    Raises:
        ModelError: the file cannot be read.
    """
    path = base.path / PROJECTION_FILE
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("objective") != objective:
                return {}
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{PROJECTION_FILE} of {base.name!r} cannot be read ({error}); expected the projection "
            "head that `ticketry pretrain` writes. Delete it to start with a fresh one."
        ) from error


def save_projection(head: Mapping[str, Tensor], objective: str) -> bytes:
    """Return a projection head's tensors as :func:`own_projection` reads them."""
    tensors = {name: tensor.contiguous() for name, tensor in head.items()}
    return safetensors.torch.save(tensors, {"objective": objective})


def put_projection_(head: nn.Module, tensors: Mapping[str, Tensor], base: BaseRef) -> None:
    """Set a head to the one that a base brings along.

    Raises:
        ModelError: it does not fit.
    """
    own = head.state_dict()
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
        raise ModelError(
            f"{PROJECTION_FILE} of {base.name!r} does not fit the model: it has "
            f"{len(tensors)} tensors, expected {len(own)} of {PROJECTION} outputs over its "
            "features. Delete it to start with a fresh one."
        )
    head.load_state_dict(dict(tensors))
