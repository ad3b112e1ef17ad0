"""What the model gives the answers that the data hold: loss, perplexity and exact match."""

import logging

import torch

from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.scoring import Spans, score_responses
from lexalign.rewards.reasoning import strip_reasoning

log = logging.getLogger(__name__)
ROOM = 8  # tokens a greedy answer may be longer than the longest answer of the data before it is wrong anyway


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """loss, perplexity; and exact_match where there are completions (with a label they are no references: `unpaired` reads them)."""
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
    """loss: mean negative log-likelihood of a scored token; perplexity: exp of it. `scored` are (log-probability, tokens) of each row, or
    both weighted."""
    losses, tokens = [-total / (count or 1.0) for total, count in scored], [float(count) for _, count in scored]
    for name in names:
        measurement.record(name, losses, tokens, exponential=name == "perplexity")


def encode_sequences(evaluator: Evaluator) -> list[Spans]:
    """What is trained of each row that has a completion, a conversation or a text."""
    return [evaluator.encoder.render_answer(row) for row in evaluator.rows]


def measure_exact_match(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement) -> None:
    """exact_match: share of greedy answers equal to the completion, the reasoning of both left out where evaluate.strip_reasoning."""
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
