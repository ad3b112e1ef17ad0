"""Which layers get an adapter: those text passes through, and whatever PEFT can adapt where it is named; heads and embeddings too."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, get_peft_model
from small_models import gpt2, made
from tiny_families import build
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from lexalign.config.schema import Adapter
from lexalign.errors import ConfigError
from lexalign.models import adapters, layers

LORA = Adapter(kind="lora", rank=4, alpha=8.0, dropout=0.0, target_modules="auto", bits=None)
IDS = torch.arange(3, 23)[None]


def targets(model, names="auto", **more):
    """Last parts of the names of the layers, and of the weights, that get an adapter."""
    config = adapters.make_lora_config(replace(LORA, target_modules=names, **more), model)
    weights = {".".join(name.split(".")[-2:]) for name in config.target_parameters or ()}
    return {name.rpartition(".")[2] for name in config.target_modules}, weights


def seeing():
    """A model that reads text and images."""
    torch.manual_seed(0)
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    tokens = {"image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62, "mm_tokens_per_image": 4}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **tokens)).eval()


def test_auto_takes_no_part_that_reads_images(caplog):
    model = seeing()
    with caplog.at_level(logging.INFO, logger="lexalign"):
        config = adapters.make_lora_config(LORA, model)
    assert len(config.target_modules) == 14 and all("language_model" in name for name in config.target_modules)
    assert "layers left out that read images or sound" in caplog.text
    wrapped = get_peft_model(model, config)
    wrapped(IDS).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters() if parameter.requires_grad)
    with pytest.raises(ConfigError, match="'fc1' is only in the part of the model that reads images"):
        targets(seeing(), ["fc1"])


@pytest.mark.parametrize("family", ["falcon_mamba", "bamba", "gemma3n_text", "qwen2_moe", "gpt_oss", "phimoe"])
def test_every_layer_that_auto_takes_is_trained(family):
    """No gradient is missing: neither of layers whose weights the model's own code reads, nor of layers that are not used."""
    model = build(family)
    wrapped = get_peft_model(model, adapters.make_lora_config(LORA, model)).train()
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped(torch.randint(3, 64, (4, 40)), use_cache=False).logits.pow(2).sum().backward()
    without = [name for name, p in wrapped.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without


def test_routers_are_taken_where_they_are_named_only():
    modules, weights = targets(build("qwen3_moe"))
    assert modules == {"q_proj", "k_proj", "v_proj", "o_proj"} and weights == {"experts.gate_up_proj", "experts.down_proj"}
    assert targets(build("qwen3_moe"), ["q_proj", "gate"]) == ({"q_proj"}, {"gate.weight"})
    assert targets(build("phimoe"), ["router"]) == (set(), {"router.weight"})
    assert targets(build("qwen3_moe"), ["experts"])[1] == {"experts.gate_up_proj", "experts.down_proj"}


@pytest.mark.parametrize("family", ["qwen3_moe", "phimoe"])
def test_a_router_that_gives_several_values_is_adapted(family):
    model = build(family, router_jitter_noise=0.5)  # with none, PhiMoE's router has no slope
    name = "gate" if family == "qwen3_moe" else "router"
    wrapped = get_peft_model(model, adapters.make_lora_config(replace(LORA, target_modules=[name]), model))
    wrapped(IDS, use_cache=False).logits.pow(2).sum().backward()
    assert any("lora_B" in name and parameter.grad.any() for name, parameter in wrapped.named_parameters() if parameter.requires_grad)


def test_experts_do_not_drop_out(caplog):
    with caplog.at_level(logging.INFO, logger="lexalign"):
        assert targets(build("qwen3_moe"), dropout=0.1)[1] == set()
    assert "6 layers left out of experts, whose adapters cannot drop out" in caplog.text
    with pytest.raises(ConfigError, match="adapter.dropout=0.1: the adapter of 'gate_up_proj'.*type adapter.dropout=0"):
        targets(build("qwen3_moe"), ["gate_up_proj"], dropout=0.1)


def test_layers_whose_weights_are_read_past_an_adapter():
    assert "out_proj" not in targets(build("falcon_mamba"))[0]
    with pytest.raises(ConfigError, match="'out_proj' cannot have an adapter in falcon_mamba"):
        targets(build("falcon_mamba"), ["out_proj"])


def test_a_convolution_of_one_column_is_a_layer():
    """GPT-2's layers are no `Linear`: what auto takes can be named."""
    everything = adapters.make_lora_config(LORA, gpt2())
    named = adapters.make_lora_config(replace(LORA, target_modules=["c_attn", "c_proj", "c_fc"]), gpt2())
    assert everything.target_modules == named.target_modules and everything.fan_in_fan_out
    assert targets(gpt2(), ["c_attn"])[0] == {"c_attn"}


@pytest.mark.parametrize("end", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("family", ["llama_tied", "llama_untied"])
def test_an_adapter_on_one_end_is_merged_into_that_end_alone(family, end, tmp_path):
    base = made(family)
    first = adapt(copy.deepcopy(base), [end, "q_proj"], 1)
    save(first, tmp_path / "first")
    adapters.refuse_unstackable(tmp_path / "first")
    adapters.refuse_other_base(tmp_path / "first", base, "base")
    merged = merge(copy.deepcopy(base), tmp_path / "first")
    with torch.no_grad():
        wanted = first(IDS).logits
        assert (wanted - base(IDS).logits).abs().max() > 0.1 and torch.allclose(merged(IDS).logits, wanted, atol=1e-4)
        second = adapt(copy.deepcopy(merged), [end, "v_proj"], 2)
        wanted = second(IDS).logits
        save(second, tmp_path / "second")
        adapters.stack_adapters(tmp_path / "first", tmp_path / "second")
        assert torch.allclose(merge(copy.deepcopy(base), tmp_path / "second")(IDS).logits, wanted, atol=1e-4)
        plain = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "second").eval()
        assert torch.allclose(plain(IDS).logits, wanted, atol=1e-4)
        merged.save_pretrained(tmp_path / "whole")
        again = type(base).from_pretrained(tmp_path / "whole").eval()
        assert torch.allclose(again(IDS).logits, merged(IDS).logits, atol=1e-5)


def adapt(model, names, seed):
    """The model under an adapter with both halves drawn."""
    wrapped = get_peft_model(model, adapters.make_lora_config(replace(LORA, target_modules=names), model))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return wrapped.eval()


def merge(model, folder):
    """As `load_model` does."""
    adapters.untie_adapted_ends(folder, model)
    return PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).merge_and_unload().eval()


def save(model, folder):
    model.save_pretrained(folder, save_embedding_layers=False)
    adapters.sort_target_modules(folder)


def test_adapters_on_other_weights_of_experts_do_not_stack(tmp_path):
    base = build("qwen3_moe")
    for at, names in enumerate((["gate_up_proj"], ["gate_up_proj", "down_proj"])):
        save(adapt(copy.deepcopy(base), names, at), tmp_path / str(at))
    with pytest.raises(ConfigError, match="is on other weights of experts than its own; name the same, or merge"):
        adapters.stack_adapters(tmp_path / "0", tmp_path / "1")


def test_what_is_found_of_a_model():
    found = layers.find_layers(build("deepseek_v3"))
    assert found.head == "lm_head" and len(found.routers) == 2 and len(found.experts) == 4 and not found.other_inputs
