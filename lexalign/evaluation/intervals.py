"""How sure a measured number is: bootstrapped 95 % intervals over the rows it was measured on, of a mean and of a paired difference."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

RESAMPLES = 1000
LOW, HIGH = 0.025, 0.975
NORMAL = 1.96
"""Standard errors to each side of 95 % of a normal distribution."""
LARGEST = 700.0
"""Exponents are cut here: a model that is broken has a perplexity beyond any float."""


@dataclass(frozen=True, kw_only=True)
class RowValues:
    """A metric row by row (question, pair or prompt): it is Σ w·v / Σ w.

    `weights` are 1 unless given: tokens, for a loss; 0 for a row that says nothing.
    """

    values: list[float]
    weights: list[float] | None = None
    exponential: bool = False
    """The metric is exp of that mean (perplexity), and its interval is one of the exp."""
    stderr: float | None = None
    """The standard error that another program states for the metric; its interval is then the normal one, not bootstrapped."""
    count: int | None = None
    """Rows of a metric that another program states whole: `values` then holds the metric alone."""

    @property
    def n(self) -> int:
        """The number of rows, those without weight left out."""
        if self.count is not None:
            return self.count
        return len(self.values) if self.weights is None else sum(weight > 0 for weight in self.weights)

    def mean(self) -> float:
        """The metric."""
        return self.mean_of(range(len(self.values)))

    def mean_of(self, rows: Sequence[int]) -> float:
        """The metric over some of the rows, which may repeat."""
        if self.weights is None:
            found = sum(self.values[row] for row in rows) / len(rows)
        else:
            found = sum(self.values[row] * self.weights[row] for row in rows) / (sum(self.weights[row] for row in rows) or 1.0)
        return math.exp(min(found, LARGEST)) if self.exponential else found


def bootstrap_interval(found: RowValues, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a metric: percentiles of its mean over rows drawn with replacement (Efron 1979), or mean ± 1.96 · stderr."""
    if found.stderr is not None:
        return found.mean() - NORMAL * found.stderr, found.mean() + NORMAL * found.stderr
    return middle_bounds([found.mean_of(rows) for rows in draw_rows(len(found.values), seed)])


def bootstrap_difference(first: RowValues, second: RowValues, *, seed: int = 0) -> tuple[float, float, float]:
    """second - first on the same rows, and its 95 % interval: each draw takes the same rows of both.

    Metrics that are stated whole cannot be paired: their standard errors add up, and without any the interval is endless.
    """
    if first.count is not None or second.count is not None:
        apart, errors = second.mean() - first.mean(), (first.stderr, second.stderr)
        half = math.inf if None in errors else NORMAL * math.hypot(*errors)  # type: ignore[arg-type]
        return apart, apart - half, apart + half
    drawn = [second.mean_of(rows) - first.mean_of(rows) for rows in draw_rows(len(first.values), seed)]
    return (second.mean() - first.mean(), *middle_bounds(drawn))


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of a few independent values, as of runs with different seeds: mean ± t · s / √n (Student 1908)."""
    mean, count = sum(values) / len(values), len(values)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_quantile(count - 1) * math.sqrt(variance / count)
    return mean - half, mean + half


@lru_cache
def student_quantile(freedom: int) -> float:
    """The t that a variable of Student's distribution with so many (whole) degrees of freedom stays below, in size, 95 % of the time."""
    low, high = 0.0, 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if student_probability(middle, freedom) > HIGH - LOW else (middle, high)
    return high


def student_probability(t: float, freedom: int) -> float:
    """P(|T| ≤ t): the finite sums of Abramowitz and Stegun 26.7.3 (odd degrees of freedom) and 26.7.4 (even ones)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = total = 0.0 if freedom == 1 else cosine if odd else 1.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


@lru_cache(maxsize=4)
def draw_rows(count: int, seed: int) -> list[list[int]]:
    """Rows drawn with replacement, as many as there are, many times over; most measures of a run are over equally many rows."""
    chance = random.Random(seed)
    return [chance.choices(range(count), k=count) for _ in range(RESAMPLES)]


def middle_bounds(values: list[float]) -> tuple[float, float]:
    """The middle 95 %."""
    ordered = sorted(values)
    return ordered[int(LOW * (len(ordered) - 1))], ordered[round(HIGH * (len(ordered) - 1))]
