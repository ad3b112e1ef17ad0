"""Casts of mixed precision that are kept: whose, for how long, and when they are made anew."""

import gc

import torch

from lexalign.fast_path import casts

LOW = torch.bfloat16


def test_a_frozen_weights_cast_is_made_once_and_follows_the_weight():
    weight = torch.nn.Parameter(torch.randn(4, 3), requires_grad=False)
    with torch.inference_mode():
        first = casts.cast_weight(weight, LOW)
    assert casts.cast_weight(weight, LOW) is first and not first.is_inference() and torch.equal(first, weight.to(LOW))
    weight.mul_(2)
    second = casts.cast_weight(weight, LOW)
    assert second is not first and torch.equal(second, weight.to(LOW))
    weight.data = torch.randn(4, 3)
    assert torch.equal(casts.cast_weight(weight, LOW), weight.to(LOW))
    assert torch.equal(casts.cast_weight(weight, torch.float16), weight.to(torch.float16))
    kept = len(casts._weights)
    del weight
    gc.collect()
    assert len(casts._weights) == kept - 1, "a cast outlives its weight"


def test_a_trained_weights_cast_is_not_kept():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    assert casts.cast_weight(weight, LOW) is not casts.cast_weight(weight, LOW)
    assert casts.cast_weight(weight, torch.float32) is weight


def test_an_activations_cast_is_shared_until_it_changes():
    x, other = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 3)
    first = casts.cast_activation(x, LOW)
    assert first.shape == (10, 3) and not first.requires_grad and torch.equal(first, x.detach().to(LOW).view(10, 3))
    assert casts.cast_activation(x, LOW) is first
    assert torch.equal(casts.cast_activation(other, LOW), other.to(LOW).view(10, 3))
    assert casts.cast_activation(x, LOW) is not first
    last = casts.cast_activation(other, LOW)
    other.add_(1)
    assert casts.cast_activation(other, LOW) is not last
    with torch.inference_mode():
        given = torch.randn(5, 3)
        assert torch.equal(casts.cast_activation(given, LOW), given.to(LOW))
