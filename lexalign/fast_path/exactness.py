"""Check whether the packed layout gives a model's own numbers, and whether these numbers depend on the other rows of a batch."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lexalign.fast_path import attention, trial
from lexalign.fast_path.forward import install_forward
from lexalign.fast_path.logit_map import get_logit_map

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
PROMPTS, RESPONSES = (9, 4), (7, 3, 2, 8)
"""Numbers of tokens of the prompts and responses in the trial. The first prompt is longer if the model has a window."""
NEAR = 64
"""Up to this number of tokens, a window or the original positions of a model are tried unchanged. A larger window is set to `SMALL`."""
SMALL = 24
BEYOND = 8
"""Number of tokens by which the first prompt of the trial is longer than the window or the original positions."""


def find_padding_reason(model: Any) -> str | None:
    """The reason that a causal language model (the base, if it has an adapter) needs padded batches; None if the packed layout is exact."""
    if reason := inspect_model(model):
        return reason
    with trial.widen(model) as is_wider, attention.use_pieces():
        if reason := find_random_numbers(model) or compare_layouts(model):
            return reason
    # Now in the type of the run: rounding hides small faults there, but not kernels that fail.
    on_gpu = next(model.parameters()).device.type == "cuda"
    return compare_batch(model, first_prompt=BEYOND) if is_wider or on_gpu else None


def inspect_model(model: Any) -> str | None:
    """The reason for padded batches in the model's configuration and modules; None if there is none."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it has an encoder"
    if getattr(model.config, "vision_config", None) is not None:
        return "it takes images"
    if not any(name.endswith("rotary_emb") for name, _ in model.named_modules()):
        return "its positions are not rotary"
    other_kinds = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS
    if other_kinds:
        return f"it has {', '.join(sorted(other_kinds))} layers"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention scores are capped"
    if config._attn_implementation not in ("sdpa", attention.NAME):
        return f"model.attention={config._attn_implementation} is kept as it is"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if dropout_name := find_dropout(model):
        return f"it is trained with dropout ({dropout_name}), which draws other numbers in another layout"
    if get_logit_map(model) is None:
        return "its logits are more than a linear layer of its last states, so they are computed by its own forward"
    return None


def find_dropout(model: Any) -> str | None:
    """The place where a model has dropout, according to its modules and its configuration; None if it has none."""
    dropout_names = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout) and module.p > 0)
    attention_drops = getattr(model.config.get_text_config(), "attention_dropout", 0)
    return next(dropout_names, "attention" if attention_drops else None)


@torch.no_grad()
def find_random_numbers(model: Any) -> str | None:
    """A reason if a model uses random numbers in training without a dropout module. The same batch is scored with two seeds."""
    batch, was_training = trial.make_pairs(model, prompts=PROMPTS, responses=RESPONSES), model.training
    devices = [batch[0].device] if batch[0].device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(devices=devices):
            scores = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                scores.append(trial.score_own(model, batch))
    except trial.FAILURES as error:
        return f"its forward does not take a padded batch ({trial.describe_failure(error)})"
    finally:
        model.train(was_training)
    difference = float((scores[0] - scores[1]).abs().max())
    if difference <= trial.get_allowed(model):
        return None
    return f"it draws random numbers in training (dropout in a function, or noise), by which a log-probability differs by {difference:.2g}"


def compare_layouts(model: Any) -> str | None:
    """The reason for padded batches from a trial: small pairs, packed and by the model's own forward. None if both agree.

    It compares log-probabilities and the gradient of the embeddings. The rows are longer than the window of the attention, and than the
    original positions of the model if these are few.
    """
    config = model.config.get_text_config()
    window = get_window(config)
    reach = max([limit for limit in (window, get_original_positions(config)) if limit is not None and limit <= NEAR], default=0)
    try:
        if window is None or window <= NEAR:
            return compare_batch(model, first_prompt=reach + BEYOND)
        with shrink_windows(model, SMALL) as has_window:
            batch = make_trial_pairs(model, SMALL + BEYOND)
            narrow_scores = score_quietly(model, batch)
            reason = compare_batch(model, first_prompt=max(reach, SMALL) + BEYOND)
        wide_scores = score_quietly(model, batch)
    except trial.FAILURES as error:
        return f"its forward does not take a padded batch ({trial.describe_failure(error)})"
    if reason is None and uses_window(config) and (not has_window or torch.equal(narrow_scores, wide_scores)):
        return f"its window of {window} tokens could not be tried"
    return reason


def make_trial_pairs(model: Any, first_prompt: int) -> trial.Batch:
    """The batch of pairs for the trial."""
    return trial.make_pairs(model, prompts=(max(first_prompt, PROMPTS[0]), *PROMPTS[1:]), responses=RESPONSES)


@torch.no_grad()
def score_quietly(model: Any, batch: trial.Batch) -> Tensor:
    """Log-probabilities by the model's own forward in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        return trial.score_own(model, batch)
    finally:
        model.train(was_training)


def compare_batch(model: Any, *, first_prompt: int) -> str | None:
    """The difference between packed and own numbers of a batch of pairs, as a reason; None if they agree."""
    batch = make_trial_pairs(model, first_prompt)
    input_ids, attention_mask, labels = batch
    was_training, forward = model.training, model.__dict__.get("forward")
    implementation = model.config._attn_implementation
    model.eval()
    try:
        own_scores, own_gradient = trial.run_with_gradient(model, lambda: trial.score_own(model, batch))
        install_forward(model, packed=True, alike=2)

        def score_packed() -> Tensor:
            return model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=True, details=False).log_probs

        packed_scores, packed_gradient = trial.run_with_gradient(model, score_packed)
    except trial.FAILURES as error:
        return f"its forward does not take the layout ({trial.describe_failure(error)})"
    finally:
        model.train(was_training)
        if forward is None:
            model.__dict__.pop("forward", None)
        else:
            model.forward = forward
        model.set_attn_implementation(implementation)
    difference = float((packed_scores - own_scores).abs().max())
    if not difference <= trial.get_allowed(model):
        return f"tried on two pairs, a token's log-probability differs by {difference:.2g}"
    if not bool(own_gradient.isfinite().all()):  # no comparison is possible: the model's own gradient overflows on random tokens
        return None
    gradient_difference = float((packed_gradient - own_gradient).norm() / own_gradient.norm().clamp(min=1e-30))
    if not gradient_difference <= trial.get_allowed_gradient(model):
        return f"tried on two pairs, the gradient differs by {gradient_difference:.1%}"
    return None


def get_window(config: Any) -> int | None:
    """The number of tokens in the sliding window of a model's attention; None if no row can be longer."""
    window, positions = getattr(config, "sliding_window", None), getattr(config, "max_position_embeddings", None)
    if not isinstance(window, int) or window <= 0 or (isinstance(positions, int) and window >= positions):
        return None
    return window


def uses_window(config: Any) -> bool:
    """Whether the configuration gives the window to some layer."""
    kinds = getattr(config, "layer_types", None)
    return getattr(config, "use_sliding_window", True) is not False and (kinds is None or "sliding_attention" in kinds)


def get_original_positions(config: Any) -> int | None:
    """The number of positions in training before the rotary frequencies were scaled; None if they were not scaled."""
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    values = [scaling.get("original_max_position_embeddings"), getattr(config, "original_max_position_embeddings", None)]
    return next((value for value in values if isinstance(value, int)), None)


@contextlib.contextmanager
def shrink_windows(model: Any, size: int) -> Iterator[bool]:
    """Within the block, the sliding window in a model's configuration and layers is `size`. Yields whether any of them holds a window."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    window = model.config.get_text_config().sliding_window
    holders = [*configs.values(), *model.modules()]
    holders_of_window = [holder for holder in holders if vars(holder).get("sliding_window") == window]
    try:
        for holder in holders_of_window:
            holder.sliding_window = size
        yield bool(holders_of_window)
    finally:
        for holder in holders_of_window:
            holder.sliding_window = window


def find_length_dependence(model: Any, *, longest: int | None = None) -> str | None:
    """The reason why a row's numbers depend on the longest row of its batch, so that they cannot be cached for other batches.

    None if they do not depend on it, also if they depend on it only for rows longer than `longest`.

    Rotary frequencies are recomputed from the longest row with rope_type=dynamic (beyond the model's positions) and longrope (two sets of
    frequencies, on either side of the positions it was first trained on).
    """
    config = model.config.get_text_config()
    limits = {"dynamic": getattr(config, "max_position_embeddings", None), "longrope": get_original_positions(config)}
    for name, module in model.named_modules():
        kinds = getattr(module, "rope_type", None)
        kinds = set(kinds.values()) if isinstance(kinds, dict) else {kinds}
        for kind, limit in limits.items():
            if kind in kinds and (longest is None or limit is None or longest > limit):
                return f"its rotary frequencies ({name}, rope_type={kind}) follow the longest row of the batch"
    return None
