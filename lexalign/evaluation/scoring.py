"""Compute log-probabilities of responses and beliefs, compute divergences, and generate text, in batches without gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lexalign.data.rendering import RenderedSequence, pad_rows
from lexalign.distributed import collectives, sharding
from lexalign.models.generation import use_plain_generation

WHOLE_DISTRIBUTION = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
GREEDY = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
Spans = RenderedSequence
"""A context, and the response after it that is scored."""
Found = TypeVar("Found")
Borrowed = Callable[[], AbstractContextManager[torch.nn.Module]]
"""Gives a model for the duration of a `with` block. It may be the policy itself with its adapter disabled."""


def get_device(model: torch.nn.Module) -> torch.device:
    """Return the device of the model's parameters."""
    return next(model.parameters()).device


def split_ranges(count: int, size: int) -> list[range]:
    """Return consecutive index ranges of at most `size`, which together cover `count`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def gather_in_order(values: dict[int, Found]) -> list[Found]:
    """Collect the values of all processes by index and return them as a list."""
    all_values = collectives.merge_shards(values)
    return [all_values[index] for index in range(len(all_values))]


def compute_token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log softmax of each next token (B, T-1) from logits (B, T, V) and ids (B, T)."""
    shifted_logits = logits[:, :-1].float()
    return shifted_logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - shifted_logits.logsumexp(-1)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of sequences.

    The first `skipped` positions are in all prompts and need no logits. `scored[i]` is the slice of positions after them whose logits
    predict the response of sequence `picked[i]`. `weights[i]` holds the weights of these positions; None means equal weights.
    """

    picked: list[int]
    ids: Tensor
    mask: Tensor
    skipped: int
    scored: list[slice]
    weights: list[list[float] | None]

    def logits(self, model: torch.nn.Module) -> Tensor:
        """Return the logits (B, T - skipped, V)."""
        kept_positions = self.ids.shape[1] - self.skipped
        logits = model(input_ids=self.ids, attention_mask=self.mask, use_cache=False, logits_to_keep=kept_positions).logits
        return logits[:, -kept_positions:]  # not every model supports `logits_to_keep`


def make_batches(sequences: Sequence[Spans], *, batch_size: int, max_length: int | None, device: torch.device) -> Iterator[Batch]:
    """Yield the sequences in batches of similar length, cut at `max_length` as in training. Each process gets only its own batches."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].ids))
    for part in collectives.shard_in_step(split_ranges(len(order), batch_size)):
        indices = [order[i] for i in part]
        rows = [sequences[i].ids[:max_length] for i in indices]
        ids, mask = (torch.tensor(x, device=device) for x in pad_rows(rows, 0))
        prompt_lengths = [len(sequences[index].context) + len(sequences[index].belief) for index in indices]
        starts = [max(length, 1) for length in prompt_lengths]  # nothing comes before the first token, so it cannot be predicted
        skipped = min(min(starts), ids.shape[1]) - 1
        scored = [slice(start - 1 - skipped, max(start, len(row)) - 1 - skipped) for start, row in zip(starts, rows, strict=True)]
        weights = [
            None if (row_weights := sequences[index].weights) is None else row_weights[start - length : max(start, len(row)) - length]
            for index, start, length, row in zip(indices, starts, prompt_lengths, rows, strict=True)
        ]
        yield Batch(picked=indices, ids=ids, mask=mask, skipped=skipped, scored=scored, weights=weights)


@torch.no_grad()
def score_responses(model: torch.nn.Module, sequences: Sequence[Spans], *, batch_size: int, max_length: int) -> list[tuple[float, float]]:
    """Return the weighted sum of log-probabilities and the sum of weights of each response, cut at `max_length` as in training.

    Without weights these are the summed log-probability and the number of scored tokens.
    """
    model.eval()
    scores: dict[int, tuple[float, float]] = {}
    for batch in make_batches(sequences, batch_size=batch_size, max_length=max_length, device=get_device(model)):
        log_probs = compute_token_log_probs(batch.logits(model), batch.ids[:, batch.skipped :])
        for at, index in enumerate(batch.picked):
            response_log_probs = log_probs[at, batch.scored[at]]
            weights = get_weights(batch, at, response_log_probs)
            scores[index] = (float((response_log_probs * weights).sum()), float(weights.sum()))
    return gather_in_order(scores)


def get_weights(batch: Batch, at: int, values: Tensor) -> Tensor:
    """Return the weights of the scored positions of one sequence of a batch, with type and device of `values`."""
    row_weights = batch.weights[at]
    return torch.ones_like(values) if row_weights is None else torch.tensor(row_weights, dtype=values.dtype, device=values.device)


@torch.no_grad()
def compute_divergences(
    model: torch.nn.Module, reference: Borrowed, sequences: Sequence[Spans], *, batch_size: int
) -> list[tuple[float, float]]:
    """Return Σ_t w_t KL(π(·|s_t) ‖ π_ref(·|s_t)) over the positions of each response, from both whole distributions, and Σ_t w_t."""
    model.eval()
    sums: dict[int, tuple[float, float]] = {}
    for batch in make_batches(sequences, batch_size=batch_size, max_length=None, device=get_device(model)):
        ours = batch.logits(model)
        with reference() as reference_model:
            reference_model.eval()
            theirs = batch.logits(reference_model)
        for at, index in enumerate(batch.picked):  # one sequence at a time: a float32 copy of all logits may be large
            p, q = (logits[at, batch.scored[at]].float().log_softmax(-1) for logits in (ours, theirs))
            divergences = (p.exp() * (p - q)).sum(-1)
            weights = get_weights(batch, at, divergences)
            sums[index] = (float((divergences * weights).sum()), float(weights.sum()))
    return gather_in_order(sums)


@torch.no_grad()
def compute_next_token_probs(
    model: torch.nn.Module, contexts: Sequence[list[int]], tokens: Sequence[int], *, batch_size: int
) -> list[list[float]]:
    """Return the probability of each of `tokens` after each context, from the softmax over the whole vocabulary."""
    model.eval()
    probs: dict[int, list[float]] = {}
    for indices in collectives.shard_in_step(split_ranges(len(contexts), batch_size)):
        rows = [contexts[i] for i in indices]
        ids, mask = (torch.tensor(x, device=get_device(model)) for x in pad_rows(rows, 0))
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last_probs = torch.stack([logits[at, len(row) - 1] for at, row in enumerate(rows)]).float().softmax(-1)
        probs |= dict(zip(indices, last_probs[:, list(tokens)].tolist(), strict=True))
    return gather_in_order(probs)


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    tokenizer: Any,
    contexts: Sequence[list[int]],
    *,
    ends: Iterable[int],
    batch_size: int,
    max_new_tokens: int,
    sample: bool = False,
) -> list[list[int]]:
    """Return the ids of a continuation of each context, up to and including the first of `ends`.

    It is greedy, or with `sample` drawn at temperature 1 from the whole distribution. The sampling settings of the model's own generation
    config are not used.
    """
    model.eval()
    writer: Any = model
    end_tokens = frozenset(ends)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end_tokens)
    order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    continuations: dict[int, list[int]] = {}
    parts = split_ranges(len(order), batch_size)
    # Each draw depends on the draws before it. Therefore each of several processes draws all batches.
    for part in parts if sample else collectives.shard_in_step(parts):
        indices = [order[i] for i in part]
        width = max(len(contexts[i]) for i in indices)
        pads = [width - len(contexts[i]) for i in indices]
        ids = torch.tensor([[pad] * left + contexts[i] for left, i in zip(pads, indices, strict=True)], device=get_device(model))
        mask = torch.tensor([[0] * left + [1] * (width - left) for left in pads], device=get_device(model))
        with use_plain_generation(model, ends=end_tokens, pad=pad):
            output_ids = writer.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                synced_gpus=sharding.is_model_sharded(model),
                **(WHOLE_DISTRIBUTION if sample else GREEDY),
            )
        for at, index in enumerate(indices):
            continuations[index] = cut_at_end(output_ids[at, width:].tolist(), end_tokens)
    return gather_in_order(continuations)


def cut_at_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Return the tokens up to and including the first end token. All later tokens are padding."""
    stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: stop + 1]
