"""Pre-trained models: which families are known, and how a base is found, loaded and identified."""
