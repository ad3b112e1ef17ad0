"""The rewards of a reinforcement method on greedy answers to the held-out prompts."""

import torch

from lexalign.data.rows import get_prompt_key
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement


def measure(stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: MeasuredReference | None) -> None:
    """reward/<name>: each reward's mean; reward: the mean of their weighted sum."""
    if stick.panel is None:
        return
    answers = stick.greedy(model, found, {get_prompt_key(row): row for row in stick.rows})
    values = stick.panel.score(stick.rows, [answers[get_prompt_key(row)] for row in stick.rows])
    for name, own in values.items():
        found.record(f"reward/{name}", own)
    found.record("reward", stick.panel.total(values))
