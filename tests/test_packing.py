"""Which tokens are computed, and who may look at whom."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lexalign.fast_path import attention
from lexalign.fast_path.packing import lay_out_documents, lay_out_shared_prefixes

token = st.integers(0, 3)  # few, so that responses often begin alike
spans = st.lists(token, max_size=6)


@st.composite
def batches(draw):
    """(input_ids, lengths, alike) as TRL's collator writes them: the first responses of all prompts, then the second ones, …"""
    alike = draw(st.integers(1, 4))
    prompts = draw(st.lists(spans, min_size=1, max_size=4))
    rows = [prompt + draw(spans.filter(lambda r, p=prompt: len(p) + len(r) > 0)) for _ in range(alike) for prompt in prompts]
    width = max(map(len, rows)) + draw(st.integers(0, 2))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
    return ids, torch.tensor([len(row) for row in rows]), alike


@settings(max_examples=200, deadline=None)
@given(batches())
def test_every_token_has_its_place_and_prompts_have_one(batch):
    ids, lengths, alike = batch
    layout = lay_out_shared_prefixes(ids, lengths, alike=alike)
    computed = ids.reshape(-1)[layout.tokens]
    for row, length in enumerate(lengths.tolist()):
        slots = layout.slots[row, :length]
        assert torch.equal(computed[slots], ids[row, :length])
        assert torch.equal(layout.position_ids[0, slots], torch.arange(length))
    prompts = len(lengths) // alike
    for at, (prefix, branches) in enumerate(layout.groups):
        own = [ids[at + j * prompts, : lengths[at + j * prompts]].tolist() for j in range(alike)]
        assert [prefix + length for length in branches] == ([len(row) for row in own] if alike > 1 else [])
        if alike > 1:  # the prefix is the longest one there is
            assert len({tuple(row[:prefix]) for row in own}) == 1
            assert min(map(len, own)) == prefix or len({row[prefix] for row in own}) > 1
    assert sum(map(sum, ((p, *b) for p, b in layout.groups))) == len(layout.tokens) == len(computed)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_a_token_sees_its_own_past_and_nothing_else(batch):
    ids, lengths, alike = batch
    layout = lay_out_shared_prefixes(ids, lengths, alike=alike)
    mask = layout.mask()
    assert torch.equal(mask.sum(1), layout.position_ids[0] + 1)
    for row, length in enumerate(lengths.tolist()):
        slots = layout.slots[row, :length]
        assert torch.equal(mask[slots][:, slots], torch.ones(length, length, dtype=torch.bool).tril())


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from([0, 5, 10**6]), st.sampled_from([None, 1, 3, 50]), st.integers(0, 100))
def test_attention_by_pieces_equals_attention_under_the_mask(batch, small, window, seed):
    ids, lengths, alike = batch
    layout = lay_out_shared_prefixes(ids, lengths, alike=alike)
    torch.manual_seed(seed)
    count = len(layout.tokens)
    q, k, v = (torch.randn(1, heads, count, 4, dtype=torch.float64) for heads in (4, 2, 2))
    before, attention.SMALL = attention.SMALL, small
    try:
        found, _ = attention.attend(torch.nn.Module(), q, k, v, None, layout=layout, scaling=0.4, sliding_window=window)
    finally:
        attention.SMALL = before
    position = layout.position_ids[0]
    seen = layout.mask() & ((position[:, None] - position[None, :] < window) if window is not None else True)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    scores = (q @ k.transpose(2, 3) * 0.4).masked_fill(~seen, -torch.inf)
    assert torch.allclose(found, (scores.softmax(-1) @ v).transpose(1, 2), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from([None, 1, 3, 50]))
def test_the_rule_for_flex_attention_is_the_mask(batch, window):
    ids, lengths, alike = batch
    layout = lay_out_shared_prefixes(ids, lengths, alike=alike)
    at = torch.arange(len(layout.tokens))
    found = attention.who_sees(layout, window)(None, None, at[:, None], at[None, :])
    position = layout.position_ids[0]
    near = (position[:, None] - position[None, :] < window) if window is not None else True
    assert torch.equal(found, layout.mask() & near)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 64])
def test_flex_attention_on_cuda_equals_the_pieces(window):
    torch.manual_seed(0)
    ids = torch.randint(5, (8, 300))
    ids[4:, :200] = ids[:4, :200]
    layout = lay_out_shared_prefixes(ids, torch.tensor([300, 250, 201, 230, 290, 300, 260, 222]), alike=2)
    q, k, v = (torch.randn(1, heads, len(layout.tokens), 64, requires_grad=True) for heads in (4, 2, 2))
    found = []
    for device in ("cpu", "cuda"):
        placed = dataclasses.replace(
            layout, **{name: getattr(layout, name).to(device) for name in ("tokens", "position_ids", "slots")}, block_masks={}
        )
        out, _ = attention.attend(
            torch.nn.Module(), *(x.to(device) for x in (q, k, v)), None, layout=placed, scaling=0.1, sliding_window=window
        )
        found.append([out.cpu(), *torch.autograd.grad(out.square().sum(), (q, k, v))])
    assert all(torch.allclose(a, b.cpu(), atol=1e-3) for a, b in zip(*found, strict=True))


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(1, 40))
def test_a_rounded_layout_is_the_same_and_idle_tokens(batch, multiple):
    ids, lengths, alike = batch
    layout = lay_out_shared_prefixes(ids, lengths, alike=alike)
    more = layout.rounded(multiple)
    count = len(layout.tokens)
    assert len(more.tokens) % multiple == 0 and more.idle == len(more.tokens) - count < multiple
    assert torch.equal(more.tokens[:count], layout.tokens) and torch.equal(more.position_ids[:, :count], layout.position_ids)
    assert torch.equal(more.slots, layout.slots) and more.groups == layout.groups
    q, k, v = (torch.randn(1, heads, len(more.tokens), 4) for heads in (2, 1, 1))
    alone = attention.attend(torch.nn.Module(), *(x[:, :, :count] for x in (q, k, v)), None, layout=layout)[0]
    together = attention.attend(torch.nn.Module(), q, k, v, None, layout=more)[0]
    assert torch.equal(together[:, :count], alone) and not together[:, count:].any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_packed_documents_do_not_meet(sizes):
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    layout = lay_out_documents(positions)
    mask = layout.mask()
    document = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    assert torch.equal(mask, (document[:, None] == document[None]) & torch.ones_like(mask).tril())
    assert torch.equal(layout.slots, torch.arange(sum(sizes))[None])
