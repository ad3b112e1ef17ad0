"""Whether the packed layout gives a model's own numbers, and if not, why not."""

from typing import Any

import torch
from torch import Tensor

from lexalign.fast_path import attention
from lexalign.fast_path.forward import IGNORED, get_logit_map, install_forward, score_tokens

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOW_PRECISION = 0.25
"""Largest difference of one token's log-probability that the two layouts may show in bfloat16 or float16."""


def find_padding_reason(model: Any) -> str | None:
    """Why a causal language model (the base, where there is an adapter) is computed as a padded batch; None where packed is exact."""
    return inspect_model(model) or compare_small_batch(model)


def inspect_model(model: Any) -> str | None:
    """What the model's configuration and modules say."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it has an encoder"
    if getattr(model.config, "vision_config", None) is not None:
        return "it takes images"
    if not any(name.endswith("rotary_emb") for name, _ in model.named_modules()):
        return "its positions are not rotary"
    other = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS
    if other:
        return f"it has {', '.join(sorted(other))} layers"
    if getattr(config, "output_router_logits", False):
        return "its experts' auxiliary loss is taken over the padded batch"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention scores are capped"
    if config._attn_implementation not in ("sdpa", attention.NAME):
        return f"model.attention={config._attn_implementation} is kept as it is"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if where := find_dropout(model):
        return f"it is trained with dropout ({where}), which draws other numbers in another layout"
    return None


def find_dropout(model: Any) -> str | None:
    """Where a model drops out in training; None where it does not."""
    dropping = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout) and module.p > 0)
    attention_drops = getattr(model.config.get_text_config(), "attention_dropout", 0)
    return next(dropping, "attention" if attention_drops else None)


@torch.no_grad()
def compare_small_batch(model: Any) -> str | None:
    """What two small pairs say, computed both ways."""
    was_training, forward = model.training, model.__dict__.get("forward")
    implementation = model.config._attn_implementation
    model.eval()
    try:
        install_forward(model, packed=True, alike=2)
        packed, padded = (score_pairs(model, packed=way) for way in (True, False))
    except (TypeError, RuntimeError, ValueError, AttributeError) as error:
        return f"its forward does not take the layout ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    finally:
        model.train(was_training)
        if forward is None:
            model.__dict__.pop("forward", None)
        else:
            model.forward = forward
        model.set_attn_implementation(implementation)
    difference = float((packed - padded).abs().max())
    allowed = TOLERANCE.get(next(model.parameters()).dtype, LOW_PRECISION)
    return None if difference <= allowed else f"tried on two pairs, a token's log-probability differs by {difference:.2g}"


def score_pairs(model: Any, *, packed: bool) -> Tensor:
    """Log-probabilities of the responses of two made-up pairs of unequal lengths."""
    input_ids, attention_mask, labels = make_trial_pairs(model)
    found = score_tokens(
        model, input_ids=input_ids, attention_mask=attention_mask, labels=labels, logit_map=get_logit_map(model), packed=packed, alike=2
    )
    assert found.log_probs is not None
    return found.log_probs.float()


def make_trial_pairs(
    model: Any, *, prompts: tuple[int, ...] = (9, 4), responses: tuple[int, ...] = (7, 3, 2, 8)
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels of pairs of made-up tokens, chosen responses first."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    draw = [torch.randint(vocabulary, (size,), generator=generator) for size in prompts + responses]
    contexts = draw[: len(prompts)] * 2
    rows = [torch.cat(pair) for pair in zip(contexts, draw[len(prompts) :], strict=True)]
    width = max(map(len, rows))
    input_ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, IGNORED))
    for at, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        input_ids[at, : len(row)], mask[at, : len(row)], labels[at, len(context) : len(row)] = row, 1, row[len(context) :]
    device = model.get_input_embeddings().weight.device
    return input_ids.to(device), mask.to(device), labels.to(device)
