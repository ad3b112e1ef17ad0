"""Measure the rewards of a reinforcement method on greedy answers to the held-out prompts."""

import torch

from lexalign.data.rows import get_prompt_key
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record reward/<name>, the mean of each reward, and reward, the mean of their weighted sum."""
    if evaluator.panel is None:
        return
    answers = evaluator.greedy(model, measurement, {get_prompt_key(row): row for row in evaluator.rows})
    values = evaluator.panel.score(evaluator.rows, [answers[get_prompt_key(row)] for row in evaluator.rows])
    for name, reward_values in values.items():
        measurement.record(f"reward/{name}", reward_values)
    measurement.record("reward", evaluator.panel.total(values))
