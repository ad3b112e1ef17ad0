"""How sure a measured number is: 95 % intervals over the rows it was measured on, of the number and of a paired difference.

Bootstrapped (Efron 1979): rows are drawn with replacement, whole, and the number is computed anew. Near the ends of its range, where all
draws are nearly alike, a share of rows has Wilson's interval (1927) and an area under the curve Newcombe's (2006).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

RESAMPLES = 1000
LOW, HIGH = 0.025, 0.975
NORMAL = 1.96
"""Standard errors to each side of 95 % of a normal distribution."""
LARGEST = 700.0
"""Exponents are cut here: a model that is broken has a perplexity beyond any float."""
NEAR_AN_END = 0.1
"""How near 0 or 1 an area under the curve is where its draws are too much alike."""
AT_ONCE = 4_000_000
"""Drawn rows held at once."""


@dataclass(frozen=True, kw_only=True)
class RowValues:
    """A metric row by row (question, pair or prompt).

    mean: Σ w·v / Σ w. With `labels`, auc: the probability that a row with the label has the higher value of two, one with and one without,
    ties one half; difference: the mean of the rows with the label less that of those without. `weights` are 1 unless given: tokens, for a
    loss; 0 for a row that says nothing.
    """

    values: list[float]
    weights: list[float] | None = None
    exponential: bool = False
    """The metric is exp of that mean (perplexity), and its interval is one of the exp."""
    labels: list[bool] | None = None
    statistic: Literal["mean", "auc", "difference"] = "mean"
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

    @property
    def is_share(self) -> bool:
        """Whether every row counts 0 or 1, and as much as any other."""
        return self.weights is None and self.statistic == "mean" and not self.exponential and set(self.values) <= {0.0, 1.0}

    def mean(self) -> float:
        """The metric."""
        import numpy as np

        if self.statistic == "mean" and self.weights is None and not self.exponential:
            return sum(self.values) / len(self.values)
        return float(self.compute(np.ones((1, len(self.values))))[0])

    def compute(self, counts: "Array") -> "Array":
        """The metric (B,) over rows that are there as many times as `counts` (B, n) says; NaN where it is not defined."""
        import numpy as np

        values = np.asarray(self.values, dtype=np.float64)
        if self.statistic == "auc":
            return compute_auc(values, np.asarray(self.labels, dtype=bool), counts)
        if self.statistic == "difference":
            sides = [np.asarray(self.labels, dtype=bool) == side for side in (True, False)]
            with np.errstate(invalid="ignore", divide="ignore"):
                first, second = ((counts @ (values * side)) / (counts @ side) for side in sides)
            return first - second
        weights = np.ones_like(values) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        total = counts @ weights
        means = (counts @ (values * weights)) / np.where(total == 0, 1.0, total)
        return np.exp(np.minimum(means, LARGEST)) if self.exponential else means


def compute_auc(values: "Array", labels: "Array", counts: "Array") -> "Array":
    """The area under the ROC curve (B,) of values (n,) with labels (n,), each row there `counts` (B, n) times: the U of Mann and Whitney
    (1947) over the number of pairs."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    sorted_counts, sorted_labels = counts[:, order], labels[order]
    labelled_counts, other_counts = (np.add.reduceat(sorted_counts * side, starts, axis=1) for side in (sorted_labels, ~sorted_labels))
    counts_below = np.cumsum(other_counts, axis=1) - other_counts
    with np.errstate(invalid="ignore", divide="ignore"):
        return (labelled_counts * (counts_below + 0.5 * other_counts)).sum(1) / (labelled_counts.sum(1) * other_counts.sum(1))


def bootstrap_interval(row_values: RowValues, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a metric: the middle of it over rows drawn with replacement; Wilson's of a share, Newcombe's of an area near 0
    or 1; mean ± 1.96 · stderr where another program states that."""
    if row_values.stderr is not None:
        return row_values.mean() - NORMAL * row_values.stderr, row_values.mean() + NORMAL * row_values.stderr
    if row_values.is_share:
        return wilson_interval(row_values.mean(), len(row_values.values))
    if row_values.statistic == "auc" and row_values.labels is not None and not NEAR_AN_END <= row_values.mean() <= 1 - NEAR_AN_END:
        return newcombe_interval(row_values.mean(), sum(row_values.labels), len(row_values.labels) - sum(row_values.labels))
    return middle_bounds([value for counts in draw_counts(len(row_values.values), seed) for value in row_values.compute(counts).tolist()])


def bootstrap_difference(first: RowValues, second: RowValues, *, seed: int = 0) -> tuple[float, float, float]:
    """second - first on the same rows, and its 95 % interval: each draw takes the same rows of both.

    Metrics that are stated whole cannot be paired: their standard errors add up, and without any the interval is endless.
    """
    if first.count is not None or second.count is not None:
        difference, errors = second.mean() - first.mean(), (first.stderr, second.stderr)
        half_width = math.inf if None in errors else NORMAL * math.hypot(*errors)  # type: ignore[arg-type]
        return difference, difference - half_width, difference + half_width
    differences = [
        difference
        for counts in draw_counts(len(first.values), seed)
        for difference in (second.compute(counts) - first.compute(counts)).tolist()
    ]
    return (second.mean() - first.mean(), *middle_bounds(differences))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share of `count` rows (Wilson 1927)."""
    spread = NORMAL**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half_width = NORMAL / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half_width), min(1.0, middle + half_width)


def newcombe_interval(area: float, labelled_count: int, other_count: int) -> tuple[float, float]:
    """The 95 % score interval of an area under the ROC curve (Newcombe 2006, Statistics in Medicine 25, method 5): the areas from which
    this one is within 1.96 standard errors, by the variance of Hanley and McNeil (1982) with both numbers of rows at their mean."""
    mean = (labelled_count + other_count) / 2 - 1

    def holds(truth: float) -> bool:
        spread = 1 + mean * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        return abs(truth - area) <= NORMAL * math.sqrt(truth * (1 - truth) * spread / (labelled_count * other_count))

    def find_end(inside: float, outside: float) -> float:
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if holds(middle) else (inside, middle)
        return inside

    return find_end(area, 0.0), find_end(area, 1.0)


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of a few independent values, as of runs with different seeds: mean ± t · s / √n (Student 1908)."""
    mean, count = sum(values) / len(values), len(values)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    half_width = student_quantile(count - 1) * math.sqrt(variance / count)
    return mean - half_width, mean + half_width


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


def draw_counts(count: int, seed: int) -> Iterator["Array"]:
    """How often each of `count` rows is drawn, (B, count) at a time, when as many are drawn with replacement, many times over."""
    import numpy as np

    generator, size = np.random.default_rng(seed), max(1, AT_ONCE // count)
    for first in range(0, RESAMPLES, size):
        draws = min(size, RESAMPLES - first)
        rows = generator.integers(count, size=(draws, count)) + np.arange(draws)[:, None] * count
        yield np.bincount(rows.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def middle_bounds(values: list[float]) -> tuple[float, float]:
    """The middle 95 % of those that are numbers: draws without a row of each kind have none."""
    sorted_values = sorted(value for value in values if not math.isnan(value))
    return sorted_values[int(LOW * (len(sorted_values) - 1))], sorted_values[round(HIGH * (len(sorted_values) - 1))]
