"""The training loop shared by the methods: pipeline, trainer, reference, checkpointing, memory, preflight."""
