"""Compute the last layer only at positions whose output is read. After the keys and values, a position needs no other position.

Positions that predict no response token skip the output projection and the feed-forward part of that layer and the last norm. On a CPU
they also skip the attention of a prompt to itself.
"""

import types
from bisect import bisect_left
from dataclasses import replace
from itertools import accumulate
from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lexalign.fast_path import known_code
from lexalign.fast_path.packing import Layout


def shorten_last_layer(model: Any) -> None:
    """Make the last layer of a causal language model return only the positions that a layout reads, if its code is the same as Llama's."""
    layers = getattr(model.base_model, "layers", None)
    if layers is not None and known_code.is_same_code(type(layers[-1]).forward, LlamaDecoderLayer.forward):
        layers[-1].forward = types.MethodType(_forward, layers[-1])


def is_short(model: Any) -> bool:
    """Whether `shorten_last_layer` has changed the last layer."""
    layers = getattr(model.base_model, "layers", None)
    return layers is not None and getattr(layers[-1].forward, "__func__", None) is _forward


def _forward(layer: Any, hidden_states: Tensor, *, layout: Any = None, **kwargs: Any) -> Tensor:
    """hidden_states (1, N, h) to (1, K, h) at the K `read` positions of the layout; without them, the result of the layer's class."""
    if layout is None or layout.read is None:
        layout_arguments = {} if layout is None else {"layout": layout}
        return type(layer).forward(layer, hidden_states, **layout_arguments, **kwargs)
    normed_states = layer.input_layernorm(hidden_states)
    hook = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: (inputs[0].index_select(1, layout.read),))
    try:
        attention_output, _ = layer.self_attn(normed_states, layout=replace(layout, unread=find_unread(layout)), **kwargs)
    finally:
        hook.remove()
    states = hidden_states.index_select(1, layout.read) + attention_output
    return states + layer.mlp(layer.post_attention_layernorm(states))


def find_unread(layout: Layout) -> tuple[int, ...] | None:
    """`Layout.unread` for its `read` positions; None on other devices than the CPU, where it would wait for the device."""
    assert layout.read is not None
    if layout.read.device.type != "cpu":
        return None
    positions_read, sizes = layout.read.tolist(), [sum((prefix, *branches)) for prefix, branches in layout.groups]
    starts = [0, *accumulate(sizes)][:-1]
    first_reads = [bisect_left(positions_read, start) for start in starts]
    return tuple(
        min(positions_read[first_read] - start, size) if first_read < len(positions_read) else size
        for first_read, start, size in zip(first_reads, starts, sizes, strict=True)
    )
