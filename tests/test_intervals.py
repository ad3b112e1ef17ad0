"""Intervals by simulation: what is printed as 95 % holds the truth 90 to 98 times in 100, for every form a metric of the evaluation has."""

import math
import random

import pytest

from lexalign.evaluation import metrics
from lexalign.evaluation.intervals import RowValues, bootstrap_difference, bootstrap_interval, newcombe_interval, wilson_interval
from lexalign.evaluation.unpaired import measure_labels

TRIALS = 200


def share(p, rows=60):
    """exact_match, label_accuracy, sample_cut: rows right or wrong."""
    return lambda chance: RowValues(values=[float(chance.random() < p) for _ in range(rows)])


def accuracy_with_ties(chance):
    """reward_accuracy: a tie counts one half."""
    return RowValues(values=metrics.reward_accuracies([max(-1, min(1, chance.randrange(-3, 6))) for _ in range(80)]))


def plain(chance):
    """reward_margin, majority_bias, sample_length, reward: a mean."""
    return RowValues(values=[chance.gauss(0.3, 2.0) for _ in range(60)])


def skewed(chance):
    """belief_jsd, soft_label_error: a mean of what cannot be negative."""
    return RowValues(values=[chance.expovariate(2.0) for _ in range(80)])


def by_tokens(exponential):
    """loss, kl, perplexity: long rows weigh more, and are easier here."""

    def draw(chance):
        tokens = [float(chance.randrange(1, 40)) for _ in range(80)]
        return RowValues(values=[chance.gauss(2.0 - size / 40, 0.5) for size in tokens], weights=tokens, exponential=exponential)

    return draw


def labelled(name, desirable, undesirable, share=0.5, rows=160, spread=1.0):
    """label_auc, label_margin: rewards of rows of both labels; those of undesirable rows may be spread more."""

    def draw(chance):
        labels = [at < share * rows for at in range(rows)]
        rewards = [chance.gauss(desirable, 1) if label else chance.gauss(undesirable, spread) for label in labels]
        return measure_labels(rewards, labels)[name]

    return draw


MEAN_LOSS = 2.0 - (sum(n * n for n in range(1, 40)) / sum(range(1, 40))) / 40


def area(gap, spread=1.0):
    """The area under the curve of two normal distributions."""
    return 0.5 * (1 + math.erf(gap / math.sqrt(2 * (1 + spread**2))))


AUC = area(0.5)
FORMS = {
    "share": (share(0.7), 0.7), "high share": (share(0.97), 0.97), "low share": (share(0.02), 0.02),
    "accuracy with ties": (accuracy_with_ties, (5 + 0.5) / 9), "mean": (plain, 0.3), "skewed mean": (skewed, 0.5),
    "loss": (by_tokens(False), MEAN_LOSS), "perplexity": (by_tokens(True), math.exp(MEAN_LOSS)),
    "auc": (labelled("label_auc", 0.5, 0.0), AUC), "auc of few": (labelled("label_auc", 0.5, 0.0, share=0.2), AUC),
    "auc below zero": (labelled("label_auc", -4.5, -5.0), AUC), "auc of a guess": (labelled("label_auc", 0.0, 0.0), 0.5),
    "high auc": (labelled("label_auc", 2.5, 0.0), area(2.5)), "high auc of few rows": (labelled("label_auc", 2.5, 0.0, rows=60), area(2.5)),
    "very high auc": (labelled("label_auc", 3.0, 0.0), area(3.0)), "low auc": (labelled("label_auc", 0.0, 2.5), area(-2.5)),
    "auc of unequal spreads": (labelled("label_auc", 2.0, 0.0, spread=3.0), area(2.0, 3.0)),
    "high auc of unequal spreads": (labelled("label_auc", 5.0, 0.0, spread=2.5), area(5.0, 2.5)),
    "margin": (labelled("label_margin", 0.5, 0.0), 0.5), "margin below zero": (labelled("label_margin", -4.5, -5.0), 0.5),
    "margin of few": (labelled("label_margin", -4.5, -5.0, share=0.2), 0.5),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_interval_holds_the_truth_as_often_as_it_says(form):
    draw, truth = FORMS[form]
    chance, held = random.Random(f"one {form}"), 0
    for _ in range(TRIALS):
        low, high = bootstrap_interval(draw(chance))
        held += low <= truth <= high
    assert 0.90 <= held / TRIALS <= 0.985, held / TRIALS


@pytest.mark.parametrize("form", ["share", "mean", "loss", "auc", "auc below zero", "margin below zero"])
def test_two_equal_models_are_found_equal_as_often_as_that(form):
    """Two models measured on the same rows, each with noise of its own."""
    draw, _ = FORMS[form]
    chance, held = random.Random(f"two {form}"), 0
    for _ in range(TRIALS):
        _, low, high = bootstrap_difference(draw(chance), draw(chance))
        held += low <= 0 <= high
    assert 0.90 <= held / TRIALS <= 0.985, held / TRIALS


def test_the_interval_of_a_margin_is_as_wide_as_its_standard_error_says():
    """Whatever the level of the rewards: it was five times as wide where all are far below zero."""
    for level in (0.0, -5.0, 100.0):
        low, high = bootstrap_interval(labelled("label_margin", level + 0.5, level)(random.Random(3)))
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2 / 80), rel=0.15)


def test_auc_is_the_share_of_pairs_in_order():
    rewards, labels = [0.5, 0.1, 0.1, -0.4, 0.5], [True, True, False, False, False]
    pairs = [
        (a, b) for a, label in zip(rewards, labels, strict=True) if label for b, other in zip(rewards, labels, strict=True) if not other
    ]
    wanted = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert measure_labels(rewards, labels)["label_auc"].mean() == pytest.approx(wanted)


def test_wilsons_interval_has_his_numbers():
    """81 of 263 and 0 of 20: Newcombe (1998), Statistics in Medicine 17, table I."""
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    low, high = bootstrap_interval(RowValues(values=[1.0] * 20))
    assert low == pytest.approx(1 - 0.1611, abs=1e-4) and high == pytest.approx(1.0)


def test_newcombes_interval_is_no_point_where_all_pairs_are_in_order():
    low, high = newcombe_interval(1.0, 20, 20)
    assert 0.8 < low < 0.95 and high == pytest.approx(1.0)
    assert newcombe_interval(0.0, 20, 20) == pytest.approx((1 - high, 1 - low))
