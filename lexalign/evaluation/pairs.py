"""Measure held-out preference pairs: the rewards that the policy's log-ratios imply, and the perplexity of the chosen responses."""

import torch

from lexalign.evaluation import likelihood, metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.scoring import score_responses


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record reward_accuracy, reward_margin and, with labels, soft_label_error against the reference; perplexity of chosen responses."""
    if not evaluator.has("chosen", "rejected"):
        return
    sequences = [
        sequence for row in evaluator.rows for sequence in evaluator.encoder.render_pair(row, shared_belief=evaluator.shared_belief)
    ]
    scores = score_responses(model, sequences, batch_size=evaluator.settings.batch_size, max_length=evaluator.max_length)
    if not evaluator.has("completion"):
        likelihood.record_likelihood(measurement, scores[::2], "perplexity")
    measurement.pair_log_probs = [(scores[i][0], scores[i + 1][0]) for i in range(0, len(scores), 2)]
    if evaluator.beta is None:
        return
    reference_log_probs = (reference.measured if reference else measurement).pair_log_probs
    margins = [
        evaluator.beta * ((c - rc) - (r - rr)) for (c, r), (rc, rr) in zip(measurement.pair_log_probs, reference_log_probs, strict=True)
    ]
    measurement.record("reward_accuracy", metrics.reward_accuracies(margins))
    measurement.record("reward_margin", margins)
    if evaluator.has("soft_label"):
        measurement.record("soft_label_error", metrics.soft_label_errors(margins, [row["soft_label"] for row in evaluator.rows]))
