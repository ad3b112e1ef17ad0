"""Measure single responses that are labelled desirable or not: compare their rewards against a reference with their labels."""

from collections.abc import Sequence

import torch

from lexalign.evaluation import likelihood
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.intervals import RowValues
from lexalign.evaluation.scoring import score_responses


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record perplexity of the desirable completions, and the metrics of `measure_labels` against the reference."""
    if not evaluator.has("completion", "label"):
        return
    labels = [row["label"] for row in evaluator.rows]
    scores = score_responses(
        model, likelihood.encode_sequences(evaluator), batch_size=evaluator.settings.batch_size, max_length=evaluator.max_length
    )
    if any(labels):
        likelihood.record_likelihood(
            measurement, [(total, count * label) for (total, count), label in zip(scores, labels, strict=True)], "perplexity"
        )
    measurement.row_log_probs = [total for total, _ in scores]
    if evaluator.beta is None:
        return
    reference_log_probs = (reference.measured if reference else measurement).row_log_probs
    rewards = [evaluator.beta * (new - old) for new, old in zip(measurement.row_log_probs, reference_log_probs, strict=True)]
    measurement.rows |= measure_labels(rewards, labels)


def measure_labels(rewards: Sequence[float], labels: Sequence[bool]) -> dict[str, RowValues]:
    """Return label_accuracy: the share of rewards whose sign agrees with the label. A reward of 0 counts one half.

    If both labels occur, return also label_auc and label_margin. label_auc is the probability that a desirable row has a higher reward than
    an undesirable one; a tie counts one half. label_margin is the mean reward of the desirable rows minus that of the undesirable ones.

    All rewards of an untrained policy are 0, so it has 0.5, 0.5 and 0.
    """
    signed_rewards = [reward if label else -reward for reward, label in zip(rewards, labels, strict=True)]
    metrics = {"label_accuracy": RowValues(values=[compare_values(value, 0.0) for value in signed_rewards])}
    if any(labels) and not all(labels):
        metrics["label_auc"] = RowValues(values=list(rewards), labels=list(labels), statistic="auc")
        metrics["label_margin"] = RowValues(values=list(rewards), labels=list(labels), statistic="difference")
    return metrics


def compare_values(value: float, other: float) -> float:
    """Return 1 if `value` is higher than `other`, one half for a tie, else 0."""
    return 0.5 if value == other else float(value > other)
