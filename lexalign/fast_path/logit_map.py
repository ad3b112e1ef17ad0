"""Find the map from a model's last hidden states to its logits: a linear head with a scale and a soft cap, or more than that.

Configurations name scale and cap in many ways, and some heads have another layer before them. So each possible reading of the configuration
is tried on the model. The first reading that gives the model's own logits is used.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from lexalign.fast_path import casts
from lexalign.fast_path.lm_head import LogitMap

SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_multiplier")
DIVISORS = ("logits_scaling",)
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_soft_cap", "final_logit_softcap")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
LOW_PRECISION = 0.02
"""Largest allowed difference of two logits, as a share of the largest logit."""
TRIED = 6
"""Number of tokens in the row on which a reading is tried."""


def get_logit_map(model: Any) -> LogitMap | None:
    """The scale and the soft cap of a causal language model's logits; None if the logits are not a linear layer of its last states.

    If the weights are not whole in this process, nothing is tried and the first reading is used.
    """
    readings = read_config(model)
    if not is_whole(model):
        return readings[0]
    try:
        hidden, logits = compute_states_and_logits(model)
        head = model.get_output_embeddings()
        raw_logits = head(hidden).float()
    except (TypeError, RuntimeError, ValueError, AttributeError, AssertionError, KeyError, IndexError):
        return None
    tolerance = TOLERANCE.get(casts.get_compute_dtype(hidden), LOW_PRECISION) * max(1.0, float(logits.abs().max()))
    return next((reading for reading in readings if is_close(reading(raw_logits), logits, tolerance)), None)


def is_whole(model: Any) -> bool:
    """Whether this process holds all weights whole, so that a forward can be tried: none is sharded and none is a meta tensor."""
    return not any(weight.is_meta or weight.numel() == 0 or hasattr(weight, "placements") for weight in model.parameters())


def is_close(logits: Tensor, expected: Tensor, allowed: float) -> bool:
    """Whether two tensors have the same shape and differ by at most `allowed` everywhere."""
    return logits.shape == expected.shape and bool((logits - expected).abs().max() <= allowed)


def read_config(model: Any) -> list[LogitMap]:
    """The possible readings of the configuration, the most probable first."""
    config = model.config.get_text_config()
    scales = [value for name in SCALES if isinstance(value := getattr(config, name, None), (int, float)) and value]
    for divisor in (value for name in DIVISORS if isinstance(value := getattr(config, name, None), (int, float)) and value):
        scales += [divisor, 1 / divisor] if config.model_type == "hyperclovax" else [1 / divisor, divisor]
    caps = [value for name in CAPS if isinstance(value := getattr(config, name, None), (int, float)) and value]
    readings = [LogitMap(scale=float(scale), cap=cap) for scale in (*scales, 1.0) for cap in (*caps, None)]
    return list(dict.fromkeys(readings))


@torch.no_grad()
def compute_states_and_logits(model: Any) -> tuple[Tensor, Tensor]:
    """The last hidden states (1, n, h) of a few arbitrary tokens, and the logits (1, n, V) of its own forward, in evaluation mode."""
    was_training = model.training
    embeddings = model.get_input_embeddings().weight
    ids = (torch.arange(TRIED, device=embeddings.device) * 7 + 3)[None] % embeddings.shape[0]
    model.eval()
    try:
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden, compute_own_logits(model, input_ids=ids).logits.float()
    finally:
        model.train(was_training)


def compute_own_logits(model: Any, *, last: int | None = None, **inputs: Any) -> Any:
    """The result of the forward of the model's class, with `logits` (R, T, V), or those of at least the `last` positions.

    Some models ignore `logits_to_keep`, so callers must count positions from the end.
    """
    forward = type(model).forward
    if last is not None and "logits_to_keep" in inspect.signature(forward).parameters:
        inputs["logits_to_keep"] = last
    return forward(model, use_cache=False, return_dict=True, **{name: value for name, value in inputs.items() if value is not None})
