"""What a model makes of single responses that are desirable or not: their rewards against a reference, held against their labels."""

from collections.abc import Sequence

import torch

from lexalign.evaluation import likelihood
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.intervals import RowValues
from lexalign.evaluation.scoring import score_responses


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """perplexity of the desirable completions, and `label_metrics` against the reference."""
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
    """label_accuracy: rewards whose sign agrees with the label, a reward of 0 counting one half. Where both labels occur, also
    label_auc: the probability that a desirable row has a higher reward than an undesirable one, ties one half; and
    label_margin: mean reward of the desirable rows less that of the undesirable ones.

    An untrained policy, whose rewards are all 0, has 0.5, 0.5 and 0.
    """
    signed_rewards = [reward if label else -reward for reward, label in zip(rewards, labels, strict=True)]
    metrics = {"label_accuracy": RowValues(values=[compare_values(value, 0.0) for value in signed_rewards])}
    if any(labels) and not all(labels):
        metrics["label_auc"] = RowValues(values=list(rewards), labels=list(labels), statistic="auc")
        metrics["label_margin"] = RowValues(values=list(rewards), labels=list(labels), statistic="difference")
    return metrics


def compare_values(value: float, other: float) -> float:
    """1 where the value is the higher, one half at a tie, else 0."""
    return 0.5 if value == other else float(value > other)
