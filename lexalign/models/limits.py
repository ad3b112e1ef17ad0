"""What a model has room for: tokens it has embeddings of, and positions it can tell apart."""

from dataclasses import dataclass
from typing import Any

import torch

LEARNED = ("wpe", "position_embeddings", "embed_positions", "position_embedding", "embedding_positions")
"""What families call their table of learned positions."""


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """The bounds of what a model reads."""

    vocabulary: int
    """Ids from 0 on that have an embedding."""
    learned_positions: int | None
    """Positions of a table that was learned: a longer row cannot be read at all. None where positions are computed."""
    trained_positions: int | None
    """Positions that the model was made for, as its configuration says: longer rows are read, but as it never was trained."""

    @classmethod
    def read(cls, model: Any) -> "ModelLimits":
        """The limits of a model."""
        return cls(
            vocabulary=model.get_input_embeddings().weight.shape[0],
            learned_positions=read_learned_positions(model),
            trained_positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        )


def read_learned_positions(model: Any) -> int | None:
    """The positions in a model's table of learned ones; None where it computes them."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.rsplit(".", 1)[-1] in LEARNED:
            return module.num_embeddings - int(getattr(module, "offset", 0))
    return None
