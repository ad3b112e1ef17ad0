"""Small batches of made-up tokens, and what a model makes of them: its log-probabilities, and the gradient of its embeddings."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lexalign.fast_path import casts
from lexalign.fast_path.logit_map import compute_own_logits

IGNORED = -100
FAILURES = (TypeError, RuntimeError, ValueError, AttributeError, AssertionError, KeyError, IndexError, NotImplementedError)
"""What a forward raises that does not take what it is given."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOW_PRECISION = 0.25
"""Largest difference of one token's log-probability, in nats, in bfloat16 or float16. Two layouts of SmolLM2-135M differ by 0.21 on made-up
tokens by rounding alone, so this finds a kernel that fails and no more; what a layout computes is tried in float32."""
GRADIENT = {torch.float32: 2e-3, torch.float64: 1e-6}
LOW_PRECISION_GRADIENT = 0.4
"""Largest relative difference of the gradient of the embeddings."""
ROOM = 1.2
"""Free memory on a GPU, as a multiple of what weights in float32 take beside those that are there."""
Batch = tuple[Tensor, Tensor, Tensor]
"""Ids, attention mask and labels, (R, T) each."""


def describe_failure(error: BaseException) -> str:
    """An error in a few words."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else ''}"


def get_allowed(model: Any) -> float:
    """The difference of log-probabilities, in nats, that the arithmetic explains."""
    return TOLERANCE.get(get_arithmetic(model), LOW_PRECISION)


def get_allowed_gradient(model: Any) -> float:
    """The relative difference of a gradient that the arithmetic explains."""
    return GRADIENT.get(get_arithmetic(model), LOW_PRECISION_GRADIENT)


def get_arithmetic(model: Any) -> torch.dtype:
    """The narrowest type of numbers in which the model's layers are computed."""
    kinds = {casts.get_compute_dtype(parameter) for parameter in model.parameters() if parameter.is_floating_point()}
    return min(kinds, key=lambda kind: kind.itemsize)


@contextlib.contextmanager
def widen(model: Any) -> Iterator[bool]:
    """Within the block, a model in bfloat16 or float16 has its weights in float32 and is computed in it, without autocast; whether it has.

    The weights come back to the bit. A model of a GPU that has no room for them stays as it is.
    """
    low = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in (torch.bfloat16, torch.float16)]
    quantized = [module for module in model.modules() if hasattr(module, "compute_dtype") and hasattr(module, "quant_state")]
    device = next(model.parameters()).device
    if device.type == "cuda":
        extra = sum(tensor.numel() * (4 - tensor.element_size()) for tensor in low)
        if extra * ROOM > torch.cuda.mem_get_info(device)[0]:
            low, quantized = [], []
    kinds = [tensor.dtype for tensor in low], [module.compute_dtype for module in quantized]
    precise = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        for tensor in low:
            tensor.data = tensor.data.float()
        for module in quantized:
            module.compute_dtype = torch.float32
        with torch.autocast(device.type, enabled=False):
            yield bool(low)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = precise
        for tensor, kind in zip(low, kinds[0], strict=True):
            tensor.data = tensor.data.to(kind)
        for module, kind in zip(quantized, kinds[1], strict=True):
            module.compute_dtype = kind


def draw_rows(model: Any, lengths: Sequence[int]) -> list[Tensor]:
    """Made-up tokens, the same at each call; none of the first few, which stand for padding and the like."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return [torch.randint(min(3, vocabulary - 1), vocabulary, (length,), generator=generator) for length in lengths]


def make_pairs(model: Any, *, prompts: Sequence[int], responses: Sequence[int]) -> Batch:
    """Pairs of responses, chosen ones first, padded on the right; the labels are the responses."""
    drawn = draw_rows(model, (*prompts, *responses))
    contexts = drawn[: len(prompts)] * 2
    rows = [torch.cat(pair) for pair in zip(contexts, drawn[len(prompts) :], strict=True)]
    width = max(map(len, rows))
    input_ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, IGNORED))
    for at, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        input_ids[at, : len(row)], mask[at, : len(row)], labels[at, len(context) : len(row)] = row, 1, row[len(context) :]
    device = model.get_input_embeddings().weight.device
    return input_ids.to(device), mask.to(device), labels.to(device)


def score_next(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax of each next token: logits (…, T, V) and ids (…, T) to (…, T-1), float32."""
    return logits[..., :-1, :].float().log_softmax(-1).gather(-1, ids[..., 1:, None])[..., 0]


def score_own(model: Any, batch: Batch) -> Tensor:
    """The labelled tokens' log-probabilities (R, T-1) by the model's own forward, zero elsewhere."""
    input_ids, mask, labels = batch
    scores = score_next(compute_own_logits(model, input_ids=input_ids, attention_mask=mask).logits, input_ids)
    return scores.masked_fill(labels[:, 1:] == IGNORED, 0.0)


def run_with_gradient(model: Any, score: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What `score` gives, (R, T-1), and the gradient of its sum (later rows weigh less) by the output of the embeddings, summed by token:
    (V, h). No parameter's own gradient is touched."""
    embeddings, leaves = model.get_input_embeddings(), []

    def watch(_: Any, given: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        leaves.append((given[0].flatten(), leaf))
        return leaf * 1.0  # a model may change its embeddings in place

    hook = embeddings.register_forward_hook(watch)
    try:
        with torch.enable_grad():
            scores = score()
            weights = torch.linspace(1.0, 0.5, len(scores), device=scores.device)[:, None]
            slopes = torch.autograd.grad((scores * weights).sum(), [leaf for _, leaf in leaves])
    finally:
        hook.remove()
    width = slopes[0].shape[-1]
    total = torch.zeros(embeddings.weight.shape[0], width, device=slopes[0].device)
    for (ids, _), slope in zip(leaves, slopes, strict=True):
        total.index_add_(0, ids, slope.reshape(-1, width).float())
    return scores.detach().float(), total
