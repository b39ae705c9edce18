"""Perturbed masks and weights, for controls. Random, and decided by the generator alone.

Each keeps what a control must keep: a perturbed mask has the counts of its layers, a shuffled
tensor its values. What is left of the ticket in a perturbed mask is ``(ticket & perturbed).kept``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ticketry.core import keys as keying
from ticketry.core.mask import Mask
from ticketry.errors import ConfigError


def complement_random(mask: Mask, generator: torch.Generator) -> Mask:
    """Keep as many weights of each layer as a mask does, but of those that it prunes.

    Args:
        mask: the ticket's.
        generator: on the CPU.
    Returns:
        Mask. Of a layer in which ``mask`` keeps k and prunes p: if k ≤ p, a random k of the pruned
        ones; else all p, and a random k − p of the kept. So it shares exactly max(0, k − p) with
        ``mask`` in each layer: nothing where half or more is pruned.

    Source: Chen et al. 2021, arXiv 2012.06908 (complement masks). Differs: limited, or filled up,
        to the count of each layer, so that the two differ in which weights alone.
    """

    def layer(one: Mask) -> Mask:
        from_kept = max(0, one.kept - one.pruned)
        chosen = _some(~one, one.kept - from_kept, generator)
        return chosen | _some(one, from_kept, generator) if from_kept else chosen

    return _by_layer(mask, layer)


def flip(mask: Mask, fraction: float, generator: torch.Generator) -> Mask:
    """Swap a fraction of each layer's kept weights for pruned ones.

    Args:
        mask: the ticket's.
        fraction: swapped / kept, of each layer, in [0, 1].
        generator: on the CPU.
    Returns:
        Mask. Of a layer in which ``mask`` keeps k and prunes p, s = min(round(fraction · k), p)
        random kept weights are pruned and s random pruned ones kept; the counts stay.

    Raises:
        ConfigError: a fraction outside [0, 1].

    Source: Chen et al. 2021, arXiv 2012.06908 (masks of which 10% are flipped). Differs: as many
        are kept anew as are pruned, so that the sparsity of no layer moves.
    """
    if not 0 <= fraction <= 1:  # also catches NaN
        raise ConfigError(f"fraction is {fraction}; expected a number in [0, 1].")

    def layer(one: Mask) -> Mask:
        swapped = min(round(fraction * one.kept), one.pruned)
        lost = _some(one, swapped, generator)
        return (one & ~lost) | _some(~one, swapped, generator)

    return _by_layer(mask, layer)


def shuffle_within(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor's values in random order (θ0″ of a layer).

    Args:
        tensor: of any shape, dtype and device; stays as it is.
        generator: on the CPU.
    Returns:
        A new tensor of the same shape, dtype and device; every order is equally likely.

    Source: Chen et al. 2020, arXiv 2007.12223, Table 2 (pre-trained weights shuffled in layers).
    """
    flat = tensor.detach().reshape(-1)
    order = torch.randperm(flat.numel(), generator=generator)
    return flat[order.to(flat.device)].reshape(tensor.shape)


def _some(mask: Mask, count: int, generator: torch.Generator) -> Mask:
    """Keep ``count`` random ones of the weights that a mask keeps."""
    shapes = {name: mask.shape(name) for name in mask}
    return keying.keep_highest(keying.drawn(shapes, generator), shapes, count, mask)


def _by_layer(mask: Mask, change: Callable[[Mask], Mask]) -> Mask:
    packed: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name in mask:
        changed = change(Mask.from_packed({name: (mask.shape(name), mask.packed(name))}))
        packed[name] = (mask.shape(name), changed.packed(name))
    return Mask.from_packed(packed)
