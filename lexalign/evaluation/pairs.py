"""Held-out preference pairs: the rewards that the policy's log-ratios imply, and the perplexity of what was chosen."""

import torch

from lexalign.evaluation import likelihood, metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.scoring import score_responses


def measure(stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: MeasuredReference | None) -> None:
    """reward_accuracy, reward_margin and, with labels, soft_label_error against the reference; perplexity of the chosen responses."""
    if not stick.has("chosen", "rejected"):
        return
    flat = [sequence for row in stick.rows for sequence in stick.encoder.render_pair(row, shared_belief=stick.shared_belief)]
    scored = score_responses(model, flat, batch_size=stick.settings.batch_size, max_length=stick.max_length)
    if not stick.has("completion"):
        likelihood.record_likelihood(found, scored[::2], "perplexity")
    found.pair_log_probs = [(scored[i][0], scored[i + 1][0]) for i in range(0, len(scored), 2)]
    if stick.beta is None:
        return
    base = (reference.measured if reference else found).pair_log_probs
    margins = [stick.beta * ((c - rc) - (r - rr)) for (c, r), (rc, rr) in zip(found.pair_log_probs, base, strict=True)]
    found.record("reward_accuracy", metrics.reward_accuracies(margins))
    found.record("reward_margin", margins)
    if stick.has("soft_label"):
        found.record("soft_label_error", metrics.soft_label_errors(margins, [row["soft_label"] for row in stick.rows]))
