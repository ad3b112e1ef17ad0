"""The checks before the first step: the trained tokens, the largest batch, saving and loading of the artifact, and the disk."""
