"""The one-pass head against the plain softmax: values, gradients, every tile boundary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalign.fast_path import lm_head as head
from lexalign.fast_path.lm_head import LogitMap

MAPS = {"plain": LogitMap(), "scaled": LogitMap(scale=0.3), "capped": LogitMap(cap=2.0), "both": LogitMap(scale=1.7, cap=3.0)}


def reference(hidden, targets, lm_head, logit_map):
    """Whole logits and autograd, in float64."""
    logits = logit_map(torch.nn.functional.linear(hidden, lm_head.weight, lm_head.bias))
    log_probs = logits.log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, targets[:, None])[:, 0], entropy, logits.mean(-1), logits.argmax(-1) == targets


def problem(seed, positions, vocabulary, size, bias):
    generator = torch.Generator().manual_seed(seed)
    lm_head = torch.nn.Linear(size, vocabulary, bias=bias).requires_grad_(False)
    lm_head.weight.copy_(torch.randn(vocabulary, size, generator=generator))
    hidden = torch.randn(positions, size, generator=generator)
    return hidden, torch.randint(vocabulary, (positions,), generator=generator), lm_head, torch.randn(positions, generator=generator)


@pytest.mark.parametrize("name", MAPS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    positions=st.integers(0, 9),
    vocabulary=st.integers(2, 40),
    size=st.integers(1, 6),
    bias=st.booleans(),
    tile=st.integers(1, 400),
    rows=st.integers(1, 5),
)
def test_one_pass_equals_the_softmax(name, seed, positions, vocabulary, size, bias, tile, rows):
    hidden, targets, lm_head, weights = problem(seed, positions, vocabulary, size, bias)
    exact = hidden.double().requires_grad_()
    wanted = reference(exact, targets, lm_head.double(), MAPS[name])
    lm_head.float()
    given_hidden = hidden.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "TILE", tile)
        patch.setattr(head, "TOKENS", rows)
        found = head.score_targets(given_hidden, targets, lm_head, MAPS[name], details=True)
    for ours, theirs in zip((found.log_probs, found.entropy, found.mean_logits), wanted, strict=False):
        assert torch.allclose(ours.double(), theirs.detach(), atol=2e-5, rtol=1e-5)
    assert (found.is_top1 == wanted[3]).all()
    if positions:
        (ours,) = torch.autograd.grad((found.log_probs * weights).sum(), given_hidden)
        (theirs,) = torch.autograd.grad((wanted[0] * weights).sum(), exact)
        assert torch.allclose(ours.double(), theirs, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MAPS)
def test_a_trained_head_takes_the_general_path_and_gets_its_own_gradient(name, monkeypatch):
    monkeypatch.setattr(head, "TILE", 64)
    hidden, targets, lm_head, weights = problem(0, 11, 17, 5, True)
    lm_head.requires_grad_()
    assert not head.is_frozen(lm_head)
    given_hidden = hidden.clone().requires_grad_()
    found = head.score_targets(given_hidden, targets, lm_head, MAPS[name], details=True)
    inputs = [given_hidden, lm_head.weight, lm_head.bias]
    ours = torch.autograd.grad((found.log_probs * weights).sum(), inputs)
    wanted = reference(given_hidden, targets, lm_head, MAPS[name])
    theirs = torch.autograd.grad((wanted[0] * weights).sum(), inputs)
    assert torch.allclose(found.log_probs, wanted[0], atol=1e-5) and torch.allclose(found.entropy, wanted[1], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_the_whole_logits_are_never_held(monkeypatch):
    """The largest tensor the one-pass head makes is a tile, whatever positions x vocabulary is."""
    monkeypatch.setattr(head, "TILE", 4096)
    hidden, targets, lm_head, _ = problem(0, 300, 5000, 8, False)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor))
            return out

    with Watch():
        head.score_targets(hidden.requires_grad_(), targets, lm_head, LogitMap(), details=True)
    biggest_input = lm_head.weight.numel()
    assert max(size for size in seen if size != biggest_input) <= 4096 + 5000


def test_no_gradient_means_no_jacobian():
    hidden, targets, lm_head, _ = problem(0, 4, 9, 3, False)
    with torch.no_grad():
        assert not head.score_targets(hidden, targets, lm_head, LogitMap()).log_probs.requires_grad
