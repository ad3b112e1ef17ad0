"""Find signs of degenerate text that a score does not show: repetition, answers without an end, and a loss of plain text."""

import math

from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, Measurement
from lexalign.evaluation.samples import select_drawn

NGRAM = 4
"""Number of consecutive tokens that are compared to find repetition within an answer."""
REPETITION = "repetition"
MOST_REPETITION, REPETITION_RISE = 0.2, 0.1
"""Largest usual share of repeated n-grams in an answer, and largest usual rise of it. Ordinary prose of this length has a few percent."""
MOST_UNFINISHED, UNFINISHED_RISE = 0.5, 0.2
PERPLEXITY_RISE = 1.5
"""Factor relative to the perplexity before training. Preference training raises it a little; a larger rise means that the model has lost
plain text."""
MOST_DIVERGENCE = 2.0
"""Nats per token. Above it, the text no longer resembles that of the model before training."""


def record_repetition(evaluator: Evaluator, measurement: Measurement) -> None:
    """Record repetition: the share of repeated 4-grams of tokens in an answer, as the mean over the answers drawn for each prompt."""
    drawn_responses = select_drawn(evaluator, measurement)
    if drawn_responses:
        values = [metrics.mean([measure_repetition(ids) for ids in responses]) for responses in drawn_responses.values()]
        measurement.record(REPETITION, values)


def measure_repetition(ids: list[int]) -> float:
    """Return the share of 4-grams of tokens that occurred earlier in the answer: 0 if none repeats, near 1 for a loop."""
    grams = metrics.list_grams(ids, NGRAM)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def find_signs(evaluator: Evaluator, before: Measurement, after: Measurement) -> list[str]:
    """Return a warning for each sign. A sign that was already there before training is not reported."""
    old, new = before.values, after.values
    warnings = []
    if "perplexity" in new and "perplexity" in old and new["perplexity"] > PERPLEXITY_RISE * old["perplexity"]:
        warnings.append(
            f"perplexity rose from {old['perplexity']:.3g} to {new['perplexity']:.3g}: the model has lost text it could predict"
        )
    if has_risen(REPETITION, old, new, most=MOST_REPETITION, rise=REPETITION_RISE):
        warnings.append(
            f"the drawn answers repeat themselves: {new[REPETITION]:.0%} of their runs of {NGRAM} tokens "
            f"stand in them before{was(REPETITION, old)}"
        )
    if has_risen("sample_cut", old, new, most=MOST_UNFINISHED, rise=UNFINISHED_RISE):
        limit = f"evaluate.max_new_tokens={evaluator.settings.max_new_tokens}"
        warnings.append(f"{new['sample_cut']:.0%} of the drawn answers do not end within {limit}{was('sample_cut', old)}")
    if new.get("kl", 0.0) > MOST_DIVERGENCE:
        warnings.append(f"kl is {new['kl']:.3g} nats a token: the model's text is no longer that of the model it was trained from")
    return [*warnings, *find_boundless_margin(evaluator, new)]


def has_risen(name: str, old: dict[str, float], new: dict[str, float], *, most: float, rise: float) -> bool:
    """Return whether a share is above `most`, and above its old value by more than `rise`."""
    return name in new and new[name] > most and new[name] > old.get(name, 0.0) + rise


def was(name: str, old: dict[str, float]) -> str:
    """Return the old value of a share in brackets; empty if there is none."""
    return f" (before: {old[name]:.0%})" if name in old else ""


def find_boundless_margin(evaluator: Evaluator, new: dict[str, float]) -> list[str]:
    """Return a warning if the reward margin is larger than the data can justify.

    A reward margin is the log-odds of the preference (Bradley-Terry). N pairs that all agree show odds of N + 1 to 1 (the rule of
    succession). If the mean margin is more than twice that log-odds, its size comes from the optimizer, not from the data. Rewards without
    a scale (beta 1: plain log-ratios) are not log-odds and give no warning.
    """
    pairs = sum("chosen" in row for row in evaluator.train_rows)
    if "reward_margin" not in new or not pairs or evaluator.beta in (None, 1.0):
        return []
    if new["reward_margin"] <= 2 * math.log(pairs + 1):
        return []
    return [
        f"reward_margin {new['reward_margin']:.3g} stands for odds of 10^{new['reward_margin'] / math.log(10):.0f} to 1; "
        f"{pairs:,} training pairs can show {pairs + 1:,} to 1: more steps or a smaller beta only drive it on"
    ]
