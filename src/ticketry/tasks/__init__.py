"""Tasks: data sets with their splits, metric and margin, and their binding to a base model."""
