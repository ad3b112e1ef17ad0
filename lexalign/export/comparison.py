"""How far one model is from another on held-out rows: KL divergence of their next-token distributions, and the perplexity of each."""

import contextlib
import logging
from typing import Any

import torch

from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row
from lexalign.evaluation import likelihood, pairs
from lexalign.evaluation.evaluator import Measurement
from lexalign.evaluation.scoring import Spans, compute_divergences, score_responses

log = logging.getLogger(__name__)


def encode_rows(encoder: Renderer, rows: list[Row], *, shared_belief: bool, max_length: int) -> list[Spans]:
    """(context, scored tokens) of each row, cut at `max_length`: what was trained or chosen; of a row with neither, its prompt."""
    found = []
    for row in rows:
        if "chosen" in row:
            context, chosen, _ = pairs.encode_pair(encoder, row, shared_belief=shared_belief)
            found.append((context, chosen))
        elif "prompt" in row and "completion" not in row:
            found.append(([], encoder.prompt(row["prompt"])))
        else:
            found.append(likelihood.encode_spans(encoder, row))
    return [(context, scored[: max_length - len(context)]) for context, scored in found]


def measure_perplexity(model: torch.nn.Module, spans: list[Spans], *, batch_size: int, max_length: int) -> Measurement:
    """perplexity of the scored tokens."""
    found = Measurement()
    likelihood.record_likelihood(found, score_responses(model, spans, batch_size=batch_size, max_length=max_length), "perplexity")
    return found


def measure_distance(trained: torch.nn.Module, exported: Any, spans: list[Spans], *, batch_size: int, max_length: int) -> Measurement:
    """Of the exported model: its perplexity, and kl = KL(trained ‖ exported) in nats a token, from both whole distributions at each scored
    position, weighted by tokens."""
    found = measure_perplexity(exported, spans, batch_size=batch_size, max_length=max_length)
    sums = compute_divergences(trained, lambda: contextlib.nullcontext(exported), spans, batch_size=batch_size)
    found.record("kl", [total / max(1, count) for total, count in sums], [float(count) for _, count in sums])
    return found


def format_metric(name: str, found: Measurement) -> str:
    """A metric with its interval and its n."""
    low, high = found.intervals[name]
    return f"{name} {found.values[name]:.4g} ({low:.4g} to {high:.4g}, n = {found.n[name]})"
