"""What the model gives the answers that the data hold: loss, perplexity and exact match."""

import logging

import torch

from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row
from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, Measurement, Reference
from lexalign.evaluation.scoring import Spans, score_responses

log = logging.getLogger(__name__)
ROOM = 8  # tokens a greedy answer may be longer than the longest answer of the data before it is wrong anyway


def measure(stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: Reference | None) -> None:
    """loss, perplexity; and exact_match where there are completions (with a label they are no references: `unpaired` reads them)."""
    if stick.has("label"):
        return
    if stick.has("completion") or stick.has("text") or stick.has("messages"):
        scored = score_responses(model, encode_sequences(stick), batch_size=stick.settings.batch_size, max_length=stick.max_length)
        record_likelihood(found, scored, "loss", "perplexity")
    if stick.has("completion"):
        measure_exact_match(stick, model, found)


def record_likelihood(found: Measurement, scored: list[tuple[float, int]], *names: str) -> None:
    """loss: mean negative log-likelihood of a scored token; perplexity: exp of it. `scored` are (log-probability, tokens) of each row."""
    losses, tokens = [-total / max(1, count) for total, count in scored], [float(count) for _, count in scored]
    for name in names:
        found.record(name, losses, tokens, exponential=name == "perplexity")


def encode_sequences(stick: Evaluator) -> list[Spans]:
    """(context, scored tokens) of each row: the completion, the last assistant turn, or the whole text."""
    return [encode_spans(stick.encoder, row) for row in stick.rows]


def encode_spans(encoder: Renderer, row: Row) -> Spans:
    """(context, scored tokens) of a row with a completion, a text or messages."""
    if "completion" in row:
        return encoder.prompt(row["prompt"]), encoder.response(row["completion"])
    if "text" in row:
        return [], list(encoder.tokenizer(row["text"])["input_ids"])
    last = max(i for i, turn in enumerate(row["messages"]) if turn["role"] == "assistant")
    return encoder.prompt(row["messages"][:last]), encoder.response(row["messages"][last]["content"])


def measure_exact_match(stick: Evaluator, model: torch.nn.Module, found: Measurement) -> None:
    """exact_match: share of greedy answers equal to the completion."""
    most = stick.settings.max_new_tokens
    longest = max(len(stick.encoder.response(row["completion"])) for row in stick.rows)
    if longest > most:
        log.warning("Some completions are longer than evaluate.max_new_tokens=%d: they count as not matched", most)
    answers = stick.answers(model, [row["prompt"] for row in stick.rows], min(longest + ROOM, most))
    found.record("exact_match", metrics.exact_matches(answers, [row["completion"] for row in stick.rows]))
