"""Predictions for held-out combinations without a model: uniform, overall, the question's mean, question + group; and the floor.

Distances are Jensen-Shannon distances with the natural logarithm (`evaluation.metrics`), averaged over the held-out combinations.
"""

import math
import random
from collections.abc import Callable, Sequence

from lexalign.evaluation.metrics import jensen_shannon_distance, mean
from lexalign.surveys.shares import Combination

ROUNDS = 200
"""Number of rounds of the log-linear fit. It converges in a few dozen rounds."""
DRAWS = 20
"""Number of samples for each combination, to measure the floor."""
SMALL = 0.5
"""Number of people added to each option of a combination, so that no logarithm is of zero."""


def measure_baselines(train: Sequence[Combination], held_out: Sequence[Combination], *, seed: int = 0) -> dict[str, float]:
    """The mean distance of each baseline on the held-out combinations, and the floor from sampling.

    A baseline is left out if the training combinations do not allow it (for example, the mean of a question that they do not have).
    """
    options = len(held_out[0].shares)
    overall_shares = pool(train)
    questions = {row.question: pool([neighbour for neighbour in train if neighbour.question == row.question]) for row in train}
    predictors: dict[str, Callable[[Combination], list[float] | None]] = {
        "uniform": lambda row: [1 / options] * options,
        "overall": lambda row: overall_shares,
        "question_mean": lambda row: questions.get(row.question),
        "question_and_group": fit_log_linear(train),
    }
    distances = {}
    for name, predict in predictors.items():
        predictions = [predict(row) for row in held_out]
        pairs = [(row, shares) for row, shares in zip(held_out, predictions, strict=True) if shares is not None]
        if len(pairs) == len(held_out):
            distances[name] = mean([jensen_shannon_distance(shares, row.shares) for row, shares in pairs])
    distances["floor"] = measure_floor(held_out, seed=seed)
    return distances


def pool(rows: Sequence[Combination]) -> list[float]:
    """The joint shares of several combinations, each weighted by its people."""
    people = sum(row.people for row in rows)
    return [sum(row.shares[index] * row.people for row in rows) / people for index in range(len(rows[0].shares))]


def fit_log_linear(train: Sequence[Combination]) -> Callable[[Combination], list[float] | None]:
    """log p(option | question, group) = a(question, option) + b(group, option), fitted by iterative proportional fitting.

    The prediction for a combination is None if its question or its group is not in the training combinations.
    """
    counts = {(row.question, row.group): [share * row.people + SMALL for share in row.shares] for row in train}
    by_question = {row.question: [0.0] * len(row.shares) for row in train}
    by_group = {row.group: [0.0] * len(row.shares) for row in train}

    def predict(question: str, group: str) -> list[float]:
        scores = [a + b for a, b in zip(by_question[question], by_group[group], strict=True)]
        top_score = max(scores)
        weights = [math.exp(score - top_score) for score in scores]
        return [weight / sum(weights) for weight in weights]

    for _ in range(ROUNDS):
        for effects, position in ((by_question, 0), (by_group, 1)):
            for name, effect in effects.items():
                cells = [(key, cell) for key, cell in counts.items() if key[position] == name]
                observed_counts = [sum(cell[option] for _, cell in cells) for option in range(len(effect))]
                expected_counts = [0.0] * len(effect)
                for key, cell in cells:
                    shares = predict(*key)
                    expected_counts = [
                        expected_count + sum(cell) * share for expected_count, share in zip(expected_counts, shares, strict=True)
                    ]
                effects[name] = [
                    old_effect + math.log(observed_count / expected_count)
                    for old_effect, observed_count, expected_count in zip(effect, observed_counts, expected_counts, strict=True)
                ]

    def predict_row(row: Combination) -> list[float] | None:
        return predict(row.question, row.group) if row.question in by_question and row.group in by_group else None

    return predict_row


def measure_floor(held_out: Sequence[Combination], *, seed: int) -> float:
    """The mean distance between the shares and a new sample of as many people. Below it, a prediction is as good as the truth."""
    rng = random.Random(seed)
    distances = []
    for row in held_out:
        for _ in range(DRAWS):
            draws = rng.choices(range(len(row.shares)), weights=row.shares, k=row.people)
            distances.append(jensen_shannon_distance([draws.count(index) / row.people for index in range(len(row.shares))], row.shares))
    return mean(distances)


def wasserstein_distance(p: Sequence[float], q: Sequence[float]) -> float:
    """1-Wasserstein distance of shares of ordered options with steps of 1: Σ |P_k - Q_k| over the cumulative shares."""
    total, difference = 0.0, 0.0
    for a, b in zip(p[:-1], q[:-1], strict=True):
        difference += a - b
        total += abs(difference)
    return total
