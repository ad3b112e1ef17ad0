"""Measure the text that the model generates: distance from the reference, length and variety. Also collect sample answers to read."""

import torch

from lexalign.data.rows import get_prompt_key, get_question_key
from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement, Question
from lexalign.evaluation.scoring import Spans, compute_divergences
from lexalign.evaluation.summary import format_prompt
from lexalign.models.generation import read_end_tokens


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record kl, sample_length, sample_cut, distinct_1, distinct_2 and dissimilarity of drawn responses, and generate greedy answers to the
    first prompts."""
    if not evaluator.has("prompt"):
        return
    evaluator.greedy(model, measurement, evaluator.first_prompts(evaluator.settings.samples))
    if evaluator.settings.draws:
        evaluator.draw_responses(model, measurement)
        drawn_responses = select_drawn(evaluator, measurement)
        if reference is not None and reference.borrowed is not None:
            measure_divergence(evaluator, model, measurement, reference, drawn_responses)
        measure_variety(evaluator, model, measurement, drawn_responses)


def select_drawn(evaluator: Evaluator, measurement: Measurement) -> dict[Question, list[list[int]]]:
    """Return the drawn responses that are measured: `evaluate.draws` of each of the first `evaluate.draw_prompts` questions."""
    questions = list(measurement.drawn)[: evaluator.settings.draw_prompts] if evaluator.settings.draws else []
    return {question: measurement.drawn[question][: evaluator.settings.draws] for question in questions}


def measure_divergence(
    evaluator: Evaluator,
    model: torch.nn.Module,
    measurement: Measurement,
    reference: MeasuredReference,
    drawn: dict[Question, list[list[int]]],
) -> None:
    """Record kl: KL(π ‖ π_ref) in nats per token, on the responses that the policy itself generates.

    It is the mean of Σ_v π(v|s_t) log(π(v|s_t) / π_ref(v|s_t)) over the positions s_t of the drawn responses, including the end token, from
    both whole distributions. The sum over a response is an unbiased estimate of its expected value. Its variance is smaller than that of an
    estimate from the log-ratios of the sampled tokens only.
    """
    assert reference.borrowed is not None
    contexts = evaluator.contexts()
    spans = [Spans(context=contexts[question], response=ids) for question, responses in drawn.items() for ids in responses]
    divergences = compute_divergences(model, reference.borrowed, spans, batch_size=evaluator.settings.batch_size)
    count = evaluator.settings.draws
    parts = [divergences[at : at + count] for at in range(0, len(divergences), count)]
    tokens = [float(sum(positions for _, positions in part)) for part in parts]
    measurement.record("kl", [sum(total for total, _ in part) / (size or 1.0) for part, size in zip(parts, tokens, strict=True)], tokens)


def measure_variety(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, drawn: dict[Question, list[list[int]]]) -> None:
    """Record for each prompt: mean length in tokens without the end token, the share cut at evaluate.max_new_tokens, distinct_n and
    dissimilarity."""
    ends = evaluator.encoder.end_tokens | read_end_tokens(model)
    all_responses = list(drawn.values())
    bare_responses = [[ids[:-1] if ids[-1] in ends else ids for ids in responses] for responses in all_responses]
    measurement.record("sample_length", [metrics.mean([len(ids) for ids in responses]) for responses in bare_responses])
    measurement.record("sample_cut", [metrics.mean([float(ids[-1] not in ends) for ids in responses]) for responses in all_responses])
    for size in (1, 2):
        measurement.record(f"distinct_{size}", [metrics.distinct(responses, size) for responses in bare_responses])
    if evaluator.settings.draws > 1:
        measurement.record("dissimilarity", [metrics.dissimilarity(responses) for responses in bare_responses])


def list_samples(evaluator: Evaluator, models: dict[str, Measurement]) -> list[dict[str, str]]:
    """Return for each sample prompt the greedy answer of each model and, if responses were drawn, the first drawn one. The models draw with
    the same seed."""
    question_keys = {get_prompt_key(row): get_question_key(row) for row in reversed(evaluator.rows) if "prompt" in row}
    samples = []
    for prompt, row in evaluator.first_prompts(evaluator.settings.samples).items():
        sample = {"prompt": format_prompt(row["prompt"])} | {name: measurement.answers[prompt] for name, measurement in models.items()}
        for name, measurement in models.items():
            if responses := measurement.drawn.get(question_keys[prompt]):
                sample[f"{name}, drawn"] = evaluator.text(responses[0])
        samples.append(sample)
    return samples
