"""Measure the model on the answers in the data: loss, perplexity and exact match."""

import logging

import torch

from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.scoring import Spans, score_responses
from lexalign.rewards.reasoning import strip_reasoning

log = logging.getLogger(__name__)
ROOM = 8  # extra tokens for a greedy answer, beyond the longest answer in the data: a longer one is wrong in any case


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record loss and perplexity, and exact_match if there are completions. Completions with a label are measured by `unpaired` instead."""
    if evaluator.has("label"):
        return
    if evaluator.has("completion") or evaluator.has("text") or evaluator.has("messages"):
        scores = score_responses(
            model, encode_sequences(evaluator), batch_size=evaluator.settings.batch_size, max_length=evaluator.max_length
        )
        record_likelihood(measurement, scores, "loss", "perplexity")
    if evaluator.has("completion"):
        measure_exact_match(evaluator, model, measurement)


def record_likelihood(measurement: Measurement, scored: list[tuple[float, float]], *names: str) -> None:
    """Record loss, the mean negative log-likelihood per scored token, or perplexity, its exponential.

    `scored` holds (log-probability, number of tokens) of each row; both may be weighted.
    """
    losses, tokens = [-total / (count or 1.0) for total, count in scored], [float(count) for _, count in scored]
    for name in names:
        measurement.record(name, losses, tokens, exponential=name == "perplexity")


def encode_sequences(evaluator: Evaluator) -> list[Spans]:
    """Render each row that has a completion, a conversation or a text, as in training."""
    return [evaluator.encoder.render_answer(row) for row in evaluator.rows]


def measure_exact_match(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement) -> None:
    """Record exact_match: the share of greedy answers equal to the completion. With evaluate.strip_reasoning, both are compared without
    their reasoning."""
    limit = evaluator.settings.max_new_tokens
    longest = max(len(evaluator.encoder.render_completion(row).response) for row in evaluator.rows)
    if longest > limit:
        log.warning("Some completions are longer than evaluate.max_new_tokens=%d: they count as not matched", limit)
    answers = evaluator.answers(model, evaluator.rows, min(longest + ROOM, limit))
    completions = [row["completion"] for row in evaluator.rows]
    if evaluator.settings.strip_reasoning:
        bare_texts = [[strip_reasoning(text) for text in texts] for texts in (answers, completions)]
        stripped_counts = [
            sum(bare_text != text for bare_text, text in zip(*text_lists, strict=True))
            for text_lists in zip(bare_texts, (answers, completions), strict=True)
        ]
        measurement.counts |= {"reasoning_stripped_answers": stripped_counts[0], "reasoning_stripped_completions": stripped_counts[1]}
        if any(stripped_counts):
            log.info(
                "exact_match compares without the reasoning of %d answers and %d completions; evaluate.strip_reasoning=false keeps it",
                *stripped_counts,
            )
        answers, completions = bare_texts
    measurement.record("exact_match", metrics.exact_matches(answers, completions))
