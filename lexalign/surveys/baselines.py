"""What one could say of a held-out combination without a model: uniform, overall, the question's mean, question + group, and the floor.

Distances are Jensen-Shannon distances with the natural logarithm (`evaluation.metrics`), averaged over the held-out combinations.
"""

import math
import random
from collections.abc import Callable, Sequence

from lexalign.evaluation.metrics import jensen_shannon_distance, mean
from lexalign.surveys.shares import Combination

ROUNDS = 200
"""Of the log-linear fit: it converges in a few dozen."""
DRAWS = 20
"""Samples of the floor for each combination."""
SMALL = 0.5
"""People added to each option of a combination before a logarithm is taken."""


def measure_baselines(train: Sequence[Combination], held_out: Sequence[Combination], *, seed: int = 0) -> dict[str, float]:
    """The mean distance of each baseline on the held-out combinations, and the floor that sampling sets.

    A baseline that the training combinations do not allow (the mean of a question that is nowhere in them) is left out.
    """
    options = len(held_out[0].shares)
    overall = pool(train)
    questions = {row.question: pool([other for other in train if other.question == row.question]) for row in train}
    predictors: dict[str, Callable[[Combination], list[float] | None]] = {
        "uniform": lambda row: [1 / options] * options,
        "overall": lambda row: overall,
        "question_mean": lambda row: questions.get(row.question),
        "question_and_group": fit_log_linear(train),
    }
    found = {}
    for name, predict in predictors.items():
        predictions = [predict(row) for row in held_out]
        pairs = [(row, shares) for row, shares in zip(held_out, predictions, strict=True) if shares is not None]
        if len(pairs) == len(held_out):
            found[name] = mean([jensen_shannon_distance(shares, row.shares) for row, shares in pairs])
    found["floor"] = measure_floor(held_out, seed=seed)
    return found


def pool(rows: Sequence[Combination]) -> list[float]:
    """The shares of several combinations together, each with its people."""
    people = sum(row.people for row in rows)
    return [sum(row.shares[at] * row.people for row in rows) / people for at in range(len(rows[0].shares))]


def fit_log_linear(train: Sequence[Combination]) -> Callable[[Combination], list[float] | None]:
    """log p(option | question, group) = a(question, option) + b(group, option), fitted by iterative proportional fitting.

    Its predictions for a combination need its question and its group in the training combinations; None where one is missing.
    """
    counts = {(row.question, row.group): [share * row.people + SMALL for share in row.shares] for row in train}
    by_question = {row.question: [0.0] * len(row.shares) for row in train}
    by_group = {row.group: [0.0] * len(row.shares) for row in train}

    def predict(question: str, group: str) -> list[float]:
        scores = [a + b for a, b in zip(by_question[question], by_group[group], strict=True)]
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        return [weight / sum(weights) for weight in weights]

    for _ in range(ROUNDS):
        for effects, at in ((by_question, 0), (by_group, 1)):
            for name, effect in effects.items():
                cells = [(key, cell) for key, cell in counts.items() if key[at] == name]
                seen = [sum(cell[k] for _, cell in cells) for k in range(len(effect))]
                expected = [0.0] * len(effect)
                for key, cell in cells:
                    shares = predict(*key)
                    expected = [e + sum(cell) * share for e, share in zip(expected, shares, strict=True)]
                effects[name] = [old + math.log(s / e) for old, s, e in zip(effect, seen, expected, strict=True)]

    def predict_row(row: Combination) -> list[float] | None:
        return predict(row.question, row.group) if row.question in by_question and row.group in by_group else None

    return predict_row


def measure_floor(held_out: Sequence[Combination], *, seed: int) -> float:
    """The mean distance of a fresh sample of as many people from the shares: no predictor can be told from the truth below it."""
    rng = random.Random(seed)
    distances = []
    for row in held_out:
        for _ in range(DRAWS):
            draws = rng.choices(range(len(row.shares)), weights=row.shares, k=row.people)
            distances.append(jensen_shannon_distance([draws.count(at) / row.people for at in range(len(row.shares))], row.shares))
    return mean(distances)


def wasserstein_distance(p: Sequence[float], q: Sequence[float]) -> float:
    """1-Wasserstein distance of shares of ordered options, one step apart each: Σ |P_k - Q_k| over the cumulative shares."""
    total, apart = 0.0, 0.0
    for a, b in zip(p[:-1], q[:-1], strict=True):
        apart += a - b
        total += abs(apart)
    return total
