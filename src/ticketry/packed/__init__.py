"""Packed checkpoints: masks and kept values, which transformers loads by a plug-in."""
