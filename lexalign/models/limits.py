"""Limits of a model: the tokens that have embeddings, and the positions."""

from dataclasses import dataclass
from typing import Any

import torch

LEARNED = ("wpe", "position_embeddings", "embed_positions", "position_embedding", "embedding_positions")
"""Names of the table of learned positions, in different model families."""


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """The limits on the ids and positions of a model."""

    vocabulary: int
    """The number of ids, from 0 on, that have an embedding."""
    learned_positions: int | None
    """The number of positions in a learned table: a longer row cannot be read. None if positions are computed."""
    trained_positions: int | None
    """The number of positions in the model's configuration: longer rows can be read, but the model was not trained for them."""

    @classmethod
    def read(cls, model: Any) -> "ModelLimits":
        """The limits of a model."""
        return cls(
            vocabulary=model.get_input_embeddings().weight.shape[0],
            learned_positions=read_learned_positions(model),
            trained_positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        )


def read_learned_positions(model: Any) -> int | None:
    """The number of positions in a model's learned table; None if it computes positions."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.rsplit(".", 1)[-1] in LEARNED:
            return module.num_embeddings - int(getattr(module, "offset", 0))
    return None
