"""The fused LoRA layer against PEFT's own, and the layers it must leave alone."""

import copy

import pytest
import torch
from small_models import adapted, made, relative

from lexalign.fast_path import fused_lora


def layer_of(model, name="q_proj"):
    return next(module for full, module in model.named_modules() if full.endswith(name))


def both(**settings):
    model = adapted(made("llama_untied"), **settings)
    plain = layer_of(model)
    fused = copy.deepcopy(plain)
    return plain, fused


def grown(layer, x, *, low=False):
    """What a layer that is read twice gives for x, in mixed precision if `low`, and the gradients of x and of the adapter's weights."""
    given = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        out = layer(given) + 2 * layer(given)
    assert out.dtype == (torch.bfloat16 if low else torch.float32)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return [out.detach().float(), given.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]


@pytest.mark.parametrize("shape", [(32,), (5, 32), (2, 3, 32)])
def test_values_and_gradients_equal_pefts(shape):
    plain, fused = both()
    assert fused_lora.fuse_lora(fused) == 1
    torch.manual_seed(0)
    x = torch.randn(*shape)
    found = [grown(layer, x) for layer in (plain, fused)]
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert ours.shape == theirs.shape and relative(ours, theirs) < 1e-6


def test_the_reference_is_the_base():
    plain, fused = both()
    fused_lora.fuse_lora(fused)
    x = torch.randn(3, 32)
    for layer in (plain, fused):
        layer.enable_adapters(False)
    assert torch.equal(fused(x), plain(x)) and torch.equal(fused(x), plain.base_layer(x))


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_other_layers_keep_pefts_forward(settings):
    assert fused_lora.fuse_lora(adapted(made("llama_untied"), **settings)) == 0


def test_mixed_types_without_autocast_are_left_to_peft():
    """A bfloat16 base with a float32 adapter: PEFT computes the update in float32, and so does the fused layer's way out."""
    plain, fused = both()
    fused_lora.fuse_lora(fused)
    x = torch.randn(3, 32, dtype=torch.bfloat16)
    for layer in (plain, fused):
        layer.base_layer.to(torch.bfloat16)
    assert torch.equal(fused(x), plain(x))


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_mixed_precision_is_as_near_to_the_truth_as_pefts(kept):
    """Weights in float32 or bfloat16 under autocast: the fused layer's errors against PEFT's own, on an activation that two layers read."""
    plain, fused = both()
    for layer in (plain, fused):
        layer.base_layer.weight.data = layer.base_layer.weight.data.bfloat16().to(kept)
    fused_lora.fuse_lora(fused)
    oracle = copy.deepcopy(plain)
    oracle.base_layer.float()
    torch.manual_seed(0)
    x = torch.randn(20, 32)
    found = [grown(layer, x, low=layer is not oracle) for layer in (oracle, plain, fused)]
    for true, theirs, ours in zip(*found, strict=True):
        assert relative(ours, true) <= 1.1 * relative(theirs, true) + 1e-3


def test_the_reference_in_mixed_precision_is_pefts():
    plain, fused = both()
    fused_lora.fuse_lora(fused)
    x = torch.randn(3, 32)
    for layer in (plain, fused):
        layer.enable_adapters(False)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fused(x), plain(x)) and fused(x).dtype == torch.bfloat16
