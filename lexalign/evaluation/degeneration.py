"""Signs that a model's text has degenerated, which a score does not show: it repeats itself, does not end, or has lost plain text."""

import math

from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, Measurement
from lexalign.evaluation.samples import select_drawn

NGRAM = 4
"""Tokens of a run that is looked for a second time in the same answer."""
REPETITION = "repetition"
MOST_REPETITION, REPETITION_RISE = 0.2, 0.1
"""Share of an answer's runs that stand in it before; ordinary prose of this length has a few hundredths."""
MOST_UNFINISHED, UNFINISHED_RISE = 0.5, 0.2
PERPLEXITY_RISE = 1.5
"""Times the perplexity before training. Preference training raises it a little; this much is text lost."""
MOST_DIVERGENCE = 2.0
"""Nats a token: the text is no longer that of the model it was trained from."""


def record_repetition(evaluator: Evaluator, measurement: Measurement) -> None:
    """repetition: share of an answer's runs of four tokens that stand in it before, the mean over the answers drawn for each prompt."""
    drawn_responses = select_drawn(evaluator, measurement)
    if drawn_responses:
        values = [metrics.mean([measure_repetition(ids) for ids in responses]) for responses in drawn_responses.values()]
        measurement.record(REPETITION, values)


def measure_repetition(ids: list[int]) -> float:
    """Share of the runs of four tokens that stand in the answer before: 0 where none repeats, near 1 in a loop."""
    grams = metrics.list_grams(ids, NGRAM)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def find_signs(evaluator: Evaluator, before: Measurement, after: Measurement) -> list[str]:
    """Return a warning for each sign. What was so before training already is no sign."""
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
    """Whether a share is above what is usual and above what it was."""
    return name in new and new[name] > most and new[name] > old.get(name, 0.0) + rise


def was(name: str, old: dict[str, float]) -> str:
    """What a share was before, in brackets."""
    return f" (before: {old[name]:.0%})" if name in old else ""


def find_boundless_margin(evaluator: Evaluator, new: dict[str, float]) -> list[str]:
    """A reward margin is the log-odds of the preference (Bradley-Terry). N pairs that all agree show odds of N + 1 to 1 (the rule of
    succession); a mean margin of more than twice that log-odds is about the optimizer and not about the data. Rewards without a scale
    (beta 1 stands for plain log-ratios) are no log-odds."""
    pairs = sum("chosen" in row for row in evaluator.train_rows)
    if "reward_margin" not in new or not pairs or evaluator.beta in (None, 1.0):
        return []
    if new["reward_margin"] <= 2 * math.log(pairs + 1):
        return []
    return [
        f"reward_margin {new['reward_margin']:.3g} stands for odds of 10^{new['reward_margin'] / math.log(10):.0f} to 1; "
        f"{pairs:,} training pairs can show {pairs + 1:,} to 1: more steps or a smaller beta only drive it on"
    ]
