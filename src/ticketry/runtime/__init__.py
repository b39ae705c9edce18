"""Sparse execution on a CPU: packed matrices, their operators, and the modules that use them."""
