"""Measure the difference between two points and its interval. Each point has one or several seeds; all runs use the same rows.

A score varies from run to run for two reasons: the seed of the training and the choice of the held-out rows. An interval that covers only
the rows is too narrow for a statement about a method. With several seeds the variance of a difference of means has both parts, as in an
analysis of two crossed random factors (seeds within a point, and rows). It is the variance between seeds, plus the variance of the
difference between rows, minus the residual, which both of them contain. The degrees of freedom follow Satterthwaite (1946).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lexalign.evaluation.intervals import AT_ONCE, LARGEST, RowValues, bootstrap_difference, student_probability

USUAL_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """second - first, with an interval."""

    value: float
    low: float
    high: float
    covers_seeds: bool
    """Whether the interval covers the seeds. Otherwise it covers only the rows and says nothing about the method."""


def measure_difference(first: Sequence[RowValues], second: Sequence[RowValues], *, level: float = USUAL_LEVEL) -> Difference:
    """Return the difference between the means of two points over their seeds. Each `RowValues` is one run; all use the same rows.

    With one seed on both sides the interval covers only the rows (bootstrapped, for a `level` of 95 %). With one seed on one side only,
    the variance between the seeds of the other side is used for both.
    """
    covers_seeds, is_paired = max(len(first), len(second)) > 1, can_pair_rows([*first, *second])
    if not covers_seeds and (level == USUAL_LEVEL or not is_paired):
        value, low, high = bootstrap_difference(first[0], second[0])
        return Difference(value=value, low=low, high=high, covers_seeds=False)
    sides = [[run.mean() for run in runs] for runs in (first, second)]
    value = mean(sides[1]) - mean(sides[0])
    parts, freedoms = list_seed_parts(sides) if covers_seeds else ([], [])
    total_variance = sum(parts)
    if is_paired:
        tables = [[list_influences(run) for run in runs] for runs in (first, second)]
        count = len(tables[0][0])
        columns = [[mean(column) for column in zip(*table, strict=True)] for table in tables]
        row_variance = variance([b - a for a, b in zip(*columns, strict=True)]) / count
        residual = sum(measure_residual(table) for table in tables)
        total_variance = max(sum(parts), row_variance, sum(parts) + row_variance - residual)
        parts, freedoms = [*parts, row_variance], [*freedoms, count - 1]
    half_width = 0.0
    if total_variance > 0:
        freedom = total_variance**2 / sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
        half_width = find_student_quantile(max(1, int(freedom)), level) * math.sqrt(total_variance)
    return Difference(value=value, low=value - half_width, high=value + half_width, covers_seeds=covers_seeds)


def list_seed_parts(sides: Sequence[Sequence[float]]) -> tuple[list[float], list[int]]:
    """Return the variance of each side's mean over its seeds, and its degrees of freedom."""
    variances = [variance(side) for side in sides if len(side) > 1]
    freedoms = [len(side) - 1 for side in sides if len(side) > 1]
    parts, counts = [], []
    for side in sides:
        # A single seed has no variance: that of the other side is used.
        parts.append((variance(side) if len(side) > 1 else variances[0]) / len(side))
        counts.append(len(side) - 1 if len(side) > 1 else freedoms[0])
    return parts, counts


def can_pair_rows(runs: Sequence[RowValues]) -> bool:
    """Return whether the rows of the runs can be compared one by one."""
    return len({len(run.values) for run in runs}) == 1 and len(runs[0].values) > 1 and all(run.count is None for run in runs)


def list_influences(run: RowValues) -> list[float]:
    """Return for each row the metric plus the row's influence on it. The mean of these values is the metric; their variance divided by n
    is the variance of the metric.

    The influence on a mean comes from its derivative (delta method); that on another statistic from leaving the row out (jackknife, Tukey
    1958).
    """
    if run.statistic != "mean":
        return leave_each_out(run)
    weights = run.weights or [1.0] * len(run.values)
    total = sum(weights) or 1.0
    inner_mean = sum(value * weight for value, weight in zip(run.values, weights, strict=True)) / total
    metric = run.mean()
    slope = math.exp(min(inner_mean, LARGEST)) if run.exponential else 1.0
    scale = len(weights) / total
    return [metric + slope * scale * weight * (value - inner_mean) for value, weight in zip(run.values, weights, strict=True)]


def leave_each_out(run: RowValues) -> list[float]:
    """Return for each row the metric plus the row's influence: n - 1 times the decrease of the metric when the row is left out.

    If the metric is not defined without a row (the only one of its label), the influence of this row is 0.
    """
    import numpy as np

    count, metric = len(run.values), run.mean()
    size = max(1, AT_ONCE // count)
    parts = []
    for start in range(0, count, size):
        counts = np.ones((min(size, count - start), count))
        counts[np.arange(len(counts)), np.arange(start, start + len(counts))] = 0.0
        parts.append(run.compute(counts))
    reduced_metrics = np.concatenate(parts)
    influences = np.nan_to_num((count - 1) * (metric - reduced_metrics))
    return (metric + influences - influences.mean()).tolist()


def measure_residual(table: Sequence[Sequence[float]]) -> float:
    """Return the residual part of the variance of a point's mean: the variance that neither the seed nor the row explains, divided by seeds
    times rows."""
    seeds, rows = len(table), len(table[0])
    if seeds == 1:
        return 0.0
    row_means, seed_means = [mean(column) for column in zip(*table, strict=True)], [mean(line) for line in table]
    overall_mean = mean(seed_means)
    squares = sum(
        (value - seed_means[at] - column + overall_mean) ** 2
        for at, line in enumerate(table)
        for value, column in zip(line, row_means, strict=True)
    )
    return squares / ((seeds - 1) * (rows - 1)) / (seeds * rows)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Return the variance of a sample of two or more values."""
    center = mean(values)
    return sum((value - center) ** 2 for value in values) / (len(values) - 1)


@lru_cache
def find_student_quantile(freedom: int, level: float) -> float:
    """Return the t with P(|T| ≤ t) = `level`, where T has Student's distribution with `freedom` degrees of freedom."""
    low, high = 0.0, 1.0
    while student_probability(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if student_probability(middle, freedom) > level else (middle, high)
    return high
