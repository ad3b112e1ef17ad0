"""Compute 95 % intervals of a measured number and of a paired difference, over the rows they were measured on.

They are bootstrapped (Efron 1979): whole rows are drawn with replacement, and the number is computed again. Near the ends of the range all
draws are nearly equal. A share of rows therefore has Wilson's interval (1927), and an area under the curve near 0 or 1 Newcombe's (2006).
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
"""95 % of a normal distribution lie within this many standard errors of its mean."""
LARGEST = 700.0
"""Largest exponent: the perplexity of a broken model would overflow a float."""
NEAR_AN_END = 0.1
"""An area under the curve nearer than this to 0 or 1 is not bootstrapped, because its draws are nearly equal."""
AT_ONCE = 4_000_000
"""Number of drawn rows in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class RowValues:
    """A metric row by row (question, pair or prompt).

    The statistic mean is Σ w·v / Σ w. The other two need `labels`. auc is the probability that a row with the label has a higher value than
    a row without it; a tie counts one half. difference is the mean of the rows with the label minus the mean of the rows without it.
    `weights` are 1 by default. For a loss they are the numbers of tokens; a row without information has 0.
    """

    values: list[float]
    weights: list[float] | None = None
    exponential: bool = False
    """Whether the metric is the exponential of the mean (perplexity). The interval is then that of the exponential."""
    labels: list[bool] | None = None
    statistic: Literal["mean", "auc", "difference"] = "mean"
    stderr: float | None = None
    """The standard error that another program reports for the metric. The interval is then the normal one, not bootstrapped."""
    count: int | None = None
    """Number of rows of a metric that another program reports as one number. `values` then holds only this number."""

    @property
    def n(self) -> int:
        """The number of rows with a weight above 0."""
        if self.count is not None:
            return self.count
        return len(self.values) if self.weights is None else sum(weight > 0 for weight in self.weights)

    @property
    def is_share(self) -> bool:
        """Whether every value is 0 or 1, and all rows have the same weight."""
        return self.weights is None and self.statistic == "mean" and not self.exponential and set(self.values) <= {0.0, 1.0}

    def mean(self) -> float:
        """Return the metric."""
        import numpy as np

        if self.statistic == "mean" and self.weights is None and not self.exponential:
            return sum(self.values) / len(self.values)
        return float(self.compute(np.ones((1, len(self.values))))[0])

    def compute(self, counts: "Array") -> "Array":
        """Return the metric (B,) of B samples of the rows. `counts` (B, n): how often each row occurs in each. NaN if undefined."""
        import numpy as np

        values = np.asarray(self.values, dtype=np.float64)
        if self.statistic == "auc":
            return compute_auc(values, np.asarray(self.labels, dtype=bool), counts)
        if self.statistic == "difference":
            sides = [np.asarray(self.labels, dtype=bool) == side for side in (True, False)]
            with np.errstate(invalid="ignore", divide="ignore"):
                first_mean, second_mean = ((counts @ (values * side)) / (counts @ side) for side in sides)
            return first_mean - second_mean
        weights = np.ones_like(values) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        total = counts @ weights
        means = (counts @ (values * weights)) / np.where(total == 0, 1.0, total)
        return np.exp(np.minimum(means, LARGEST)) if self.exponential else means


def compute_auc(values: "Array", labels: "Array", counts: "Array") -> "Array":
    """Return the area under the ROC curve (B,) of values (n,) with labels (n,), where each row occurs `counts` (B, n) times.

    It is the U of Mann and Whitney (1947) divided by the number of pairs.
    """
    import numpy as np

    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    sorted_counts, sorted_labels = counts[:, order], labels[order]
    labelled_counts, other_counts = (np.add.reduceat(sorted_counts * side, starts, axis=1) for side in (sorted_labels, ~sorted_labels))
    counts_below = np.cumsum(other_counts, axis=1) - other_counts
    with np.errstate(invalid="ignore", divide="ignore"):
        return (labelled_counts * (counts_below + 0.5 * other_counts)).sum(1) / (labelled_counts.sum(1) * other_counts.sum(1))


def bootstrap_interval(row_values: RowValues, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a metric: the middle 95 % of its values over rows drawn with replacement.

    A share has Wilson's interval, an area under the curve near 0 or 1 has Newcombe's. If another program reports a standard error, the
    interval is mean ± 1.96 · stderr.
    """
    if row_values.stderr is not None:
        return row_values.mean() - NORMAL * row_values.stderr, row_values.mean() + NORMAL * row_values.stderr
    if row_values.is_share:
        return wilson_interval(row_values.mean(), len(row_values.values))
    if row_values.statistic == "auc" and row_values.labels is not None and not NEAR_AN_END <= row_values.mean() <= 1 - NEAR_AN_END:
        return newcombe_interval(row_values.mean(), sum(row_values.labels), len(row_values.labels) - sum(row_values.labels))
    return middle_bounds([value for counts in draw_counts(len(row_values.values), seed) for value in row_values.compute(counts).tolist()])


def bootstrap_difference(first: RowValues, second: RowValues, *, seed: int = 0) -> tuple[float, float, float]:
    """Return second - first on the same rows, and the ends of its 95 % interval. Each draw takes the same rows of both.

    Metrics without rows (`count` is set) cannot be paired: their variances are added. If a standard error is missing, the interval is
    infinite.
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
    """Return the 95 % score interval of a share of `count` rows (Wilson 1927)."""
    spread = NORMAL**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half_width = NORMAL / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half_width), min(1.0, middle + half_width)


def newcombe_interval(area: float, labelled_count: int, other_count: int) -> tuple[float, float]:
    """Return the 95 % score interval of an area under the ROC curve (Newcombe 2006, Statistics in Medicine 25, method 5).

    It holds the areas that are at most 1.96 standard errors away from this one. The variance is that of Hanley and McNeil (1982), with
    both numbers of rows replaced by their mean.
    """
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
    """Return the 95 % interval of the mean of a few independent values, such as runs with different seeds: mean ± t · s / √n (Student
    1908)."""
    mean, count = sum(values) / len(values), len(values)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    half_width = student_quantile(count - 1) * math.sqrt(variance / count)
    return mean - half_width, mean + half_width


@lru_cache
def student_quantile(freedom: int) -> float:
    """Return the t with P(|T| ≤ t) = 0.95, where T has Student's distribution with `freedom` (a whole number) degrees of freedom."""
    low, high = 0.0, 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if student_probability(middle, freedom) > HIGH - LOW else (middle, high)
    return high


def student_probability(t: float, freedom: int) -> float:
    """Return P(|T| ≤ t) by the finite sums of Abramowitz and Stegun: 26.7.3 for odd degrees of freedom, 26.7.4 for even ones."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = total = 0.0 if freedom == 1 else cosine if odd else 1.0
    for step in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def draw_counts(count: int, seed: int) -> Iterator["Array"]:
    """Yield how often each of `count` rows occurs in samples of `count` rows drawn with replacement, as arrays (B, count).

    There are RESAMPLES samples in all.
    """
    import numpy as np

    generator, size = np.random.default_rng(seed), max(1, AT_ONCE // count)
    for start in range(0, RESAMPLES, size):
        draws = min(size, RESAMPLES - start)
        rows = generator.integers(count, size=(draws, count)) + np.arange(draws)[:, None] * count
        yield np.bincount(rows.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def middle_bounds(values: list[float]) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of the values without NaN. A draw that lacks rows of one label gives NaN."""
    sorted_values = sorted(value for value in values if not math.isnan(value))
    return sorted_values[int(LOW * (len(sorted_values) - 1))], sorted_values[round(HIGH * (len(sorted_values) - 1))]
