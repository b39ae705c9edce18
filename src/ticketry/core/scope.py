"""Scope: which tensors are prunable, by rules on names and shapes."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ticketry.errors import ScopeError

_NO_SHARED: Mapping[str, str] = {}


@dataclass(frozen=True)
class ScopeRule:
    """A rule that selects tensors.

    Attributes:
        name: how the rule is called in messages and records.
        include: globs on canonical names (``*`` also crosses dots); one of them must match.
        exclude: globs of which none may match.
        ndims: the numbers of dimensions a tensor may have; biases and norms have 1.
    """

    name: str
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    ndims: tuple[int, ...] = field(default=(2,))


def resolve_scope(
    shapes: Mapping[str, tuple[int, ...]],
    rule: ScopeRule,
    *,
    shared: Mapping[str, str] = _NO_SHARED,
) -> tuple[str, ...]:
    """Select the tensors that a rule speaks of.

    A tensor with several names (tied weights) counts once, under its owner's name. It is selected
    when any of its names is included and none is excluded: whoever excludes a name must not find
    its weights pruned under another.

    Args:
        shapes: canonical name -> shape, of every tensor of the base model.
        rule: what to select.
        shared: alias -> owner, for tied tensors; a chain of aliases is followed to its end.
    Returns:
        The selected names, sorted.

    Raises:
        ScopeError: nothing is selected; or an alias leads to no tensor of ``shapes``.
    """
    names: dict[str, list[str]] = {}
    for name in {*shapes, *shared}:
        names.setdefault(_owner(name, shapes, shared), []).append(name)
    selected = sorted(
        owner
        for owner, called in names.items()
        if len(shapes[owner]) in rule.ndims
        and any(_matches(name, rule.include) for name in called)
        and not any(_matches(name, rule.exclude) for name in called)
    )
    if not selected:
        raise ScopeError(_nothing(shapes, rule))
    return tuple(selected)


def _owner(name: str, shapes: Mapping[str, tuple[int, ...]], shared: Mapping[str, str]) -> str:
    seen = [name]
    while name in shared and shared[name] not in seen:
        name = shared[name]
        seen.append(name)
    if name in shared or name not in shapes:
        raise ScopeError(
            f"the shared names {' -> '.join(seen)} lead to no tensor of the model; expected each "
            "alias to end at the name that owns the weights."
        )
    return name


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _nothing(shapes: Mapping[str, tuple[int, ...]], rule: ScopeRule) -> str:
    named = [name for name in sorted(shapes) if _matches(name, rule.include)]
    without = f", without {', '.join(rule.exclude)}" if rule.exclude else ""
    ndims = " or ".join(str(ndim) for ndim in sorted(rule.ndims))
    message = (
        f"scope {rule.name!r} selects none of the model's {len(shapes)} tensors: it looks for "
        f"{', '.join(rule.include) or '(no pattern)'}{without}, of {ndims} dimensions. "
    )
    if named:
        found = ", ".join(f"{name} {tuple(shapes[name])}" for name in named[:3])
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        return (
            f"{message}Found under these names, but excluded or of other dimensions: {found}{more}."
        )
    ordered = sorted(shapes)
    # A few from all over the list: the first ones alone are often all embeddings.
    some = ordered[:: max(1, len(ordered) // 4)][:4]
    return f"{message}The model's names are like {', '.join(some) or '(it has none)'}."
