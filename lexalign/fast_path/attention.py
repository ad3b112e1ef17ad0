"""Attention over a `Layout`: each piece attends to its prefix and to itself, and nothing is computed for other pairs of pieces.

The CPU and MPS use SDPA for each piece; CUDA uses FlexAttention with a block mask (its backward has no CPU kernel).
transformers knows this attention as `NAME`. Without a layout it is transformers' own SDPA, so that generation does not change.
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
"""Up to this number of tokens, a whole group with one mask is faster than its pieces (measured on a CPU; see bench/)."""
SPLIT = 288, 768
"""Between these sizes, blocks of queries are faster on a CPU than the whole causal sequence, whose kernel skips no key."""
BLOCK = 128
"""Number of queries in such a block."""
NOT_COMPUTED = ("softcap", "s_aux", "position_bias", "alibi")
"""Arguments that change the numbers of an attention and that this attention does not compute."""
UNSAID = -1
"""The window if a family does not pass it to its attention."""
LONG = 1024
"""Up to this number of tokens in a group, attention on a CPU is faster in float32 than in bfloat16, which compiles for every new length."""

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
    """query and key (1, H, N, D), value (1, H_kv, N, D_v) to (1, N, H, D_v), contiguous like the result of transformers' own attention.

    Raises ValueError for arguments that this attention does not compute (a soft cap of the scores, sinks), so that a trial fails.
    """
    if layout is None:
        if sliding_window not in (None, UNSAID):
            kwargs["sliding_window"] = sliding_window
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    assert dropout == 0.0, "dropout in the attention draws other numbers in another layout"
    if unknown_names := [name for name in NOT_COMPUTED if kwargs.get(name) is not None]:
        raise ValueError(f"its attention asks for {', '.join(unknown_names)}")
    if sliding_window == UNSAID:  # some families pass their window only to the mask and the layer
        sliding_window = getattr(module, "sliding_window", None)
    dtype = casts.get_compute_dtype(value)
    if query.device.type == "cuda" and not _pieces_only:
        query, key, value = (x.to(dtype) for x in (query, key, value))  # rotary positions may leave them in float32
        return _flex(query, key, value, layout, scaling, sliding_window).transpose(1, 2).contiguous(), None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and query.device.type != "cpu":  # the CPU's kernel accepts fewer key heads than query heads
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    # `split`, because the backward of each slice would fill a whole tensor with zeros.
    sizes = [sum((prefix, *branches)) for prefix, branches in layout.groups]
    parts = [x.split([*sizes, layout.idle], dim=2)[:-1] for x in (query, key, value)]
    unread_counts = layout.unread or (0,) * len(layout.groups)
    with torch.autocast(query.device.type, enabled=False):
        parts_of_output = []
        for (prefix, branches), q, k, v, size, skip in zip(layout.groups, *parts, sizes, unread_counts, strict=True):
            kind = torch.float32 if dtype == torch.bfloat16 and size <= LONG and query.device.type == "cpu" else dtype
            q, k, v = (x.to(kind) for x in (q, k, v))
            parts_of_output.append(_group(prefix, branches, q, k, v, scaling, sliding_window, skip).to(dtype))
    if layout.idle:
        parts_of_output.append(_make_zeros(query, value, layout.idle).to(dtype))
    return torch.cat(parts_of_output, 2).transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def use_pieces() -> Iterator[None]:
    """Within the block, a GPU also computes attention in pieces. Trials in float32 use this, so that FlexAttention compiles nothing."""
    global _pieces_only
    old_value, _pieces_only = _pieces_only, True
    try:
        yield
    finally:
        _pieces_only = old_value


def _make_zeros(query: Tensor, value: Tensor, count: int) -> Tensor:
    """(1, H, count, D_v): zeros as the output of queries that attend to nothing. D_v may differ from the width of a query."""
    return value.new_zeros(*query.shape[:2], count, value.shape[-1])


def _group(
    prefix: int, branches: tuple[int, ...], q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None, skip: int = 0
) -> Tensor:
    """Attention within one group, (1, H, n, D_v). The output of its first `skip` tokens may be zeros."""
    size = q.shape[2]
    if skip == size:
        return _make_zeros(q, v, size)
    sdpa = partial(F.scaled_dot_product_attention, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    if not branches and (window is None or size <= window) and skip <= size // 2:
        return _causal(sdpa, q, k, v) if q.device.type == "cpu" and SPLIT[0] <= size < SPLIT[1] else sdpa(q, k, v, is_causal=True)
    if skip and (not branches or (skip < prefix and size <= SMALL)):
        queries, zeros = q[:, :, skip:], _make_zeros(q, v, skip)
        mask = group_mask(prefix, branches, window, q.dtype, q.device)
        return torch.cat((zeros, sdpa(queries, k, v, attn_mask=mask[skip:])), 2)
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
    """Causal attention, one block of queries at a time, with the keys that the block may see."""
    outputs, end = [], 0
    for block in q.split(BLOCK, dim=2):
        start, end = end, end + block.shape[2]
        mask = q.new_full((end - start, end), -torch.inf).triu_(start + 1)  # cheaper than keeping a mask for each length
        outputs.append(sdpa(block, k[:, :, :end], v[:, :, :end], attn_mask=mask))
    return torch.cat(outputs, 2)


@lru_cache(maxsize=64)
def group_mask(prefix: int, branches: tuple[int, ...], window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, n), 0 where a token (row) of the group may attend to a token (column), and -inf elsewhere.

    A token attends to earlier tokens and itself, in the prefix and in its own branch, within the window.
    """
    lengths = torch.tensor([prefix, *branches])
    branch = torch.arange(len(lengths)).repeat_interleave(lengths)
    starts = torch.cat((torch.zeros(1, dtype=torch.long), lengths[1:].cumsum(0) - lengths[1:]))
    position = torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
    distance = position[:, None] - position[None, :]
    is_seen = (distance >= 0) & ((branch[None, :] == 0) | (branch[None, :] == branch[:, None]))
    if window is not None:
        is_seen &= distance < window
    return torch.zeros(is_seen.shape, dtype=dtype).masked_fill_(~is_seen, -torch.inf).to(device)


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None) -> Tensor:
    """Attention of all groups in one kernel, which skips blocks without any pair to compute. (1, H, N, D)."""
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
        is_seen = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q])) & (k <= q)
        return is_seen if window is None else is_seen & (position[q] - position[k] < window)

    return rule


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
