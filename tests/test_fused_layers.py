"""What of a model's own layers is computed otherwise: norms and rotary positions fused, the last layer only where it is read."""

import copy
from dataclasses import replace

import pytest
import torch
from small_models import FAMILIES, gpt2, made, relative
from transformers.models.llama import modeling_llama as llama

from lexalign.fast_path import attention, fused_layers, known_code, last_layer
from lexalign.fast_path.forward import install_forward
from lexalign.fast_path.packing import Layout


def grown(module, *given):
    """A module's output at given tensors, and the gradients of all of them and of its weights."""
    inputs = [x.clone().requires_grad_() for x in given]
    out = module(*inputs)
    out = torch.cat([part.flatten() for part in (out if isinstance(out, tuple) else (out,))])
    weights = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    return [out.detach(), *torch.autograd.grad((out * torch.linspace(-1, 1, len(out))).sum(), [*inputs, *weights])]


@pytest.mark.parametrize("shape", [(32,), (5, 32), (2, 3, 32), (0, 32)])
def test_a_fused_norm_is_the_models_own(shape):
    torch.manual_seed(0)
    own = llama.LlamaRMSNorm(32, eps=1e-3)
    torch.nn.init.normal_(own.weight)
    fused = copy.deepcopy(own)
    assert fused_layers.fuse_layers(fused) == 1
    x = 3 * torch.randn(*shape)
    for ours, theirs in zip(grown(fused, x), grown(own, x), strict=True):
        assert ours.shape == theirs.shape and (not x.numel() or relative(ours, theirs) < 1e-6)


def test_fused_rotary_positions_are_the_models_own():
    torch.manual_seed(0)
    # Halves that differ, as no model's do: a swap of the two would show.
    cos, sin = torch.randn(2, 1, 7, 8)
    q, k = torch.randn(1, 7, 4, 8).transpose(1, 2), torch.randn(1, 7, 2, 8).transpose(1, 2)
    fused = fused_layers._rotary_instead_of(llama.apply_rotary_pos_emb)
    for ours, theirs in zip(
        grown(lambda q, k: fused(q, k, cos, sin), q, k), grown(lambda q, k: llama.apply_rotary_pos_emb(q, k, cos, sin), q, k), strict=True
    ):
        assert relative(ours, theirs) < 1e-6


def test_a_fused_feed_forward_part_is_the_models_own():
    own = made("llama_tied").model.layers[0].mlp
    fused, x = copy.deepcopy(own), torch.randn(2, 5, 32)
    assert fused_layers.fuse_layers(fused) == 1
    for ours, theirs in zip(grown(fused, x), grown(own, x), strict=True):
        assert relative(ours, theirs) < 1e-6


def test_other_types_of_numbers_are_left_to_the_model():
    own = llama.LlamaRMSNorm(32)
    fused = copy.deepcopy(own)
    fused_layers.fuse_layers(fused)
    x = torch.randn(5, 32, dtype=torch.float16)
    assert torch.equal(fused(x), own(x))


def in_types(module, types, *given):
    """`grown` with the inputs in given types, as float32."""
    return [x.float() for x in grown(module, *(x.to(kind) for x, kind in zip(given, types, strict=True)))]


@pytest.mark.parametrize("weight", [torch.bfloat16, torch.float32])
def test_a_fused_norm_in_bfloat16_is_as_near_to_the_truth(weight):
    torch.manual_seed(0)
    own = llama.LlamaRMSNorm(32, eps=1e-3)
    torch.nn.init.normal_(own.weight)
    x = (3 * torch.randn(40, 32)).bfloat16().float()
    own.weight.data = own.weight.data.bfloat16().float()
    truth = grown(own, x)
    own = own.to(weight)
    fused = copy.deepcopy(own)
    fused_layers.fuse_layers(fused)
    ours, theirs = (in_types(module, [torch.bfloat16], x) for module in (fused, own))
    assert torch.equal(ours[0], theirs[0]) and fused(x.bfloat16()).dtype == own(x.bfloat16()).dtype
    for our, their, true in zip(ours, theirs, truth, strict=True):
        assert relative(our, true) <= 1.1 * relative(their, true) + 1e-3


@pytest.mark.parametrize("turning", [torch.bfloat16, torch.float32])
def test_fused_rotary_positions_in_bfloat16_are_as_near_to_the_truth(turning):
    torch.manual_seed(0)
    q, k = (torch.randn(1, heads, 7, 8).bfloat16() for heads in (4, 2))
    cos, sin = (torch.randn(1, 7, 8).to(turning) for _ in range(2))
    fused = fused_layers._rotary_instead_of(llama.apply_rotary_pos_emb)
    truth = grown(lambda q, k: llama.apply_rotary_pos_emb(q, k, cos.float(), sin.float()), q.float(), k.float())
    ours, theirs = (
        in_types(lambda q, k, turn=turn: turn(q, k, cos, sin), [torch.bfloat16] * 2, q, k) for turn in (fused, llama.apply_rotary_pos_emb)
    )
    assert [x.dtype for x in fused(q, k, cos, sin)] == [x.dtype for x in llama.apply_rotary_pos_emb(q, k, cos, sin)]
    for our, their, true in zip(ours, theirs, truth, strict=True):
        assert relative(our, true) <= 1.1 * relative(their, true) + 1e-6


@pytest.mark.parametrize("size", [attention.SPLIT[0], attention.SPLIT[0] + 37, attention.LONG + 1])
def test_a_long_sequence_looks_at_its_past(size):
    """Block by block, and in bfloat16 by the type that is faster, against SDPA in float64."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, size, 8) for heads in (4, 2, 2))
    layout = Layout(tokens=torch.arange(size), position_ids=torch.arange(size)[None], slots=torch.arange(size)[None], groups=((size, ()),))

    def looked(q, k, v):
        return attention.attend(torch.nn.Module(), q, k, v, None, layout=layout)[0]

    def plain(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

    for ours, true in zip(grown(looked, q, k, v), grown(plain, q.double(), k.double(), v.double()), strict=True):
        assert relative(ours.double(), true) < 1e-5
    rounded = [x.bfloat16() for x in (q, k, v)]
    truth = grown(plain, *(x.double() for x in rounded))
    for ours, theirs, true in zip(grown(looked, *rounded), grown(plain, *rounded), truth, strict=True):
        assert ours.dtype == torch.bfloat16 and relative(ours.double(), true) <= 1.1 * relative(theirs.double(), true) + 1e-3


@pytest.mark.parametrize(
    ("family", "fused", "short"), [("llama_tied", 7 + 3 + 3, True), ("qwen3", 7 + 6 + 3 + 3, True), ("gemma3", 3, False), (None, 0, False)]
)
def test_only_what_is_written_as_llamas_is_replaced(family, fused, short):
    model = gpt2() if family is None else made(family)
    assert fused_layers.fuse_layers(model) == fused
    last_layer.shorten_last_layer(model)
    assert last_layer.is_short(model) == short
    assert llama.apply_rotary_pos_emb.__module__ == llama.__name__, "the library's own function is left as it is"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_computes_what_is_read(family):
    model, counts = made(family), []
    install_forward(model, packed=True, alike=1)
    model.base_model.layers[-1].mlp.register_forward_hook(lambda module, given, out: counts.append(out.shape[1]))
    ids, labels = torch.arange(3, 15)[None], torch.full((1, 12), -100)
    labels[0, 8:10] = ids[0, 8:10]
    scored = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
    assert counts == [12 if family == "gemma3" else 2] and int(scored.label_mask.sum()) == 2
    model(input_ids=ids)
    assert counts[1:] == [12], "without a layout it is as ever"


@pytest.mark.parametrize("small", [0, 256])
def test_a_prompt_that_is_not_read_need_not_look(small, monkeypatch):
    """Values at what is read, and gradients, with and without; whole groups under one mask and piece by piece."""
    monkeypatch.setattr(attention, "SMALL", small)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 26, 8) for heads in (4, 2, 2))
    groups, unread = ((6, (3, 2)), (1, (4, 4)), (5, ()), (1, ())), (5, 0, 4, 1)
    read = [
        at for start, size, skip in zip((0, 11, 20, 25), (11, 9, 5, 1), unread, strict=True) for at in range(start + skip, start + size)
    ]
    layout = Layout(tokens=torch.arange(26), position_ids=torch.zeros(1, 26), slots=torch.arange(26)[None], groups=groups)
    found = [
        grown(lambda q, k, v, own=own: attention.attend(torch.nn.Module(), q, k, v, None, layout=own)[0][:, read], q, k, v)
        for own in (layout, replace(layout, unread=unread))
    ]
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert relative(ours, theirs) < 1e-6
    assert last_layer.find_unread(replace(layout, read=torch.tensor(read))) == unread


def test_known_code_is_told_from_other_code():
    def one(x, y=1):
        """Doc."""
        return x + y * 2

    def same(x, y=1):
        return x + y * 2

    def other(x, y=1):
        return x + y * 3

    assert known_code.is_same_code(one, same) and not known_code.is_same_code(one, other)
    assert known_code.replace_globals(reading, VALUE=2)() == 2 and reading() == 1


VALUE = 1


def reading():
    return VALUE
