"""LexAlign: Hydra-composed fine-tuning and alignment experiments."""

__version__ = "0.1.0"
