"""The last layer where its output is read: behind its keys and values no position looks at another, so the others need not be computed.

What is left out at the positions that predict no response token: that layer's output projection and feed-forward part, the last norm, and
on a CPU the look of a prompt at itself.
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
    """Let the last layer of a causal language model give only the positions that a layout names as read, where its code is Llama's."""
    layers = getattr(model.base_model, "layers", None)
    if layers is not None and known_code.is_same_code(type(layers[-1]).forward, LlamaDecoderLayer.forward):
        layers[-1].forward = types.MethodType(_forward, layers[-1])


def is_short(model: Any) -> bool:
    """Whether `shorten` found the last layer to be one it knows."""
    layers = getattr(model.base_model, "layers", None)
    return layers is not None and getattr(layers[-1].forward, "__func__", None) is _forward


def _forward(layer: Any, hidden_states: Tensor, *, layout: Any = None, **kwargs: Any) -> Tensor:
    """hidden_states (1, N, h) to (1, K, h) at the layout's K `read` positions; without any, what the layer's class computes."""
    if layout is None or layout.read is None:
        more = {} if layout is None else {"layout": layout}
        return type(layer).forward(layer, hidden_states, **more, **kwargs)
    normed = layer.input_layernorm(hidden_states)
    picking = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, given: (given[0].index_select(1, layout.read),))
    try:
        attended, _ = layer.self_attn(normed, layout=replace(layout, unread=find_unread(layout)), **kwargs)
    finally:
        picking.remove()
    states = hidden_states.index_select(1, layout.read) + attended
    return states + layer.mlp(layer.post_attention_layernorm(states))


def find_unread(layout: Layout) -> tuple[int, ...] | None:
    """`Layout.unread` of its `read` positions; None off the CPU, where it would wait for the device."""
    assert layout.read is not None
    if layout.read.device.type != "cpu":
        return None
    read, sizes = layout.read.tolist(), [sum((prefix, *branches)) for prefix, branches in layout.groups]
    starts = [0, *accumulate(sizes)][:-1]
    firsts = [bisect_left(read, start) for start in starts]
    return tuple(
        min(read[first] - start, size) if first < len(read) else size for first, start, size in zip(firsts, starts, sizes, strict=True)
    )
