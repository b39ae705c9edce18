"""Pure parts: tensors in, tensors out; no input or output, no global random state."""
