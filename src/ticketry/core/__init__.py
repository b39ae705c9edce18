"""Pure parts: tensors in, tensors out; no input or output, no global random state.

    scope.py      which tensors are prunable: rules on names and shapes
    score.py      criteria, one formula each
    scoring.py    weights and their statistics, scored piece by piece
    pattern.py    where heads and neurons lie; a tensor as outputs × inputs
    allocation.py how many each tensor keeps: uniform, ERK, given
    keys.py       the k highest of n scores, without sorting
    structured.py N:M groups, blocks, units
    items.py      what is ranked: weights, blocks or units
    select.py     scores -> Mask: exact, streaming, with a stated tie rule; random masks
    perturb.py    masks and weights for controls: complement, flips, shuffles
    mask.py       Mask: immutable, name -> bool; density, overlap, set algebra
    likeness.py   two masks: overlap, cosine, agreement, each against chance
    schedule.py   the sparsity after each round of a search
    codec.py      packed bits <-> few bytes

Only torch and numpy are imported here. What goes with what is said without
torch, in ``ticketry/combination.py``.
"""
