"""Compute a LoRA layer, y = x Wᵀ + b + s·(x Aᵀ) Bᵀ, with `addmm`, without a float32 copy and without a sum of two large results."""

import types
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor

from lexalign.fast_path import casts


def fuse_lora(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the fused forward; return the number of these layers."""
    layers = [module for module in model.modules() if isinstance(module, Linear) and is_plain(module)]
    for layer in layers:
        layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign]
    return len(layers)


def is_plain(layer: Linear) -> bool:
    """Whether the layer is a frozen float linear layer with ordinary LoRA: no dropout, no variant (DoRA, …), no bias of the adapter."""
    base = layer.get_base_layer()
    is_frozen = type(base) is torch.nn.Linear and base.weight.is_floating_point() and not base.weight.requires_grad
    has_no_dropout = all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())
    return (
        type(layer) is Linear
        and is_frozen
        and has_no_dropout
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and not layer.fan_in_fan_out
    )


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The result of PEFT's layer. It is fused if at most one adapter is active and all numbers have one type."""
    active_names = [name for name in layer.active_adapters if name in layer.lora_A]
    base, dtype, autocast = layer.base_layer, casts.get_compute_dtype(x), torch.is_autocast_enabled(x.device.type)
    if layer.merged or args or kwargs or not (layer.disable_adapters or len(active_names) == 1):
        return type(layer).forward(layer, x, *args, **kwargs)
    if layer.disable_adapters:
        if not autocast or (torch.is_grad_enabled() and x.requires_grad):
            return type(layer).forward(layer, x)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if base.bias is None else base.bias.to(dtype)
            return F.linear(casts.cast_activation(x, dtype), casts.cast_weight(base.weight, dtype), bias).view(*x.shape[:-1], -1)
    a, b = (weights[active_names[0]].weight for weights in (layer.lora_A, layer.lora_B))
    if not (autocast or x.dtype == base.weight.dtype == a.dtype):
        return type(layer).forward(layer, x)
    with torch.autocast(x.device.type, enabled=False):
        low_rank_tensors = [tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype) for tensor in (base.bias, a, b)]
        rows, weight = casts.cast_activation(x, dtype), casts.cast_weight(base.weight, dtype)
        # The view is made here, because the model could not change a view from inside the function in place.
        return _LowRankLinear.apply(x, rows, weight, *low_rank_tensors, layer.scaling[active_names[0]]).view(*x.shape[:-1], -1)


class _LowRankLinear(torch.autograd.Function):
    """x (…, in), the same as `rows` (M, in) in the type of `weight` (out, in), which is frozen; bias (out,) or None, a (r, in), b (out, r),
    scale to (M, out).

    The gradient of x has the type of x, so that in mixed precision it is summed in float32, as in PEFT.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        low_rank = rows @ a.t()
        y.addmm_(low_rank, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, low_rank)
        ctx.scale, ctx.dtype = scale, x.dtype
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        rows, weight, a, b, low_rank = ctx.saved_tensors
        low_gradient = (dy @ b).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).addmm_(low_gradient, a).to(ctx.dtype)
            dx = dx.view(ctx.shape)
        da = low_gradient.t() @ rows if ctx.needs_input_grad[4] else None
        db = (low_rank.t() @ dy).mul_(ctx.scale).t() if ctx.needs_input_grad[5] else None
        return dx, None, None, None, da, db, None
