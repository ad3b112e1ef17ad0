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
        table = None
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Embedding) and name.rsplit(".", 1)[-1] in LEARNED:
                table = module.num_embeddings - int(getattr(module, "offset", 0))
        return cls(
            vocabulary=model.get_input_embeddings().weight.shape[0],
            learned_positions=table,
            trained_positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        )
