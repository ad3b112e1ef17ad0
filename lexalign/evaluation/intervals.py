"""How sure a measured number is: bootstrapped 95 % intervals over the rows it was measured on, of a mean and of a paired difference."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 1000
LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True, kw_only=True)
class RowValues:
    """A metric row by row (question, pair or prompt): it is Σ w·v / Σ w; `weights` are 1 unless given (tokens, for a loss)."""

    values: list[float]
    weights: list[float] | None = None

    def mean(self) -> float:
        """The metric."""
        return self.mean_of(range(len(self.values)))

    def mean_of(self, rows: Sequence[int]) -> float:
        """The metric over some of the rows, which may repeat."""
        if self.weights is None:
            return sum(self.values[row] for row in rows) / len(rows)
        return sum(self.values[row] * self.weights[row] for row in rows) / (sum(self.weights[row] for row in rows) or 1.0)


def interval(found: RowValues, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a metric: percentiles of its mean over rows drawn with replacement (Efron 1979)."""
    return bounds([found.mean_of(rows) for rows in draws(len(found.values), seed)])


def difference(first: RowValues, second: RowValues, *, seed: int = 0) -> tuple[float, float, float]:
    """second - first on the same rows, and its 95 % interval: each draw takes the same rows of both."""
    apart = [second.mean_of(rows) - first.mean_of(rows) for rows in draws(len(first.values), seed)]
    return (second.mean() - first.mean(), *bounds(apart))


def draws(count: int, seed: int) -> list[list[int]]:
    """Rows drawn with replacement, as many as there are, many times over."""
    chance = random.Random(seed)
    return [chance.choices(range(count), k=count) for _ in range(RESAMPLES)]


def bounds(values: list[float]) -> tuple[float, float]:
    """The middle 95 %."""
    ordered = sorted(values)
    return ordered[int(LOW * (len(ordered) - 1))], ordered[round(HIGH * (len(ordered) - 1))]
