"""Our losses against numbers worked out by hand, and against their own gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalign import losses

SHARES = torch.tensor([[0.5, 0.3, 0.2, 0, 0, 0]], dtype=torch.float64)
TOKENS = torch.tensor([3, 1, 4, 0, 5, 9])


def test_calibration_of_uniform_logits():
    loss = losses.calibration_loss(torch.zeros(1, 10), TOKENS, SHARES)
    assert loss.item() == pytest.approx(1.27293, abs=5e-6)


def test_calibration_is_not_renormalised_over_the_beliefs():
    renormalised = losses.calibration_loss(torch.zeros(1, 6), torch.arange(6), SHARES)
    assert renormalised.item() == pytest.approx(0.76211, abs=5e-6)


def test_a_policy_that_has_the_shares_is_calibrated():
    shares = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    logits = torch.full((1, 10), -math.inf, dtype=torch.float64)
    logits[0, TOKENS[:3]] = shares[0].log()
    assert losses.calibration_loss(logits, TOKENS[:3], shares).item() == pytest.approx(0, abs=1e-6)
    # Mass on a token that begins no belief costs, as much as it takes away from them.
    logits[0, 7] = 0.0
    assert losses.calibration_loss(logits, TOKENS[:3], shares).item() == pytest.approx(math.log(2), abs=1e-6)


def test_a_share_of_zero_contributes_nothing():
    logits = torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    some = losses.calibration_loss(logits, TOKENS[:3], SHARES[:, :3])
    assert losses.calibration_loss(logits, TOKENS, SHARES) == pytest.approx(some)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.calibration_loss(logits, TOKENS, SHARES).sum(), logits)
    assert gradient.isfinite().all()


def test_the_gradient_of_calibration_is_policy_minus_shares():
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(1), requires_grad=True)
    shares = SHARES.float().repeat(4, 1)
    (gradient,) = torch.autograd.grad(losses.calibration_loss(logits, TOKENS, shares).sum(), logits)
    expected = logits.softmax(-1).detach()
    expected[:, TOKENS] -= shares
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_calibration_of_half_precision_logits_is_computed_in_full():
    logits = torch.randn(2, 10, generator=torch.Generator().manual_seed(2)).bfloat16()
    loss = losses.calibration_loss(logits, TOKENS, SHARES.float())
    assert loss.dtype == torch.float32 and loss.shape == (2,)
    assert torch.allclose(loss, losses.calibration_loss(logits.float(), TOKENS, SHARES.float()))


def test_dpo_loss_and_its_gradient():
    h = torch.tensor([2.0, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    loss = losses.dpo_loss(h, beta=0.1)
    assert loss.tolist() == pytest.approx([0.59814, 0.69315, 0.79814], abs=5e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), h)
    assert gradient.tolist() == pytest.approx([-0.04502, -0.05, -0.05498], abs=5e-6)


def test_dpo_loss_neither_overflows_nor_vanishes():
    assert losses.dpo_loss(torch.tensor([1e4, -1e4]), beta=1.0).tolist() == [0.0, 1e4]


def test_preference_logits_compare_with_the_reference():
    scores = [torch.tensor([value]) for value in (-1.0, -4.0, -2.0, -3.0)]
    assert losses.preference_logits(*scores).tolist() == [2.0]
    chosen, rejected, *reference = scores
    assert losses.preference_logits(*reference, *reference).tolist() == [0.0]
    assert losses.preference_logits(rejected, chosen, reference[1], reference[0]).tolist() == [-2.0]


NUMBERS = st.floats(-5, 5)
WEIGHTS = st.floats(0, 3)


@settings(deadline=None)
@given(terms=st.tuples(NUMBERS, NUMBERS, NUMBERS), a=st.tuples(WEIGHTS, WEIGHTS, WEIGHTS), b=st.tuples(WEIGHTS, WEIGHTS, WEIGHTS))
def test_the_weights_combine_the_terms_linearly(terms, a, b):
    def loss(weights: tuple[float, ...]) -> float:
        named = dict(zip(("calibration_weight", "belief_weight", "preference_weight"), weights, strict=True))
        return losses.gdpo_loss(*(torch.tensor([term], dtype=torch.float64) for term in terms), **named).item()

    assert loss(a) == pytest.approx(a[0] * terms[0] - a[1] * terms[1] + a[2] * terms[2])
    assert loss(tuple(x + y for x, y in zip(a, b, strict=True))) == pytest.approx(loss(a) + loss(b), abs=1e-9)


def test_an_ablation_is_a_weight_of_zero():
    calibration, belief, preference = torch.tensor([1.0]), torch.tensor([-2.0]), torch.tensor([4.0])

    def loss(c: float, b: float, p: float) -> float:
        return losses.gdpo_loss(calibration, belief, preference, calibration_weight=c, belief_weight=b, preference_weight=p).item()

    assert (loss(1, 1, 1), loss(1, 1, 0), loss(0, 0, 1)) == (7.0, 3.0, 4.0)


@pytest.mark.parametrize("name", ["calibration", "dpo", "whole"])
def test_gradients_against_finite_differences(name):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    def calibration(logits: torch.Tensor) -> torch.Tensor:
        # As calibration_loss, whose .float() finite differences could not see through.
        log_probs = logits.log_softmax(-1)[:, TOKENS]
        return (torch.xlogy(SHARES, SHARES) - SHARES * log_probs).sum(-1)

    if name == "calibration":
        logits = draw(3, 10)
        assert torch.autograd.gradcheck(calibration, (logits,))
        assert torch.allclose(losses.calibration_loss(logits, TOKENS, SHARES).double(), calibration(logits), atol=1e-6)
    elif name == "dpo":
        scores = [draw(4) for _ in range(4)]
        assert torch.autograd.gradcheck(lambda *s: losses.dpo_loss(losses.preference_logits(*s), beta=0.3), scores)
    else:
        weights = {"calibration_weight": 0.5, "belief_weight": 2.0, "preference_weight": 1.5}
        assert torch.autograd.gradcheck(lambda *terms: losses.gdpo_loss(*terms, **weights), [draw(4) for _ in range(3)])


H = torch.tensor([2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "label", "value", "slope"),
    [
        (losses.geometric_loss, 1.0, 0.59814, -0.04502),
        (losses.geometric_loss, 0.75, 0.64440, -0.02375),
        (losses.geometric_loss, 0.5, 0.69315, 0.0),
        (losses.conservative_loss, 0.75, 0.64814, -0.02002),
    ],
)
def test_soft_labels_have_the_known_losses_and_slopes(loss, label, value, slope):
    h = H.clone().requires_grad_()
    found = loss(h, torch.tensor([label], dtype=torch.float64), beta=0.1)
    (gradient,) = torch.autograd.grad(found.sum(), h)
    assert found.item() == pytest.approx(value, abs=5e-6) and gradient.item() == pytest.approx(slope, abs=5e-6)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(0.01, 2))
def test_a_certain_label_is_dpo_to_the_bit(logits, beta):
    h, certain = torch.tensor(logits), torch.ones(len(logits))
    wanted = losses.dpo_loss(h, beta=beta)
    assert torch.equal(losses.geometric_loss(h, certain, beta=beta), wanted)
    assert torch.equal(losses.conservative_loss(h, certain, beta=beta), wanted)


@given(st.floats(-50, 50), st.floats(0, 1))
def test_the_other_label_of_the_other_pair_is_the_same_pair(logit, label):
    h, p = torch.tensor([logit], dtype=torch.float64), torch.tensor([label], dtype=torch.float64)
    for loss in (losses.geometric_loss, losses.conservative_loss):
        assert torch.allclose(loss(h, p, beta=0.3), loss(-h, 1 - p, beta=0.3), atol=1e-9)


def test_the_conservative_loss_is_least_where_the_preference_is_the_label():
    label = torch.tensor([0.8], dtype=torch.float64)
    h = torch.logit(label).div(0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.conservative_loss(h, label, beta=0.1).sum(), h)
    assert gradient.item() == pytest.approx(0, abs=1e-12)
