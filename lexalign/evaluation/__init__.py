"""Measure a model on held-out rows, in the same way before and after training."""
