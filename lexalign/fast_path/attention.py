"""Attention over a `Layout`: each piece looks at its prefix and at itself, and nothing is computed for pieces that do not meet.

Piece by piece with SDPA on the CPU and MPS; FlexAttention with a block mask on CUDA (its backward has no CPU kernel).
Registered with transformers under `NAME`; without a layout it is transformers' own SDPA, so that generation is as ever.
"""

import contextlib
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lexalign.fast_path import casts
from lexalign.fast_path.packing import Layout

NAME = "shared_prefix"
SMALL = 256
"""Tokens up to which a whole group under one mask is faster than piece by piece (measured on a CPU; see bench/)."""
SPLIT = 288, 768
"""Sizes between which the CPU's kernel, which skips no key of a whole causal sequence, takes longer than block by block."""
BLOCK = 128
"""Queries of such a block."""
NOT_COMPUTED = ("softcap", "s_aux", "position_bias", "alibi")
"""Arguments of an attention that change its numbers and that this one does not know."""
UNSAID = -1
"""The window of a family that does not tell it to its attention."""
LONG = 1024
"""Tokens of a group up to which a CPU's attention in float32 is faster than in bfloat16, for which every new length is compiled anew."""

_pieces_only = False


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = UNSAID,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query and key (1, H, N, D), value (1, H_kv, N, D_v) to (1, N, H, D_v), contiguous as transformers' own attention gives it.

    Raises ValueError for what this attention does not compute (a soft cap of the scores, sinks), so that a trial finds it.
    """
    if layout is None:
        if sliding_window not in (None, UNSAID):
            kwargs["sliding_window"] = sliding_window
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    assert dropout == 0.0, "dropout in the attention draws other numbers in another layout"
    if unknown := [name for name in NOT_COMPUTED if kwargs.get(name) is not None]:
        raise ValueError(f"its attention asks for {', '.join(unknown)}")
    if sliding_window == UNSAID:  # some families tell their window to the mask alone, and to the layer
        sliding_window = getattr(module, "sliding_window", None)
    dtype = casts.get_compute_dtype(value)
    if query.device.type == "cuda" and not _pieces_only:
        query, key, value = (x.to(dtype) for x in (query, key, value))  # rotary positions may be in float32 still
        return _flex(query, key, value, layout, scaling, sliding_window).transpose(1, 2).contiguous(), None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and query.device.type != "cpu":  # the CPU's kernel takes fewer keys than queries as they are
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    # `split`, because the backward of many slices fills as many whole tensors with zeros.
    sizes = [sum((prefix, *branches)) for prefix, branches in layout.groups]
    parts = [x.split([*sizes, layout.idle], dim=2)[:-1] for x in (query, key, value)]
    unread = layout.unread or (0,) * len(layout.groups)
    with torch.autocast(query.device.type, enabled=False):
        parts_of_output = []
        for (prefix, branches), q, k, v, size, skip in zip(layout.groups, *parts, sizes, unread, strict=True):
            kind = torch.float32 if dtype == torch.bfloat16 and size <= LONG and query.device.type == "cpu" else dtype
            q, k, v = (x.to(kind) for x in (q, k, v))
            parts_of_output.append(_group(prefix, branches, q, k, v, scaling, sliding_window, skip).to(dtype))
    if layout.idle:
        parts_of_output.append(_make_zeros(query, value, layout.idle).to(dtype))
    return torch.cat(parts_of_output, 2).transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def use_pieces() -> Iterator[None]:
    """Within the block, attention is computed piece by piece on a GPU too: a trial in float32, for which FlexAttention compiles nothing."""
    global _pieces_only
    before, _pieces_only = _pieces_only, True
    try:
        yield
    finally:
        _pieces_only = before


def _make_zeros(query: Tensor, value: Tensor, count: int) -> Tensor:
    """(1, H, count, D_v): what stands for the output of queries that look at nothing; a value may be narrower or wider than a query."""
    return value.new_zeros(*query.shape[:2], count, value.shape[-1])


def _group(
    prefix: int, branches: tuple[int, ...], q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None, skip: int = 0
) -> Tensor:
    """Attention within one group, (1, H, n, D_v); zeros may stand for what its first `skip` tokens see."""
    size = q.shape[2]
    if skip == size:
        return _make_zeros(q, v, size)
    sdpa = partial(F.scaled_dot_product_attention, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    if not branches and (window is None or size <= window) and skip <= size // 2:
        return _causal(sdpa, q, k, v) if q.device.type == "cpu" and SPLIT[0] <= size < SPLIT[1] else sdpa(q, k, v, is_causal=True)
    if skip and (not branches or (skip < prefix and size <= SMALL)):
        looking, nothing = q[:, :, skip:], _make_zeros(q, v, skip)
        mask = group_mask(prefix, branches, window, q.dtype, q.device)
        return torch.cat((nothing, sdpa(looking, k, v, attn_mask=mask[skip:])), 2)
    if size <= SMALL or not branches or not prefix:
        return sdpa(q, k, v, attn_mask=group_mask(prefix, branches, window, q.dtype, q.device))
    pieces = list(zip(*(x.split([prefix, *branches], dim=2) for x in (q, k, v)), strict=True))
    own_q, shared_k, shared_v = pieces[0]
    outputs = [_group(prefix, (), own_q, shared_k, shared_v, scaling, window, min(skip, prefix))]
    for own_q, own_k, own_v in pieces[1:]:
        length = own_q.shape[2]
        if length:
            keys, values = torch.cat((shared_k, own_k), 2), torch.cat((shared_v, own_v), 2)
            mask = group_mask(prefix, (length,), window, q.dtype, q.device)[prefix:]
            outputs.append(sdpa(own_q, keys, values, attn_mask=mask))
    return torch.cat(outputs, 2)


def _causal(sdpa: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention a block of queries at a time, each with the keys it may see."""
    outputs, end = [], 0
    for own in q.split(BLOCK, dim=2):
        start, end = end, end + own.shape[2]
        mask = q.new_full((end - start, end), -torch.inf).triu_(start + 1)  # cheaper than to keep one for each length there is
        outputs.append(sdpa(own, k[:, :, :end], v[:, :, :end], attn_mask=mask))
    return torch.cat(outputs, 2)


@lru_cache(maxsize=64)
def group_mask(prefix: int, branches: tuple[int, ...], window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, n), 0 where a token of the group may look and -inf elsewhere: at its own past, in the prefix and in its own branch, no farther
    back than the window."""
    lengths = torch.tensor([prefix, *branches])
    branch = torch.arange(len(lengths)).repeat_interleave(lengths)
    starts = torch.cat((torch.zeros(1, dtype=torch.long), lengths[1:].cumsum(0) - lengths[1:]))
    position = torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
    back = position[:, None] - position[None, :]
    seen = (back >= 0) & ((branch[None, :] == 0) | (branch[None, :] == branch[:, None]))
    if window is not None:
        seen &= back < window
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf).to(device)


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None) -> Tensor:
    """All groups in one kernel that skips the blocks in which nobody looks at anybody. (1, H, N, D)."""
    from torch.nn.attention.flex_attention import create_block_mask  # slow to import

    masks = layout.block_masks
    if window not in masks:
        count = query.shape[2]
        masks[window] = create_block_mask(who_sees(layout, window), None, None, count, count, device=str(query.device))
    return _compiled_flex()(query, key, value, block_mask=masks[window], scale=scaling, enable_gqa=True)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def who_sees(layout: Layout, window: int | None) -> Any:
    """The rule of `Layout.mask`, and of a sliding window, for FlexAttention."""
    group, branch = layout.labels()
    position = layout.position_ids[0]

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q])) & (k <= q)
        return seen if window is None else seen & (position[q] - position[k] < window)

    return rule


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
