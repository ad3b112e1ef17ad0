"""The auxiliary loss of a mixture of experts, over the tokens of the padded batch in every layout."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")


@dataclass(frozen=True, kw_only=True)
class RouterLoss:
    """The loss with which a model's own code balances its experts (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6)."""

    function: Callable[..., Tensor]
    """The `load_balancing_loss_func` of the model's module in transformers."""
    coefficient: float
    """The `router_aux_loss_coef` of the configuration."""
    experts: int
    chosen: int
    """Number of experts of one token."""

    def compute(self, router_logits: Sequence[Tensor], slots: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """The loss without its coefficient, from the router logits (N, E) of each layer and the attention mask (R, T) or None.

        `slots` (R, T) says where each token of the batch was computed; None means in the order of the batch.
        """
        layer_logits = [logits.reshape(-1, logits.shape[-1]) for logits in router_logits]
        if slots is not None:
            layer_logits = [logits.index_select(0, slots.flatten()) for logits in layer_logits]
        return self.function(tuple(layer_logits), self.experts, self.chosen, attention_mask)


def find_router_loss(model: Any) -> RouterLoss | None:
    """The auxiliary loss of a causal language model; None if it has no experts, or if its code does not balance them."""
    config = model.config.get_text_config()
    coefficient = getattr(config, "router_aux_loss_coef", None)
    function = getattr(sys.modules.get(type(model).__module__), "load_balancing_loss_func", None)
    experts, chosen = (read_count(model, config, names) for names in (EXPERTS, CHOSEN))
    records = getattr(model.base_model, "_can_record_outputs", None) or {}
    if not coefficient or function is None or not experts or not chosen or "router_logits" not in records:
        return None
    return RouterLoss(function=function, coefficient=float(coefficient), experts=experts, chosen=chosen)


def read_count(model: Any, config: Any, names: Sequence[str]) -> int | None:
    """The first of these numbers in the model or its configuration."""
    values = (getattr(holder, name, None) for holder in (model, config) for name in names)
    return next((int(value) for value in values if isinstance(value, int) and value), None)


def is_wanted(model: Any) -> bool:
    """Whether the model is in a training step, where the auxiliary loss counts. It does not count in measurements or for a reference."""
    return model.training and torch.is_grad_enabled()
