"""Measure the distance of two models on held-out rows: KL divergence of their next-token distributions, and the perplexity of each."""

import contextlib
import logging
from typing import Any

import torch

from lexalign.data.rendering import RenderedSequence, Renderer, get_row_arguments
from lexalign.data.rows import Row
from lexalign.evaluation import likelihood
from lexalign.evaluation.evaluator import Measurement
from lexalign.evaluation.scoring import Spans, compute_divergences, score_responses

log = logging.getLogger(__name__)


def encode_rows(encoder: Renderer, rows: list[Row], *, shared_belief: bool, max_length: int) -> list[Spans]:
    """Render the trained or the chosen response of each row, cut at `max_length`. A row with neither gives its prompt."""
    sequences = []
    for row in rows:
        if "chosen" in row:
            sequence = encoder.render_pair(row, shared_belief=shared_belief)[0]
        elif "prompt" in row and "completion" not in row:
            sequence = RenderedSequence(context=[], response=encoder.render_prompt(row["prompt"], **get_row_arguments(row)))
        else:
            sequence = encoder.render_answer(row)
        sequences.append(sequence.cut(max_length))
    return sequences


def measure_perplexity(model: torch.nn.Module, spans: list[Spans], *, batch_size: int, max_length: int) -> Measurement:
    """Measure perplexity of the scored tokens."""
    measurement = Measurement()
    likelihood.record_likelihood(measurement, score_responses(model, spans, batch_size=batch_size, max_length=max_length), "perplexity")
    return measurement


def measure_distance(trained: torch.nn.Module, exported: Any, spans: list[Spans], *, batch_size: int, max_length: int) -> Measurement:
    """Measure the perplexity of the exported model, and kl = KL(trained ‖ exported) in nats per token.

    kl is computed from both whole distributions at each scored position, and each row is weighted by its tokens.
    """
    measurement = measure_perplexity(exported, spans, batch_size=batch_size, max_length=max_length)
    sums = compute_divergences(trained, lambda: contextlib.nullcontext(exported), spans, batch_size=batch_size)
    measurement.record("kl", [total / (count or 1.0) for total, count in sums], [float(count) for _, count in sums])
    return measurement


def format_metric(name: str, measurement: Measurement) -> str:
    """Format a metric with its interval and its n."""
    low, high = measurement.intervals[name]
    return f"{name} {measurement.values[name]:.4g} ({low:.4g} to {high:.4g}, n = {measurement.n[name]})"
