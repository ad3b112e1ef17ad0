"""Compute norms, rotary positions and SwiGLU with fewer passes over memory than a model's own code, on a CPU, where this is faster.

On a CPU, memory limits the speed of element-wise work, and autograd needs one pass for each operator. bfloat16 numbers are computed in
float32 and rounded where the model's own code rounds, or less often. The model computes everything else itself.
"""

import types
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from lexalign.fast_path import known_code

SILU = (torch.nn.SiLU, SiLUActivation)


def fuse_layers(model: torch.nn.Module) -> int:
    """Replace the norms, attentions and feed-forward parts whose code is the same as Llama's; return the number of changed modules."""
    count = 0
    for module in model.modules():
        forward = type(module).forward
        if hasattr(module, "variance_epsilon") and known_code.is_same_code(forward, llama.LlamaRMSNorm.forward):
            module.forward = types.MethodType(_norm, module)
            count += 1
        elif isinstance(getattr(module, "act_fn", None), SILU) and known_code.is_same_code(forward, llama.LlamaMLP.forward):
            module.forward = types.MethodType(_feed_forward, module)
            count += 1
        elif rotates_as_llama(forward):
            fused_forward = known_code.replace_globals(
                forward, apply_rotary_pos_emb=_rotary_instead_of(forward.__globals__["apply_rotary_pos_emb"])
            )
            module.forward = types.MethodType(fused_forward, module)
            count += 1
    return count


def rotates_as_llama(forward: Any) -> bool:
    """Whether a forward rotates queries and keys with a function whose code is the same as Llama's."""
    if not isinstance(forward, types.FunctionType) or "apply_rotary_pos_emb" not in forward.__code__.co_names:
        return False
    names = ("apply_rotary_pos_emb", "rotate_half")
    return all(name in forward.__globals__ and known_code.is_same_code(forward.__globals__[name], getattr(llama, name)) for name in names)


def is_faster_here(x: Tensor) -> bool:
    """Whether the fused form is faster for this tensor, according to measurements (CPU, float32 or bfloat16)."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    """The forward of a norm."""
    if is_faster_here(hidden_states) and is_faster_here(module.weight):
        return _RMSNorm.apply(hidden_states, module.weight, module.variance_epsilon)
    return type(module).forward(module, hidden_states)


class _RMSNorm(torch.autograd.Function):
    """x (…, h), weight (h,) to x / sqrt(mean(x²) + epsilon) · weight, in the wider type of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide_x = x.float()
        inverse = (torch.linalg.vector_norm(wide_x, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed_x = (wide_x * inverse).to(x.dtype)
        return normed_x.mul_(weight) if weight.dtype == x.dtype else normed_x * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        wide_x, gradient = x.float(), gradient.float()
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = (gradient * wide_x).mul_(inverse).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        scaled_gradient = gradient * weight.float()
        projection = torch.linalg.vecdot(scaled_gradient, wide_x).unsqueeze(-1) * (inverse**3 / x.shape[-1])
        return scaled_gradient.mul_(inverse).addcmul_(wide_x, projection, value=-1).to(x.dtype), weight_gradient, None


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    """The forward of a feed-forward part."""
    gate, up = module.gate_proj(x), module.up_proj(x)
    return module.down_proj(_SwiGLU.apply(gate, up) if is_faster_here(gate) and is_faster_here(up) else module.act_fn(gate) * up)


class _SwiGLU(torch.autograd.Function):
    """gate and up (…, h) to silu(gate) · up. The backward writes the gradient of gate into a tensor that it no longer needs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        swish = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate, up, swish)
        return swish * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate, up, swish = ctx.saved_tensors
        swish_gradient = gradient * up
        gate_gradient = torch.ops.aten.silu_backward.grad_input(swish_gradient, gate, grad_input=swish_gradient)
        return gate_gradient, gradient * swish


def _rotary_instead_of(original: Any) -> Any:
    """Return a function like `apply_rotary_pos_emb` of transformers, fused where that is faster."""

    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if not all(is_faster_here(x) for x in (q, k, cos, sin)) or cos.dtype != sin.dtype:
            return original(q, k, cos, sin, unsqueeze_dim)
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return _Rotary.apply(q, cos, sin), _Rotary.apply(k, cos, sin)

    return apply_rotary_pos_emb


class _Rotary(torch.autograd.Function):
    """x (B, H, N, D) rotated by cos and sin (B, 1, N, D): x·cos + (-x₂, x₁)·sin, where x₁ and x₂ are the halves of D; in the wider type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turned(x, cos, sin, back=False).to(torch.promote_types(x.dtype, cos.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _turned(gradient, *ctx.saved_tensors, back=True).to(ctx.dtype), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    """x rotated in float32; with `back` in the other direction, as the gradient needs it."""
    x, cos, sin, half = x.float(), cos.float(), sin.float(), x.shape[-1] // 2
    of_second, of_first = (sin[..., half:], -sin[..., :half]) if back else (-sin[..., :half], sin[..., half:])
    result = x * cos
    result[..., :half].addcmul_(x[..., half:], of_second)
    result[..., half:].addcmul_(x[..., :half], of_first)
    return result
