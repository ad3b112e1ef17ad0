"""Two adapters, the second trained on weights with the first merged in, are one adapter on the original base: exactly."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lexalign.artifacts import files
from lexalign.config.schema import Adapter
from lexalign.errors import ConfigError
from lexalign.models import adapters

ATTENTION, EVERYTHING = ["q_proj", "v_proj"], "all-linear"
LORA = Adapter(kind="lora", rank=4, alpha=8.0, dropout=0.0, target_modules="auto", bits=None)


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape)).eval()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.arange(20).reshape(2, 10)


def adapted(model: torch.nn.Module, seed: int, **settings: Any) -> PeftModel:
    """A copy of the model under a LoRA whose both halves are random, so that it changes something."""
    found = get_peft_model(copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ATTENTION, **settings}))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in found.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return found.eval()


@torch.no_grad()
def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"r": 4, "lora_alpha": 8, "target_modules": EVERYTHING}, {"r": 4, "lora_alpha": 8, "target_modules": EVERYTHING}),
        ({"r": 4, "lora_alpha": 8, "target_modules": EVERYTHING}, {"r": 2, "lora_alpha": 32, "target_modules": EVERYTHING}),
        ({"r": 3, "lora_alpha": 1, "target_modules": ATTENTION}, {"r": 5, "lora_alpha": 7, "target_modules": ["v_proj", "down_proj"]}),
        ({"r": 1, "lora_alpha": 2, "target_modules": EVERYTHING}, {"r": 8, "lora_alpha": 8, "target_modules": ATTENTION}),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, {"r": 4, "lora_alpha": 8}),
        ({"r": 4, "lora_alpha": 8}, {"r": 4, "lora_alpha": 8, "use_rslora": True}),
    ],
)
def test_stacking_is_exact(first, second, base, ids, tmp_path):
    one = adapted(base, 1, **first)
    one.save_pretrained(tmp_path / "one")
    two = adapted(copy.deepcopy(one).merge_and_unload(), 2, **second)
    two.save_pretrained(tmp_path / "two")
    expected = logits(two, ids)
    assert (expected - logits(one, ids)).abs().max() > 0.01 < (logits(one, ids) - logits(base, ids)).abs().max()

    adapters.stack_adapters(tmp_path / "one", tmp_path / "two")

    stacked = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "two").eval()
    assert torch.allclose(logits(stacked, ids), expected, atol=1e-5)
    assert torch.allclose(logits(stacked.merge_and_unload(), ids), expected, atol=1e-5)
    config = adapters.read_adapter_config(tmp_path / "two")
    assert config["r"] == config["lora_alpha"] == first["r"] + second["r"] and config["use_rslora"] is False


def test_three_in_a_row(base, ids, tmp_path):
    """A run from a run from a run: what was stacked is stacked again."""
    model = base
    for step in range(3):
        on_top = adapted(model, step, r=2 + step, lora_alpha=4, target_modules=ATTENTION)
        on_top.save_pretrained(tmp_path / str(step))
        if step:
            adapters.stack_adapters(tmp_path / str(step - 1), tmp_path / str(step))
        model = copy.deepcopy(on_top).merge_and_unload()
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "2").eval()
    assert torch.allclose(logits(loaded, ids), logits(model, ids), atol=1e-5)


def test_the_stacked_adapter_names_the_first_ones_base(base, tmp_path):
    for name in ("one", "two"):
        adapted(base, 1, r=2, lora_alpha=2, target_modules=ATTENTION).save_pretrained(tmp_path / name)
    config = adapters.read_adapter_config(tmp_path / "one")
    (tmp_path / "one" / files.ADAPTER_CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "a/base", "revision": "abc"}))
    adapters.stack_adapters(tmp_path / "one", tmp_path / "two")
    assert {key: adapters.read_adapter_config(tmp_path / "two")[key] for key in ("base_model_name_or_path", "revision")} == {
        "base_model_name_or_path": "a/base",
        "revision": "abc",
    }


def saved(base: LlamaForCausalLM, folder: Path, **config: Any) -> Path:
    """An adapter on the disk whose description says something else as well."""
    adapted(base, 1, r=2, lora_alpha=2, target_modules=ATTENTION).save_pretrained(folder)
    (folder / files.ADAPTER_CONFIG).write_text(json.dumps({**adapters.read_adapter_config(folder), **config}))
    return folder


def test_a_plain_adapter_can_be_stacked(base, tmp_path):
    assert adapters.refuse_unstackable(saved(base, tmp_path / "plain")) is None  # and those below raise


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 3}},
        {"lora_bias": True},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"trainable_token_indices": [1]},
    ],
)
def test_what_is_more_than_an_update_of_low_rank_is_refused(config, base, tmp_path):
    with pytest.raises(ConfigError, match=f"the adapter uses .*{next(iter(config))}.*merge it first with stage=export"):
        adapters.refuse_unstackable(saved(base, tmp_path / "odd", **config))


def test_weights_that_are_no_lora_or_no_safetensors_are_refused(base, tmp_path):
    folder = saved(base, tmp_path / "odd")
    weights = load_file(folder / adapters.WEIGHTS)
    save_file({**weights, "base_model.model.embed.lora_magnitude_vector": torch.zeros(1)}, folder / adapters.WEIGHTS)
    with pytest.raises(ConfigError, match="holds base_model.model.embed.lora_magnitude_vector; merge it"):
        adapters.refuse_unstackable(folder)
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match="holds no adapter_model.safetensors; save the adapter again"):
        adapters.refuse_unstackable(folder)


def test_target_modules_are_held_against_the_model(base):
    everything = {f"model.layers.{i}.{part}_proj" for i in (0, 1) for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                  "mlp.gate", "mlp.up", "mlp.down")}  # fmt: skip
    assert adapters.make_lora_config(LORA, base).target_modules == everything
    named = adapters.make_lora_config(replace(LORA, target_modules=ATTENTION), base).target_modules
    assert named == {name for name in everything if name.endswith(tuple(ATTENTION))}
    with pytest.raises(ConfigError, match="no linear layer 'q_porj'; it has .*; did you mean q_proj?"):
        adapters.make_lora_config(replace(LORA, target_modules=["q_porj"]), base)
    config = adapters.make_lora_config(LORA, base)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8.0, 0.0)
