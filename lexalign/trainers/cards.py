"""No model card in a checkpoint: the artifact's manifest tells what it is."""

from typing import Any


class NoModelCard:
    """Put before a TRL trainer, which would write a card into every checkpoint, and ask wandb for an address to put in it."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""
