"""How far pre-training moved the weights in scope from where they began, and so a mask of them.

    python benchmarks/moved.py pretrained/theta0 pretrained/simclr pretrained/moco

The first model is where the others began (``ticketry pretrain --stop-at 0``, of the same seed).
Prints, for each of the others: the correlation of its weights with their first values, how far they
moved by the first values' norm, and for magnitude masks of several sparsities the intersection over
union of what they keep with what the first values' mask keeps, and chance. A mask that is mostly
its initialisation's says little about what was learned.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ticketry.core.select import select_global
from ticketry.metrics import say_sparsity
from ticketry.models.loading import canonical_tensors, load_backbone, prunable, resolve

SPARSITIES = (0.36, 0.5904, 0.7379, 0.8322)


def weights_of(name: str) -> dict[str, Tensor]:
    """Return the prunable weights of a model."""
    model = load_backbone(resolve(name))
    tensors = canonical_tensors(model)
    return {key: tensors[key].float() for key in prunable(model, "encoder")}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first")
    parser.add_argument("others", nargs="+")
    options = parser.parse_args()
    before = weights_of(options.first)
    start = torch.cat([tensor.flatten() for tensor in before.values()])
    masks = {sparsity: select_global(before, 1 - sparsity) for sparsity in SPARSITIES}
    shares = [say_sparsity(sparsity) for sparsity in SPARSITIES]
    print(f"| model | correlation | moved | {' | '.join(shares)} |")
    print("|---" * (3 + len(shares)) + "|")
    for name in options.others:
        after = weights_of(name)
        now = torch.cat([after[key].flatten() for key in before])
        alike = torch.corrcoef(torch.stack([start, now]))[0, 1]
        moved = (now - start).norm() / start.norm()
        cells = []
        for sparsity, mask in masks.items():
            found = mask.overlap(select_global(after, 1 - sparsity))
            cells.append(f"{found.kept_iou:.2f} ({found.kept_expected:.2f})")
        print(f"| {name} | {alike:.2f} | {moved:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
