"""Pure parts: tensors in, tensors out; no input or output, no global random state.

    scope.py      which tensors are prunable: rules on names and shapes
    score.py      criteria, one formula each
    select.py     scores -> Mask: exact, streaming, with a stated tie rule; random masks
    mask.py       Mask: immutable, name -> bool; density, overlap, set algebra
    schedule.py   the sparsity after each round of a search
    codec.py      packed bits <-> few bytes

Only torch and numpy are imported here.
"""
