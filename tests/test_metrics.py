"""The measures against values worked out by hand."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalign.evaluation import metrics

SHARES = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda p: sum(p) > 0.1).map(lambda p: [x / sum(p) for x in p])


def test_exact_match_leaves_white_space_aside():
    assert metrics.exact_matches(["a ", "\nb", "c", "D"], ["a", "b", "x", "d"]) == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="shorter|longer"):
        metrics.exact_matches(["a"], [])


def test_reward_accuracy_counts_a_tie_as_half():
    assert metrics.reward_accuracies([1.0, -1.0, 0.0, 2.0]) == [1, 0, 0.5, 1]


def test_jensen_shannon_distance():
    assert metrics.jensen_shannon_distance([1, 0], [0, 1]) == pytest.approx(math.sqrt(math.log(2)))
    assert metrics.jensen_shannon_distance([0.5, 0.5], [0.5, 0.5]) == 0
    assert metrics.jensen_shannon_distance([0, 1, 0], [0, 1, 5e-324]) == pytest.approx(0, abs=1e-7)
    # The middle is (.35, .3, .35), and both sides are .5 ln(.5/.35) + .2 ln(.2/.35) = .066414 away from it.
    assert metrics.jensen_shannon_distance([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]) == pytest.approx(math.sqrt(0.066414), abs=1e-5)


@given(p=SHARES, q=SHARES, r=SHARES)
def test_jensen_shannon_is_a_distance(p, q, r):
    d = metrics.jensen_shannon_distance
    assert d(p, p) == pytest.approx(0, abs=1e-7) and d(p, q) == pytest.approx(d(q, p))
    assert 0 <= d(p, q) <= math.sqrt(math.log(2)) + 1e-9
    assert d(p, r) <= d(p, q) + d(q, r) + 1e-7


def test_majority_bias():
    assert metrics.majority_bias([0.6, 0.4], [0.6, 0.4]) == 1
    assert metrics.majority_bias([0.9, 0.1], [0.6, 0.4]) == pytest.approx(1.5)
    assert metrics.majority_bias([0.9, 0.1], [0.4, 0.6]) == pytest.approx(1 / 6)


def test_distinct_counts_different_runs_of_tokens():
    """Runs of one: 1 2 1 and 2 3 hold 3 different ones of 5; of two: 12 21 and 23 are all different."""
    assert metrics.distinct([[1, 2, 1], [2, 3]], 1) == pytest.approx(3 / 5)
    assert metrics.distinct([[1, 2, 1], [2, 3]], 2) == 1
    assert metrics.distinct([[1, 1, 1, 1]], 2) == pytest.approx(1 / 3)
    assert metrics.distinct([[], []], 1) == 0


def test_dissimilarity_of_samples():
    assert metrics.dissimilarity([[1, 2], [1, 2], [1, 2]]) == 0 and metrics.dissimilarity([[1], [2]]) == 1
    # {1, 2, 12} and {2, 3, 23} share one of five.
    assert metrics.dissimilarity([[1, 2], [2, 3]]) == pytest.approx(4 / 5)
    assert metrics.dissimilarity([[], []]) == 0 and metrics.dissimilarity([[], [1]]) == 1
    # Two alike and one other: pairs at 0, 1 and 1.
    assert metrics.dissimilarity([[1], [1], [2]]) == pytest.approx(2 / 3)


def test_nearest_belief_goes_by_shared_words():
    known = [(metrics.split_words("Keep the mill."), 0), (metrics.split_words("Tear the old mill down!"), 1)]
    assert metrics.split_words("Tear, the OLD mill") == {"tear", "the", "old", "mill"}
    assert metrics.find_nearest_belief("we should keep our mill", known) == 0
    assert metrics.find_nearest_belief("down with the old", known) == 1
    assert metrics.find_nearest_belief("", known) is None and metrics.find_nearest_belief("zxq wvu", known) is None


def test_shares_counted_from_few_answers_are_far_from_those_they_are_drawn_by():
    """Against a sum over all outcomes: three answers of two beliefs, 0.3 and 0.7."""
    wanted = [math.comb(3, k) * 0.3**k * 0.7 ** (3 - k) for k in range(4)]
    distances = [metrics.jensen_shannon_distance([k / 3, 1 - k / 3], [0.3, 0.7]) for k in range(4)]
    floor, square = metrics.sampling_floor([0.3, 0.7], 3)
    assert floor == pytest.approx(sum(p * d for p, d in zip(wanted, distances, strict=True)), abs=0.02)
    assert square == pytest.approx(sum(p * d * d for p, d in zip(wanted, distances, strict=True)), abs=0.01)
    assert metrics.sampling_floor([0.3, 0.7], 3) == (floor, square) and metrics.sampling_floor([1.0, 0.0], 5) == (0.0, 0.0)


def test_a_model_that_is_right_has_no_excess_where_shares_are_counted_from_three_answers():
    """Its distance is 0.37 or so, which was taken for the score."""
    chance, distances, excesses = random.Random(0), [], []
    for _ in range(300):
        weights = [chance.gammavariate(0.6, 1) for _ in range(6)]
        truth = [weight / sum(weights) for weight in weights]
        drawn = chance.choices(range(6), truth, k=3)
        distance = metrics.jensen_shannon_distance([drawn.count(index) / 3 for index in range(6)], truth)
        distances.append(distance)
        excesses.append(distance**2 - metrics.sampling_floor(truth, 3)[1])
    assert metrics.mean(distances) > 0.3 and abs(metrics.mean(excesses)) < 0.01
