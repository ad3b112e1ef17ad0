"""Log-probabilities of responses and of beliefs, and generation, in batches; no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lexalign.data.tokens import stacked

WHOLE_DISTRIBUTION = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
GREEDY = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def batches(count: int, size: int) -> list[range]:
    """Consecutive index ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax of each next token: logits (B, T, V) and ids (B, T) to (B, T-1)."""
    shifted = logits[:, :-1].float()
    return shifted.gather(-1, ids[:, 1:, None]).squeeze(-1) - shifted.logsumexp(-1)


@torch.no_grad()
def response_log_probs(
    model: torch.nn.Module, sequences: Sequence[tuple[list[int], list[int]]], *, batch_size: int, max_length: int
) -> list[tuple[float, int]]:
    """Summed log-probability and number of scored tokens of each (context, response); cut at `max_length` as training cuts."""
    model.eval()
    order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
    found: list[tuple[float, int]] = [(0.0, 0)] * len(sequences)
    for part in batches(len(order), batch_size):
        picked = [order[i] for i in part]
        rows = [(sequences[i][0] + sequences[i][1])[:max_length] for i in picked]
        ids, mask = (torch.tensor(x, device=device_of(model)) for x in stacked(rows, 0))
        starts = [max(len(sequences[index][0]), 1) for index in picked]  # the very first token has nothing before it to be predicted from
        skipped = min(min(starts), ids.shape[1]) - 1  # the prompts' positions need not reach the LM head
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=ids.shape[1] - skipped).logits
        log_probs = token_log_probs(logits, ids[:, skipped:])
        for at, index in enumerate(picked):
            scored = log_probs[at, starts[at] - 1 - skipped : len(rows[at]) - 1 - skipped]
            found[index] = (float(scored.sum()), scored.numel())
    return found


@torch.no_grad()
def next_token_probs(model: torch.nn.Module, contexts: Sequence[list[int]], tokens: Sequence[int], *, batch_size: int) -> list[list[float]]:
    """Probability of each of `tokens` after each context, from the softmax over the whole vocabulary."""
    model.eval()
    found: list[list[float]] = []
    for part in batches(len(contexts), batch_size):
        rows = [contexts[i] for i in part]
        ids, mask = (torch.tensor(x, device=device_of(model)) for x in stacked(rows, 0))
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last = torch.stack([logits[at, len(row) - 1] for at, row in enumerate(rows)]).float().softmax(-1)
        found += last[:, list(tokens)].tolist()
    return found


@torch.no_grad()
def generate(
    model: torch.nn.Module, tokenizer, contexts: Sequence[list[int]], *, batch_size: int, max_new_tokens: int, sample: bool = False
) -> list[str]:
    """A continuation of each context: greedy, or drawn at temperature 1 from the whole distribution."""
    model.eval()
    order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    found = [""] * len(contexts)
    for part in batches(len(order), batch_size):
        picked = [order[i] for i in part]
        width = max(len(contexts[i]) for i in picked)
        pads = [width - len(contexts[i]) for i in picked]
        ids = torch.tensor(
            [[tokenizer.pad_token_id] * pad + contexts[i] for pad, i in zip(pads, picked, strict=True)], device=device_of(model)
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=device_of(model))
        chosen = WHOLE_DISTRIBUTION if sample else GREEDY
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **chosen,
        )
        for at, index in enumerate(picked):
            found[index] = tokenizer.decode(out[at, width:], skip_special_tokens=True)
    return found
