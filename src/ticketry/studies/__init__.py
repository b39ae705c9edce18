"""Studies: declared grids of searches, fine-tunings and controls, run cell by cell."""
