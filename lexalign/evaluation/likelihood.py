"""What the model gives the answers that the data hold: loss, perplexity and exact match."""

import logging

import torch

from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.evaluation.scoring import Spans, score_responses
from lexalign.rewards.reasoning import strip_reasoning

log = logging.getLogger(__name__)
ROOM = 8  # tokens a greedy answer may be longer than the longest answer of the data before it is wrong anyway


def measure(stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: MeasuredReference | None) -> None:
    """loss, perplexity; and exact_match where there are completions (with a label they are no references: `unpaired` reads them)."""
    if stick.has("label"):
        return
    if stick.has("completion") or stick.has("text") or stick.has("messages"):
        scored = score_responses(model, encode_sequences(stick), batch_size=stick.settings.batch_size, max_length=stick.max_length)
        record_likelihood(found, scored, "loss", "perplexity")
    if stick.has("completion"):
        measure_exact_match(stick, model, found)


def record_likelihood(found: Measurement, scored: list[tuple[float, float]], *names: str) -> None:
    """loss: mean negative log-likelihood of a scored token; perplexity: exp of it. `scored` are (log-probability, tokens) of each row, or
    both weighted."""
    losses, tokens = [-total / (count or 1.0) for total, count in scored], [float(count) for _, count in scored]
    for name in names:
        found.record(name, losses, tokens, exponential=name == "perplexity")


def encode_sequences(stick: Evaluator) -> list[Spans]:
    """What is trained of each row that has a completion, a conversation or a text."""
    return [stick.encoder.render_answer(row) for row in stick.rows]


def measure_exact_match(stick: Evaluator, model: torch.nn.Module, found: Measurement) -> None:
    """exact_match: share of greedy answers equal to the completion, the reasoning of both left out where evaluate.strip_reasoning."""
    most = stick.settings.max_new_tokens
    longest = max(len(stick.encoder.render_completion(row).response) for row in stick.rows)
    if longest > most:
        log.warning("Some completions are longer than evaluate.max_new_tokens=%d: they count as not matched", most)
    answers = stick.answers(model, stick.rows, min(longest + ROOM, most))
    wanted = [row["completion"] for row in stick.rows]
    if stick.settings.strip_reasoning:
        bare = [[strip_reasoning(text) for text in texts] for texts in (answers, wanted)]
        stripped = [sum(one != text for one, text in zip(*both, strict=True)) for both in zip(bare, (answers, wanted), strict=True)]
        found.counts |= {"reasoning_stripped_answers": stripped[0], "reasoning_stripped_completions": stripped[1]}
        if any(stripped):
            log.info(
                "exact_match compares without the reasoning of %d answers and %d completions; evaluate.strip_reasoning=false keeps it",
                *stripped,
            )
        answers, wanted = bare
    found.record("exact_match", metrics.exact_matches(answers, wanted))
