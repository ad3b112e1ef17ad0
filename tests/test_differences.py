"""Points with seeds held against each other: the interval covers the seeds and the rows, and says so where it cannot."""

import math
import random
from collections.abc import Callable

import pytest

from lexalign.evaluation.differences import find_student_quantile, list_influences, measure_difference
from lexalign.evaluation.intervals import RowValues, bootstrap_interval, student_quantile

SEED_SPREAD, ROW_SPREAD, NOISE = 0.05, 0.4, 0.2


def draw_points(chance: random.Random, seeds: tuple[int, int], rows: int, gap: float) -> list[list[RowValues]]:
    """Two points, `gap` apart, of runs whose scores have a part of the seed, one of the row, one of the point on the row, and noise."""
    difficulty = [chance.gauss(0, ROW_SPREAD) for _ in range(rows)]
    points = []
    for side, count in enumerate(seeds):
        taste = [chance.gauss(0, NOISE / 2) for _ in range(rows)]
        runs = []
        for _ in range(count):
            shift = side * gap + chance.gauss(0, SEED_SPREAD)
            runs.append(RowValues(values=[d + t + shift + chance.gauss(0, NOISE) for d, t in zip(difficulty, taste, strict=True)]))
        points.append(runs)
    return points


def count_covered(draw: Callable[[random.Random], list[list[RowValues]]], truth: float, times: int = 400) -> float:
    """Share of drawings whose interval holds the truth."""
    chance = random.Random(3)
    covered = 0
    for _ in range(times):
        found = measure_difference(*draw(chance))
        covered += found.low <= truth <= found.high
    return covered / times


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 3), (1, 4)])
def test_the_interval_over_seeds_and_rows_covers_the_truth(seeds):
    assert 0.90 <= count_covered(lambda chance: draw_points(chance, seeds, 40, 0.1), 0.1) <= 0.99


def test_an_interval_over_rows_only_does_not_cover_a_method():
    """One seed each: the interval is about these two models. It is marked so, and as a statement on the method it would often be wrong."""

    def draw(chance: random.Random) -> list[list[RowValues]]:
        return draw_points(chance, (1, 1), 200, 0.0)

    chance = random.Random(0)
    assert not measure_difference(*draw(chance)).covers_seeds
    assert count_covered(draw, 0.0, times=100) < 0.8


def test_binary_rows_are_covered_too():
    def draw(chance: random.Random) -> list[list[RowValues]]:
        difficulty = [chance.gauss(0, 1) for _ in range(60)]
        return [
            [
                RowValues(values=[float(chance.random() < 1 / (1 + math.exp(-d - shift))) for d in difficulty])
                for shift in (chance.gauss(0, 0.2) for _ in range(3))
            ]
            for _ in range(2)
        ]

    assert 0.90 <= count_covered(draw, 0.0) <= 1.0


def test_a_large_difference_is_seen_with_few_seeds():
    first, second = draw_points(random.Random(1), (3, 3), 80, 0.5)
    found = measure_difference(first, second)
    assert found.covers_seeds and 0 < found.low < found.value < found.high


def test_runs_that_are_the_same_differ_by_nothing():
    runs = [RowValues(values=[0.5, 0.5, 0.5])] * 2
    found = measure_difference(runs, runs)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_influences_of_a_perplexity_give_the_interval_that_the_bootstrap_gives():
    chance = random.Random(2)
    losses = [chance.gauss(1.5, 0.3) for _ in range(400)]
    run = RowValues(values=losses, weights=[chance.choice((5.0, 20.0)) for _ in losses], exponential=True)
    influences = list_influences(run)
    middle = sum(influences) / len(influences)
    error = math.sqrt(sum((x - middle) ** 2 for x in influences) / len(influences)) / math.sqrt(len(influences))
    low, high = bootstrap_interval(run)
    assert middle == pytest.approx(run.mean())
    assert 2 * 1.96 * error == pytest.approx(high - low, rel=0.15)


def test_influences_on_an_auc_give_the_interval_that_the_bootstrap_gives():
    chance = random.Random(4)
    labels = [chance.random() < 0.4 for _ in range(200)]
    run = RowValues(values=[chance.gauss(0.7 * label, 1) for label in labels], labels=labels, statistic="auc")
    influences = list_influences(run)
    middle = sum(influences) / len(influences)
    error = math.sqrt(sum((x - middle) ** 2 for x in influences) / len(influences)) / math.sqrt(len(influences))
    low, high = bootstrap_interval(run)
    assert middle == pytest.approx(run.mean()) and 2 * 1.96 * error == pytest.approx(high - low, rel=0.15)


def test_a_row_that_is_the_only_one_of_its_label_does_not_break_it():
    run = RowValues(values=[1.0, 0.0, 0.5], labels=[True, False, False], statistic="difference")
    assert all(math.isfinite(value) for value in list_influences(run))


def test_the_quantile_is_students():
    assert find_student_quantile(4, 0.95) == pytest.approx(student_quantile(4), abs=1e-6)
    assert find_student_quantile(1, 0.99) == pytest.approx(63.657, abs=1e-3)
