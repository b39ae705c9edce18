"""The model families, and scopes by name or pattern.

Names are canonical: those of the base ``AutoModel``'s ``state_dict``, without a task prefix.
A scope is a function of the base and a scope name, never of the task (heads are out of reach).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from ticketry.core.scope import ScopeRule
from ticketry.errors import ScopeError, UnknownNameError, unknown_name_message
from ticketry.models.image_families import IMAGE_FAMILIES
from ticketry.models.layout import Family
from ticketry.models.text_families import TEXT_FAMILIES

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES)
}

_PATTERN_NDIMS = (2, 3, 4)
_PATTERN_MARKS = "*?[.!"


_NOTHING: Mapping[str, Sequence[str]] = {}


def scope_rule(
    scope: str | Sequence[str], model_type: str, left_out: Mapping[str, Sequence[str]] = _NOTHING
) -> ScopeRule:
    """Turn a scope name, patterns, or both into one rule.

    Args:
        scope: a scope name of the family, or glob patterns on canonical names; ``!pattern``
            excludes. Names and patterns may be mixed: ``("encoder", "!encoder.layer.0.*")``.
        model_type: the base's ``model_type``.
        left_out: a scope's name -> patterns of what it leaves out of this very model beside what
            the family says; ``*``: of each named scope.
    Returns:
        The rule; patterns select tensors of 2 dimensions and more (never biases and norms).

    Raises:
        UnknownNameError: neither a scope of this family nor a pattern.
        ScopeError: only exclusions were given.
    """
    parts = (scope,) if isinstance(scope, str) else tuple(scope)
    family = FAMILIES.get(model_type)
    include: list[str] = []
    exclude: list[str] = []
    ndims: tuple[int, ...] = (2,)
    for part in parts:
        if family is not None and part in family.scopes:
            rule = family.scopes[part]
            include += rule.include
            exclude += [*rule.exclude, *left_out.get("*", ()), *left_out.get(part, ())]
            ndims = tuple(sorted({*ndims, *rule.ndims}))
        elif part.startswith("!"):
            exclude.append(part[1:])
        elif any(mark in part for mark in _PATTERN_MARKS):
            include.append(part)
            ndims = _PATTERN_NDIMS
        else:
            raise _unknown_scope(part, model_type)
    if not include:
        raise ScopeError(
            f"the scope {', '.join(parts) or '(empty)'} selects nothing: it has no scope name and "
            "no pattern to include; add one before the exclusions, such as 'encoder'."
        )
    return ScopeRule(
        name=parts[0] if len(parts) == 1 else " ".join(parts),
        include=tuple(include),
        exclude=tuple(exclude),
        ndims=ndims,
    )


def _unknown_scope(name: str, model_type: str) -> UnknownNameError:
    family = FAMILIES.get(model_type)
    if family is not None:
        message = unknown_name_message(f"scope of {model_type} models", name, family.scopes)
        return UnknownNameError(
            f"{message} Or give patterns on tensor names, such as 'encoder.layer.*.weight'."
        )
    scopes = {scope for known in FAMILIES.values() for scope in known.scopes}
    if name in scopes:
        message = unknown_name_message("model family", model_type, FAMILIES)
        why = f"Scope {name!r} is defined for these only; for another model give patterns"
    else:
        message = unknown_name_message("scope", name, scopes)
        why = f"The model's family {model_type!r} has no named scopes; give patterns"
    return UnknownNameError(
        f"{message} {why} on its tensor names, such as --scope 'blocks.*.weight'."
    )


def matching(names: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names that match any of the globs, in their order."""
    return tuple(
        name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in patterns)
    )
