"""What a model does on held-out rows, measured the same way before and after training."""
