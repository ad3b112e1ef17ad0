"""Try a model on small batches of random tokens: its log-probabilities, and the gradient of its embeddings."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lexalign.fast_path import casts
from lexalign.fast_path.logit_map import compute_own_logits

IGNORED = -100
FAILURES = (TypeError, RuntimeError, ValueError, AttributeError, AssertionError, KeyError, IndexError, NotImplementedError)
"""Errors of a forward that does not accept its inputs."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOW_PRECISION = 0.25
"""Largest allowed difference of one token's log-probability, in nats, in bfloat16 or float16. Two layouts of SmolLM2-135M differ by 0.21 on
random tokens by rounding alone, so this finds only kernels that fail. The layout itself is tried in float32."""
GRADIENT = {torch.float32: 2e-3, torch.float64: 1e-6}
LOW_PRECISION_GRADIENT = 0.4
"""Largest allowed relative difference of the gradient of the embeddings."""
ROOM = 1.2
"""Free GPU memory that is needed, as a multiple of the additional memory of float32 weights."""
Batch = tuple[Tensor, Tensor, Tensor]
"""Ids, attention mask and labels, (R, T) each."""


def describe_failure(error: BaseException) -> str:
    """The type and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else ''}"


def get_allowed(model: Any) -> float:
    """The largest difference of log-probabilities, in nats, that rounding can explain."""
    return TOLERANCE.get(get_arithmetic(model), LOW_PRECISION)


def get_allowed_gradient(model: Any) -> float:
    """The largest relative difference of a gradient that rounding can explain."""
    return GRADIENT.get(get_arithmetic(model), LOW_PRECISION_GRADIENT)


def get_arithmetic(model: Any) -> torch.dtype:
    """The narrowest type of numbers in which the model's layers are computed."""
    dtypes = {casts.get_compute_dtype(parameter) for parameter in model.parameters() if parameter.is_floating_point()}
    return min(dtypes, key=lambda kind: kind.itemsize)


@contextlib.contextmanager
def widen(model: Any) -> Iterator[bool]:
    """Within the block, a model in bfloat16 or float16 has float32 weights and computes in float32, without autocast; yields if so.

    The weights are restored exactly. A model on a GPU without enough free memory is not changed.
    """
    narrow_tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in (torch.bfloat16, torch.float16)]
    quantized_layers = [module for module in model.modules() if hasattr(module, "compute_dtype") and hasattr(module, "quant_state")]
    device = next(model.parameters()).device
    if device.type == "cuda":
        extra_bytes = sum(tensor.numel() * (4 - tensor.element_size()) for tensor in narrow_tensors)
        if extra_bytes * ROOM > torch.cuda.mem_get_info(device)[0]:
            narrow_tensors, quantized_layers = [], []
    old_dtypes = [tensor.dtype for tensor in narrow_tensors], [module.compute_dtype for module in quantized_layers]
    allows_tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        for tensor in narrow_tensors:
            tensor.data = tensor.data.float()
        for module in quantized_layers:
            module.compute_dtype = torch.float32
        with torch.autocast(device.type, enabled=False):
            yield bool(narrow_tensors)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allows_tf32
        for tensor, old_dtype in zip(narrow_tensors, old_dtypes[0], strict=True):
            tensor.data = tensor.data.to(old_dtype)
        for module, old_dtype in zip(quantized_layers, old_dtypes[1], strict=True):
            module.compute_dtype = old_dtype


def draw_rows(model: Any, lengths: Sequence[int]) -> list[Tensor]:
    """Random tokens, the same at each call, without the first three ids, which are often special tokens."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return [torch.randint(min(3, vocabulary - 1), vocabulary, (length,), generator=generator) for length in lengths]


def make_pairs(model: Any, *, prompts: Sequence[int], responses: Sequence[int]) -> Batch:
    """A batch of pairs of responses, the chosen ones first, padded on the right. The labels are the responses."""
    rows_drawn = draw_rows(model, (*prompts, *responses))
    contexts = rows_drawn[: len(prompts)] * 2
    rows = [torch.cat(pair) for pair in zip(contexts, rows_drawn[len(prompts) :], strict=True)]
    width = max(map(len, rows))
    input_ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, IGNORED))
    for index, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        input_ids[index, : len(row)], mask[index, : len(row)], labels[index, len(context) : len(row)] = row, 1, row[len(context) :]
    device = model.get_input_embeddings().weight.device
    return input_ids.to(device), mask.to(device), labels.to(device)


def score_next(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax of each next token: logits (…, T, V) and ids (…, T) to (…, T-1), float32."""
    return logits[..., :-1, :].float().log_softmax(-1).gather(-1, ids[..., 1:, None])[..., 0]


def score_own(model: Any, batch: Batch) -> Tensor:
    """Log-probabilities (R, T-1) of the labelled tokens by the model's own forward, zero elsewhere."""
    input_ids, mask, labels = batch
    scores = score_next(compute_own_logits(model, input_ids=input_ids, attention_mask=mask).logits, input_ids)
    return scores.masked_fill(labels[:, 1:] == IGNORED, 0.0)


def run_with_gradient(model: Any, score: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The result of `score`, (R, T-1), and the gradient of its weighted sum with respect to the embeddings, summed by token: (V, h).

    Later rows have lower weights in the sum. The gradients of the parameters do not change.
    """
    embeddings, leaves = model.get_input_embeddings(), []

    def watch(_: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        leaves.append((inputs[0].flatten(), leaf))
        return leaf * 1.0  # a copy, because a model may change its embeddings in place

    hook = embeddings.register_forward_hook(watch)
    try:
        with torch.enable_grad():
            scores = score()
            weights = torch.linspace(1.0, 0.5, len(scores), device=scores.device)[:, None]
            gradients = torch.autograd.grad((scores * weights).sum(), [leaf for _, leaf in leaves])
    finally:
        hook.remove()
    width = gradients[0].shape[-1]
    gradient_by_token = torch.zeros(embeddings.weight.shape[0], width, device=gradients[0].device)
    for (ids, _), gradient in zip(leaves, gradients, strict=True):
        gradient_by_token.index_add_(0, ids, gradient.reshape(-1, width).float())
    return scores.detach().float(), gradient_by_token
