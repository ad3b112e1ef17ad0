"""The loop that the methods share: pipeline, trainer, reference, checkpointing, memory, preflight."""
