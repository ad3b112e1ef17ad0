"""Tiny models of many families: the fast path is the model's own forward, documents in one row are kept apart or refused, adapters come
back from the disk, experts are balanced; and where something is not exact, the reason is said."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from small_models import gradient, relative
from tiny_families import VOCABULARY, WINDOW, build

from lexalign.config.schema import Adapter
from lexalign.errors import ConfigError
from lexalign.fast_path import exactness, fused_layers, fused_lora
from lexalign.fast_path.forward import install_forward
from lexalign.models import adapters

IGNORED = -100
# Why a family is computed as a padded batch; None where each token is computed once.
LAYOUTS = {
    "llama": None, "qwen2": None, "qwen3": None, "qwen3_moe": None, "mixtral": None, "gemma2": "capped", "gemma3_text": None,
    "gemma3n_text": None, "mistral": None, "phi3": None, "olmo2": None, "gpt2": "not rotary", "gpt_neox": None, "smollm3": None,
    "granite": None, "glm4": None, "gpt_oss": "eager", "deepseek_v3": None, "bamba": "linear_attention", "phimoe": "differs by",
    "qwen2_moe": None,
}  # fmt: skip
MORE_LAYOUTS = {"glm4_moe_lite": None, "qwen3_5_text": "linear_attention", "falcon_mamba": "not rotary", "opt": "not rotary", "olmo3": None,
                "deepseek_v2": None, "cohere2": None, "ministral": None, "recurrent_gemma": "linear_attention",
                "xlstm": "not rotary"}  # fmt: skip
# Families that do not keep documents apart without kernels for it, with what is said of them.
BLEEDING = {"gpt_oss": "differs by", "bamba": "causal_conv1d", "qwen3_5_text": "causal_conv1d", "falcon_mamba": "differs by",
            "opt": "differs by", "recurrent_gemma": "differs by", "xlstm": "differs by"}  # fmt: skip
EXPERTS = ("qwen3_moe", "mixtral", "phimoe", "qwen2_moe")
FAMILIES = [*LAYOUTS, *(pytest.param(family, marks=pytest.mark.slow) for family in MORE_LAYOUTS)]
WORD = Adapter(kind="lora", rank=4, alpha=8.0, dropout=0.0, target_modules="auto", bits=None)
every_family = pytest.mark.parametrize("family", FAMILIES)


def draw(*lengths):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def make_batch(prompts=(5, WINDOW + 30), chosen=(12, 1), rejected=(3, 20)):
    """Pairs, one of them longer than the window: ids, attention mask, labels."""
    drawn = draw(*prompts, *chosen, *rejected)
    contexts, responses = drawn[: len(prompts)] * 2, drawn[len(prompts) :]
    rows = [torch.cat(pair) for pair in zip(contexts, responses, strict=True)]
    ids, mask, labels = (torch.full((len(rows), max(map(len, rows))), fill) for fill in (0, 0, IGNORED))
    for at, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        ids[at, : len(row)], mask[at, : len(row)], labels[at, len(context) : len(row)] = row, 1, row[len(context) :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def score_itself(model, batch, **more):
    """Log-probabilities by the model's own logits, zero where nothing is labelled."""
    out = type(model).forward(model, batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **more)
    scores = out.logits[:, :-1].float().log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return scores.masked_fill(batch["labels"][:, 1:] == IGNORED, 0.0), out


def adapt(model, seed=5, **settings):
    """The model under the adapter that auto makes, both halves drawn."""
    wrapped = get_peft_model(model, adapters.make_lora_config(Adapter(**{**vars(WORD), **settings}), model))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return wrapped.eval()


def take_margin(scores):
    chosen, rejected = scores.sum(1).chunk(2)
    return (chosen - rejected).mean()


@every_family
def test_scores_and_gradients_are_the_models_own(family):
    theirs, ours = adapt(build(family)), adapt(build(family))
    base, batch = ours.get_base_model(), make_batch()
    reason, wanted = exactness.find_padding_reason(base), {**LAYOUTS, **MORE_LAYOUTS}[family]
    assert reason is None if wanted is None else wanted in reason
    install_forward(base, packed=reason is None, alike=2)
    fused_lora.fuse_lora(ours), fused_layers.fuse_layers(ours)
    own, _ = score_itself(theirs.get_base_model(), batch)
    scores = ours(**batch, fused_lm_head=True).log_probs
    assert torch.allclose(scores, own, atol=5e-5), float((scores - own).abs().max())
    for found in (own, scores):
        take_margin(found).backward()
    assert relative(gradient(ours), gradient(theirs)) < 2e-5


@every_family
def test_documents_in_one_row_are_apart_or_refused(family):
    model = build(family)
    rows = draw(20, 35, WINDOW + 9)
    with torch.no_grad():
        alone = [model(row[None], use_cache=False).logits[0, :-1].log_softmax(-1).gather(-1, row[1:, None])[:, 0] for row in rows]
        positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
        ids = torch.cat(rows)[None]
        batch = {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, IGNORED), "fused_lm_head": True}
        for packed in {exactness.find_padding_reason(model) is None, False}:
            install_forward(model, packed=packed, alike=1)
            if family in BLEEDING and not packed:
                with pytest.raises(ConfigError, match=rf"train.packing=true: {family} does not keep the documents .*{BLEEDING[family]}"):
                    model(**batch)
                continue
            found = model(**batch)
            assert torch.allclose(found.log_probs[found.label_mask], torch.cat(alone), atol=5e-5), packed


@every_family
def test_an_adapter_is_merged_and_comes_back(family, tmp_path):
    base, ids = build(family), draw(20)[0][None]
    first = adapt(copy.deepcopy(base))
    save(first, tmp_path / "first")
    with torch.no_grad():
        wanted = first(ids, use_cache=False).logits
        assert (wanted - base(ids, use_cache=False).logits).abs().max() > 0.1
        adapters.refuse_unstackable(tmp_path / "first")
        adapters.refuse_other_base(tmp_path / "first", base, "base")
        again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "first", autocast_adapter_dtype=False).eval()
        assert torch.allclose(again(ids, use_cache=False).logits, wanted, atol=1e-5)
        merged = again.merge_and_unload().eval()
        assert torch.allclose(merged(ids, use_cache=False).logits, wanted, atol=2e-4)
        second = adapt(copy.deepcopy(merged), seed=6)
        wanted = second(ids, use_cache=False).logits
        save(second, tmp_path / "second")
        adapters.stack_adapters(tmp_path / "first", tmp_path / "second")
        stacked = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "second", autocast_adapter_dtype=False).eval()
        assert torch.allclose(stacked(ids, use_cache=False).logits, wanted, atol=2e-4)


def save(model, folder):
    model.save_pretrained(folder, save_embedding_layers=False)
    adapters.sort_target_modules(folder)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_balanced_over_the_padded_batch(family, packed):
    """The auxiliary loss and its gradient are those of the model's own forward, while it is trained only."""
    theirs, ours, batch = adapt(build(family)), adapt(build(family)), make_batch()
    packed = packed and exactness.find_padding_reason(ours.get_base_model()) is None
    install_forward(ours.get_base_model(), packed=packed, alike=2)
    assert ours(**batch, fused_lm_head=True).aux_loss is None
    theirs.train(), ours.train()
    with torch.no_grad():
        assert ours(**batch, fused_lm_head=True).aux_loss is None
    _, out = score_itself(theirs.get_base_model(), batch, output_router_logits=True)
    coefficient = theirs.config.router_aux_loss_coef
    found = ours(**batch, fused_lm_head=True).aux_loss
    assert coefficient > 0 and torch.allclose(found, coefficient * out.aux_loss, rtol=1e-5)
    assert torch.allclose(ours(**batch, fused_lm_head=True, output_router_logits=True).aux_loss, out.aux_loss, rtol=1e-5)
    for loss in (coefficient * out.aux_loss, found):
        loss.backward()
    assert relative(gradient(ours), gradient(theirs)) < 2e-5
