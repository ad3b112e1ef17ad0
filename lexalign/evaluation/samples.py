"""What the model writes by itself: how far from the reference, how long, how varied; and answers to be read beside the reference's."""

import torch

from lexalign.data.rows import get_prompt_key, get_question_key
from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement, Question
from lexalign.evaluation.scoring import Spans, compute_divergences
from lexalign.evaluation.summary import format_prompt
from lexalign.models.generation import read_end_tokens


def measure(stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: MeasuredReference | None) -> None:
    """kl, sample_length, sample_cut, distinct_1, distinct_2, dissimilarity of drawn responses; and greedy answers to the first prompts."""
    if not stick.has("prompt"):
        return
    stick.greedy(model, found, stick.first_prompts(stick.settings.samples))
    if stick.settings.draws:
        stick.draw_responses(model, found)
        drawn = select_drawn(stick, found)
        if reference is not None and reference.borrowed is not None:
            measure_divergence(stick, model, found, reference, drawn)
        measure_variety(stick, model, found, drawn)


def select_drawn(stick: Evaluator, found: Measurement) -> dict[Question, list[list[int]]]:
    """Of the responses drawn, those that are measured for their variety: `evaluate.draws` for each of `evaluate.draw_prompts` questions."""
    questions = list(found.drawn)[: stick.settings.draw_prompts] if stick.settings.draws else []
    return {question: found.drawn[question][: stick.settings.draws] for question in questions}


def measure_divergence(
    stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: MeasuredReference, drawn: dict[Question, list[list[int]]]
) -> None:
    """kl: KL(π ‖ π_ref) in nats a token, on what the policy itself writes.

    The mean over the positions s_t of the drawn responses, the ending token's too, of Σ_v π(v|s_t) log(π(v|s_t) / π_ref(v|s_t)), from both
    whole distributions: of a response's expected sum this is an estimate without bias, and with less variance than one from the log-ratio
    of the sampled tokens alone.
    """
    assert reference.borrowed is not None
    contexts = stick.contexts()
    spans = [Spans(context=contexts[question], response=ids) for question, responses in drawn.items() for ids in responses]
    each = compute_divergences(model, reference.borrowed, spans, batch_size=stick.settings.batch_size)
    count = stick.settings.draws
    parts = [each[at : at + count] for at in range(0, len(each), count)]
    tokens = [float(sum(positions for _, positions in part)) for part in parts]
    found.record("kl", [sum(total for total, _ in part) / (size or 1.0) for part, size in zip(parts, tokens, strict=True)], tokens)


def measure_variety(stick: Evaluator, model: torch.nn.Module, found: Measurement, drawn: dict[Question, list[list[int]]]) -> None:
    """For each prompt: mean length in tokens without the ending, the share cut at evaluate.max_new_tokens, distinct_n, dissimilarity."""
    ends = stick.encoder.end_tokens | read_end_tokens(model)
    whole = list(drawn.values())
    bare = [[ids[:-1] if ids[-1] in ends else ids for ids in responses] for responses in whole]
    found.record("sample_length", [metrics.mean([len(ids) for ids in responses]) for responses in bare])
    found.record("sample_cut", [metrics.mean([float(ids[-1] not in ends) for ids in responses]) for responses in whole])
    for size in (1, 2):
        found.record(f"distinct_{size}", [metrics.distinct(responses, size) for responses in bare])
    if stick.settings.draws > 1:
        found.record("dissimilarity", [metrics.dissimilarity(responses) for responses in bare])


def list_samples(stick: Evaluator, models: dict[str, Measurement]) -> list[dict[str, str]]:
    """For each sample prompt, what each model answers greedily and, where responses were drawn, the first one drawn by the same seed."""
    first = {get_prompt_key(row): get_question_key(row) for row in reversed(stick.rows) if "prompt" in row}
    found = []
    for prompt, row in stick.first_prompts(stick.settings.samples).items():
        shown = {"prompt": format_prompt(row["prompt"])} | {name: measured.answers[prompt] for name, measured in models.items()}
        for name, measured in models.items():
            if responses := measured.drawn.get(first[prompt]):
                shown[f"{name}, drawn"] = stick.text(responses[0])
        found.append(shown)
    return found
