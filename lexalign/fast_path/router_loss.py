"""The auxiliary loss of a mixture of experts, over the tokens of the padded batch whatever layout it was computed in."""

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
    """How a model's own code balances its experts (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6)."""

    function: Callable[..., Tensor]
    """transformers' `load_balancing_loss_func` as the model's module has it."""
    coefficient: float
    """The configuration's `router_aux_loss_coef`."""
    experts: int
    chosen: int
    """Experts of one token."""

    def compute(self, router_logits: Sequence[Tensor], slots: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """The loss before it is multiplied: router logits (N, E) of each layer, `slots` (R, T) where each token of the batch was computed
        (None: as it stands), attention mask (R, T) or None."""
        layers = [logits.reshape(-1, logits.shape[-1]) for logits in router_logits]
        if slots is not None:
            layers = [logits.index_select(0, slots.flatten()) for logits in layers]
        return self.function(tuple(layers), self.experts, self.chosen, attention_mask)


def find_router_loss(model: Any) -> RouterLoss | None:
    """The auxiliary loss of a causal language model; None where it has no experts, or its own code does not balance them."""
    config = model.config.get_text_config()
    coefficient = getattr(config, "router_aux_loss_coef", None)
    function = getattr(sys.modules.get(type(model).__module__), "load_balancing_loss_func", None)
    experts, chosen = (read_count(model, config, names) for names in (EXPERTS, CHOSEN))
    records = getattr(model.base_model, "_can_record_outputs", None) or {}
    if not coefficient or function is None or not experts or not chosen or "router_logits" not in records:
        return None
    return RouterLoss(function=function, coefficient=float(coefficient), experts=experts, chosen=chosen)


def read_count(model: Any, config: Any, names: Sequence[str]) -> int | None:
    """The first of these numbers that the model or its configuration has."""
    values = (getattr(holder, name, None) for holder in (model, config) for name in names)
    return next((int(value) for value in values if isinstance(value, int) and value), None)


def is_wanted(model: Any) -> bool:
    """Whether a step is being trained, in which the auxiliary loss counts: not while measuring, nor for a reference."""
    return model.training and torch.is_grad_enabled()
