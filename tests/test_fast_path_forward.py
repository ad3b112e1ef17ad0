"""The fast forward against TRL's own, on families of models; and where it must not be taken, that it is not, with the reason."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import FAMILIES, VOCABULARY, adapted, gpt2, gradient, made, relative, widen
from transformers import FalconMambaConfig, FalconMambaForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from lexalign.fast_path import attention, exactness, forward, fused_layers, fused_lora
from lexalign.fast_path.forward import install_forward
from lexalign.models import loading

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
ids = st.integers(0, VOCABULARY - 1)
response = st.lists(ids, min_size=1, max_size=8)
pair = st.fixed_dictionaries({"prompt_ids": st.lists(ids, max_size=12), "chosen_ids": response, "rejected_ids": response})
pairs = st.lists(pair, min_size=1, max_size=3)
SEEDS = 6
ALIKE = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 2], "rejected_ids": [8, 9, 2]},
    {"prompt_ids": [], "chosen_ids": [4, 2], "rejected_ids": [2]},
    {"prompt_ids": list(range(3, 20)), "chosen_ids": [2], "rejected_ids": list(range(20, 33))},
]


def batch_of(rows):
    return DataCollatorForPreference(pad_token_id=0, max_length=None)(rows)


def scores(model, batch):
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True, use_cache=False)


def dpo_like(found):
    chosen, rejected = found.log_probs.sum(1).chunk(2)
    return -torch.nn.functional.logsigmoid(0.3 * (chosen - rejected)).mean()


def margin(found):
    """Linear, so that the error of one sum does not scale the whole gradient."""
    chosen, rejected = found.log_probs.sum(1).chunk(2)
    return (chosen - rejected).mean()


def models_of(family, *, packed):
    """The same adapted model twice: with TRL's forward, and with ours (fused layers too)."""
    theirs, ours = adapted(made(family)), adapted(made(family))
    add_fused_lm_head(theirs.get_base_model(), outputs=OUTPUTS)
    install_forward(ours.get_base_model(), packed=packed, alike=2)
    assert fused_lora.fuse_lora(ours) == 21 and fused_layers.fuse_layers(ours) >= 3
    return theirs, ours


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=pairs)
def test_scores_and_gradient_equal_trls(family, packed, rows):
    compare(family, packed, rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_responses_empty_prompts_and_single_tokens(family):
    compare(family, True, ALIKE)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_make_a_round_number_change_nothing(family, packed, monkeypatch):
    monkeypatch.setattr(forward, "get_row_multiple", lambda weight: 7)
    compare(family, packed, ALIKE)


def test_matrix_products_in_bfloat16_have_few_shapes():
    ours, seen = models_of("llama_untied", packed=True)[1], set()
    for layer in (module for name, module in ours.named_modules() if name.endswith(("q_proj", "up_proj", "norm"))):
        layer.register_forward_hook(lambda module, given, out: seen.add(out.shape[-2]))
    for dtype in (torch.bfloat16, torch.float32):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            margin(scores(ours, batch_of(ALIKE))).backward()
        assert (seen == {forward.ROUND}) == (dtype == torch.bfloat16), seen


def compare(family, packed, rows, cache={}):  # noqa: B006  # the models of a family, made once
    theirs, ours = cache.setdefault((family, packed), models_of(family, packed=packed))
    batch = batch_of(rows)
    found, wanted = scores(ours, batch), scores(theirs, batch)
    for name in OUTPUTS:
        assert torch.allclose(getattr(found, name).float(), getattr(wanted, name).float(), atol=5e-5), name
    assert torch.equal(found.label_mask, wanted.label_mask)
    for model, result in ((ours, found), (theirs, wanted)):
        model.zero_grad()
        dpo_like(result).backward()
    expected = gradient(theirs)
    if expected.norm() > 1e-4:  # equal responses have none
        assert relative(gradient(ours), expected) < 1e-5
    else:
        assert gradient(ours).norm() < 2e-4


def test_k_responses_of_one_prompt():
    theirs, ours = adapted(made("qwen3")), adapted(made("qwen3"))
    add_fused_lm_head(theirs.get_base_model())
    install_forward(ours.get_base_model(), packed=True, alike=4)
    rows = [[3, 4, 5, 6, *response] for response in ([7, 2], [8, 9, 10, 2], [2], [8, 9, 2])]
    width = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    completion = mask.clone()
    completion[:, :4] = 0
    batch = {"input_ids": input_ids, "attention_mask": mask, "completion_mask": completion}
    assert torch.allclose(scores(ours, batch).log_probs, scores(theirs, batch).log_probs, atol=2e-5)


def test_generation_is_as_before():
    torch.manual_seed(0)
    model = made("gemma3")
    prompt = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]])
    settings_ = {"attention_mask": (prompt > 0).long(), "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = model.generate(prompt, **settings_)
    install_forward(model, packed=True, alike=2)
    assert torch.equal(model.generate(prompt, **settings_), before)


def test_gradient_checkpointing_gives_the_same_gradient():
    found = []
    for checkpointing in (False, True):
        model = adapted(made("llama_tied"))
        install_forward(model.get_base_model(), packed=True, alike=2)
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        dpo_like(scores(model, batch_of(ALIKE))).backward()
        found.append(gradient(model))
    assert relative(found[1], found[0]) < 1e-6


def test_a_trained_head_and_trained_embeddings():
    """Full training: every weight's gradient, the tied head's included."""
    theirs, ours = made("llama_tied"), made("llama_tied")
    add_fused_lm_head(theirs)
    install_forward(ours, packed=True, alike=2)
    fused_layers.fuse_layers(ours)
    for model in (theirs, ours):
        dpo_like(scores(model, batch_of(ALIKE))).backward()
    assert relative(gradient(ours), gradient(theirs)) < 1e-5


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base(bits, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    made("llama_untied").save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(load_in_8bit=True) if bits == 8 else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    found = []
    for ours in (True, False):
        base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, device_map={"": "cpu"})
        loading.keep_quantized_weights(base)
        model = adapted(base)
        (install_forward(model.get_base_model(), packed=False, alike=2) if ours else add_fused_lm_head(model.get_base_model()))
        found.append(scores(model, batch_of(ALIKE)).log_probs.float())
        if ours and bits == 4:
            install_forward(model.get_base_model(), packed=True, alike=2)
            assert torch.allclose(scores(model, batch_of(ALIKE)).log_probs.float(), found[0], atol=1e-4)
        elif ours:  # int8 chooses its outlier columns by the batch, so another layout rounds otherwise
            assert "differs by" in exactness.find_padding_reason(model.get_base_model())
    assert torch.allclose(*found, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_known_families_are_exact(family):
    model = made(family)
    assert exactness.find_padding_reason(model) is None
    assert "forward" not in model.__dict__ and model.config._attn_implementation == "sdpa"
    assert exactness.find_padding_reason(adapted(model).get_base_model()) is None


def state_space():
    return FalconMambaForCausalLM(FalconMambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4))


def changed(**values):
    model = made("llama_tied")
    for name, value in values.items():
        setattr(model.config, name, value)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (gpt2, "its positions are not rotary"),
        (state_space, "its positions are not rotary"),
        (lambda: adapted(made("llama_tied"), dropout=0.1).get_base_model(), "dropout"),
        (lambda: changed(attention_dropout=0.1), "dropout"),
        (lambda: changed(layer_types=["linear_attention", "full_attention"]), "linear_attention"),
        (lambda: changed(_attn_implementation="eager"), "model.attention=eager"),
        (lambda: changed(attn_logit_softcapping=30.0), "capped"),
        (lambda: changed(vision_config={}), "images"),
    ],
)
def test_where_it_is_not_exact_the_reason_is_said(build, reason):
    assert reason in exactness.find_padding_reason(build())


def test_a_model_that_ignores_the_layout_is_found_by_trying(monkeypatch):
    """Nothing in its configuration tells: its attention looks at everything before it."""
    model = made("llama_tied")

    def blind(module, query, key, value, mask, **kwargs):
        out = torch.nn.functional.scaled_dot_product_attention(query, *(x.repeat_interleave(2, 1) for x in (key, value)), is_causal=True)
        return out.transpose(1, 2), None

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.NAME, blind)
    assert "differs by" in exactness.find_padding_reason(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_padded_model_still_equals_trl():
    theirs, ours = gpt2(), gpt2()
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        widen_as(model)
    add_fused_lm_head(theirs, outputs=OUTPUTS)
    install_forward(ours, packed=False, alike=2)
    theirs.eval(), ours.eval()
    assert torch.allclose(scores(ours, batch_of(ALIKE)).log_probs, scores(theirs, batch_of(ALIKE)).log_probs, atol=1e-5)


def widen_as(model):
    torch.manual_seed(3)
    widen(model)


def test_bfloat16_is_as_near_to_the_truth_as_trl():
    """Against a float32 oracle: the error of log-probabilities and of the gradient at most 1.1 times TRL's own (and a floor for noise)."""
    generator = torch.Generator().manual_seed(0)

    def drawn(size):
        return torch.randint(3, VOCABULARY, (size,), generator=generator).tolist()

    batch = batch_of(
        [{"prompt_ids": drawn(20 + 5 * i), "chosen_ids": drawn(10 + 3 * i), "rejected_ids": drawn(25 - 3 * i)} for i in range(6)]
    )
    errors = {"theirs": [], "ours": []}
    for seed in range(SEEDS):
        oracle = adapted(made("llama_untied", seed=seed))
        add_fused_lm_head(oracle.get_base_model())
        margin(scores(oracle, batch)).backward()
        truth, slope = scores(oracle, batch).log_probs.detach(), gradient(oracle)
        for name in errors:
            model = adapted(made("llama_untied", seed=seed))
            if name == "ours":
                install_forward(model.get_base_model(), packed=True, alike=2)
                assert fused_lora.fuse_lora(model) and fused_layers.fuse_layers(model)
            else:
                add_fused_lm_head(model.get_base_model())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = scores(model, batch)
            margin(found).backward()
            errors[name].append((relative(found.log_probs.detach(), truth), relative(gradient(model), slope)))
    for at in (0, 1):
        ours, theirs = (sum(error[at] for error in errors[name]) / SEEDS for name in ("ours", "theirs"))
        assert ours <= 1.1 * theirs, (ours, theirs)
