"""Where weights were kept: tensors by kind of matrix and block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MOST_PANELS = 12
"""More kinds of matrices than this are drawn as one panel."""

MOST_ROWS = 32
"""More kinds of matrices than this make no map."""


def layer_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Say one tensor's counts."""
    return {
        "name": row["name"],
        "shape": " × ".join(str(size) for size in row["shape"]),
        "kept": f"{row['kept']:,}",
        "prunable": f"{row['prunable']:,}",
        "sparsity": f"{_sparsity(row):.1%}",
    }


def _sparsity(row: Mapping[str, Any]) -> float:
    return 1.0 - float(row["kept"] / row["prunable"]) if row["prunable"] else 0.0


_BLOCK = re.compile(r"^(.*?)(?:^|\.)(\d+)\.(.+?)(?:\.weight)?$")

Placed = dict[str, dict[int, list[Mapping[str, Any]]]]


def _placed(layers: Sequence[Mapping[str, Any]]) -> Placed:
    """Return kind -> block -> tensors; block -1 is that of names without a number.

    A kind that lies in several stacks (an encoder's and a decoder's) is one for each.
    """
    split = []
    stacks: dict[str, set[str]] = {}
    for row in layers:
        match = _BLOCK.match(row["name"])
        stack, block, kind = (match[1], int(match[2]), match[3]) if match else ("", -1, row["name"])
        kind = kind.removesuffix(".weight")
        stacks.setdefault(kind, set()).add(stack)
        split.append((stack, block, kind, row))
    found: Placed = {}
    for stack, block, kind, row in split:
        name = f"{stack.split('.')[0]}: {kind}" if len(stacks[kind]) > 1 else kind
        found.setdefault(name, {}).setdefault(block, []).append(row)
    return found


def kinds_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Return kind of matrix -> its tensors, block by block, as :func:`layer_groups` tells kinds."""
    found = _placed([{"name": name} for name in names])
    return {
        kind: [str(row["name"]) for _, rows in sorted(blocks.items()) for row in rows]
        for kind, blocks in found.items()
    }


def layer_groups(layers: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, float]]]:
    """Group tensors into kinds of matrices by their names, in the order of their blocks.

    ``encoder.layer.3.output.dense.weight`` is block 3 of the kind ``output.dense``; a name without
    a number is a kind of its own. With too many kinds, tensors are merged by block.

    Returns:
        kind -> [(block, sparsity)].
    """
    found = _placed(layers)
    if len(found) > MOST_PANELS:
        merged: dict[int, list[Mapping[str, Any]]] = {}
        for blocks in found.values():
            for block, rows in blocks.items():
                merged.setdefault(block, []).extend(rows)
        found = {"all prunable tensors of a block": merged}
    return {
        kind: [
            ("" if block < 0 else str(block), _merged_sparsity(rows))
            for block, rows in sorted(blocks.items())
        ]
        for kind, blocks in found.items()
    }


def kept_grid(
    layers: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """Return the share kept by kind of matrix and block, and the blocks in order.

    Returns:
        kind -> block -> kept / prunable, in [0, 1]; nothing where names tell fewer than two kinds
        or two blocks, or more kinds than a page can show.
    """
    found = _placed(layers)
    numbered = {kind: blocks for kind, blocks in found.items() if -1 not in blocks}
    blocks = sorted({block for row in numbered.values() for block in row})
    if not 2 <= len(numbered) <= MOST_ROWS or len(blocks) < 2:
        return {}, ()
    grid = {
        kind: {str(block): 1.0 - _merged_sparsity(rows) for block, rows in sorted(row.items())}
        for kind, row in numbered.items()
    }
    return grid, tuple(str(block) for block in blocks)


def _merged_sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    kept, prunable = (sum(row[name] for row in rows) for name in ("kept", "prunable"))
    return _sparsity({"kept": kept, "prunable": prunable})


def layer_words(evidence: Mapping[str, Any]) -> str:
    """Say which tensors are pruned least and most."""
    rows = evidence["layers"]
    if not rows:
        return "No tensors are recorded."
    low, high = min(rows, key=_sparsity), max(rows, key=_sparsity)
    return (
        f"From {_sparsity(low):.1%} in {low['name']} to {_sparsity(high):.1%} in {high['name']}; "
        f"{evidence['sparsity']:.1%} over all (the dashed line)."
    )


def weights_words(evidence: Mapping[str, Any]) -> str:
    """Say how much is pruned, of the scope and of the whole model."""
    return (
        f"{evidence['kept']:,} of {evidence['prunable']:,} prunable weights are kept. Over all "
        f"{evidence['total_parameters']:,} parameters of the base model, embeddings included, "
        f"{evidence['model_sparsity']:.1%} are pruned."
    )
