"""What the trial of the packed layout sees: faults small and hidden, and what it must not take for a fault."""

import pytest
import torch
import torch.nn.functional as F
from small_models import FAMILIES, made, widen
from tiny_families import build
from transformers.models.llama.modeling_llama import LlamaMLP

from lexalign.fast_path import attention, exactness, logit_map, trial
from lexalign.fast_path.forward import install_forward

LONG_WINDOW = {"sliding_window": 4096, "max_position_embeddings": 8192}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fault_of_a_twentieth_of_a_nat_is_seen_in_every_type(dtype, monkeypatch):
    """Attention that is a little too sharp: 0.03 to 0.08 nats a token, less than bfloat16 rounds away in a large model."""
    model, right = made("llama_untied"), attention.attend

    def sharper(module, query, key, value, mask, layout=None, scaling=None, **more):
        return right(module, query, key, value, mask, layout=layout, scaling=None if layout is None else scaling * 1.01, **more)

    batch = exactness.make_trial_pairs(model, 20)
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, sharper)
    install_forward(model, packed=True, alike=2)
    found = model(input_ids=batch[0], attention_mask=batch[1], labels=batch[2], fused_lm_head=True).log_probs
    assert 0.01 < float((found - trial.score_own(made("llama_untied"), batch)).abs().max()) < 0.1
    assert "differs by" in exactness.find_padding_reason(made("llama_untied").to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_narrow_weights_are_tried_in_float32_and_come_back_to_the_bit(family, dtype):
    model = made(family).to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert exactness.find_padding_reason(model) is None
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_backward_that_is_wrong_is_seen(monkeypatch):
    """The forward is right: only the gradient of the values is lost."""
    right = attention.attend

    def forgetful(module, query, key, value, mask, **more):
        return right(module, query, key, value.detach(), mask, **more)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, forgetful)
    assert "the gradient differs by" in exactness.find_padding_reason(made("llama_tied"))


def test_dropout_in_a_function_is_seen(monkeypatch):
    model, right = made("llama_tied"), LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: F.dropout(right(self, x), 0.1, training=self.training))
    assert exactness.find_dropout(model) is None
    assert "draws random numbers in training" in exactness.find_padding_reason(model)


@pytest.mark.parametrize("error", [AssertionError, KeyError, IndexError, RuntimeError, TypeError])
def test_a_forward_that_does_not_take_the_layout_is_padded(error, monkeypatch):
    def failing(*_, layout=None, **__):
        raise error("no layouts here.")

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, failing)
    reason = exactness.find_padding_reason(made("llama_tied"))
    assert reason.startswith(f"its forward does not take the layout ({error.__name__}: ") and "no layouts here" in reason


@pytest.mark.parametrize("told", ["softcap", "s_aux"])
def test_an_attention_that_asks_for_more_is_padded(told, monkeypatch):
    right = attention.attend
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, lambda *a, **k: right(*a, **{**k, told: 1.0}))
    assert f"its attention asks for {told}" in exactness.find_padding_reason(made("llama_tied"))


@pytest.mark.parametrize(("family", "reason"), [("mistral", None), ("qwen2_moe", None), ("gemma3_text", None), ("phimoe", "differs by")])
def test_a_window_longer_than_the_trial_is_made_short(family, reason):
    model = build(family, **LONG_WINDOW)
    holders = [module for module in model.modules() if getattr(module, "sliding_window", None) is not None]
    found = exactness.find_padding_reason(model)
    assert found is None if reason is None else reason in found
    assert model.config.sliding_window == 4096 and all(module.sliding_window == 4096 for module in holders)


def test_a_window_that_nothing_heeds_is_said():
    model = made("llama_tied")
    model.config.sliding_window = 1500
    assert "its window of 1500 tokens could not be tried" in exactness.find_padding_reason(model)


def test_a_head_with_a_layer_of_its_own_is_left_to_the_model():
    """RoBERTa as a decoder: a dense layer, a nonlinearity and a norm stand before its output embeddings."""
    model = build("roberta", is_decoder=True, max_position_embeddings=600)
    assert logit_map.get_logit_map(model) is None
    batch = trial.make_pairs(model, prompts=(9, 4), responses=(7, 3, 2, 8))
    wanted, slope = trial.run_with_gradient(model, lambda: trial.score_own(model, batch))
    install_forward(model, packed=False, alike=2)
    named = {"input_ids": batch[0], "attention_mask": batch[1], "labels": batch[2], "fused_lm_head": True}
    found, own_slope = trial.run_with_gradient(model, lambda: model(**named).log_probs)
    assert torch.allclose(found, wanted, atol=1e-5) and torch.allclose(own_slope, slope, atol=1e-5)
    whole = model(**named, positions=torch.tensor([3, 5]), also=7)
    logits = type(model).forward(model, input_ids=batch[0], attention_mask=batch[1]).logits
    assert torch.allclose(whole.logits, torch.stack([logits[0, 3], logits[1, 5]]), atol=1e-5)
    also = logits[:, :-1].log_softmax(-1)[..., 7].masked_fill(~whole.label_mask, 0.0)
    assert torch.allclose(whole.also, also, atol=1e-5)


@pytest.mark.parametrize(("name", "family"), [("logits_soft_cap", "recurrent_gemma"), ("final_logit_softcapping", "gemma3_text")])
def test_a_soft_cap_by_any_name_is_read(name, family):
    model = build(family)
    assert logit_map.get_logit_map(model).cap == getattr(model.config, name) == 5.0


@pytest.mark.parametrize(
    ("rope", "depends"),
    [
        ({"rope_type": "default"}, False),
        ({"rope_type": "linear", "factor": 4.0}, False),
        ({"rope_type": "dynamic", "factor": 4.0}, True),
        ({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32,
          "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}, True),
    ],
)  # fmt: skip
def test_rotary_frequencies_that_follow_the_longest_row_are_said(rope, depends):
    """The reason is there exactly where a row has other numbers beside a longer one."""
    model = build("llama", max_position_embeddings=48, rope_parameters={"rope_theta": 10000.0, **rope})
    widen(model)
    row, other = torch.arange(3, 23)[None], torch.full((1, 60), 9)
    both = torch.cat((F.pad(row, (0, 40)), other))
    mask = torch.ones_like(both)
    mask[0, 20:] = 0
    with torch.no_grad():
        alone, beside = model(row).logits[0], model(both, attention_mask=mask).logits[0, :20]
    reason = exactness.find_length_dependence(model)
    assert bool(reason) == depends == (not torch.allclose(alone, beside, atol=1e-4))
    assert reason is None or f"rope_type={rope['rope_type']}" in reason
    assert (
        exactness.find_length_dependence(model, longest=32) is None and bool(exactness.find_length_dependence(model, longest=60)) == depends
    )
