"""Norms, rotary positions and SwiGLU in fewer passes over memory than a model's own code takes: on a CPU, where it is faster.

On a CPU a step's element-wise work is bound by memory, and autograd makes a pass of each operator. Numbers in bfloat16 are computed in
float32 and rounded where the model's own code rounds, or less often. Everything else is left to the model.
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
    """Give what of `model` is written as Llama's (norms, attentions, feed-forward parts) the fused form; how many modules got it."""
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
            fused = known_code.replace_globals(
                forward, apply_rotary_pos_emb=_rotary_instead_of(forward.__globals__["apply_rotary_pos_emb"])
            )
            module.forward = types.MethodType(fused, module)
            count += 1
    return count


def rotates_as_llama(forward: Any) -> bool:
    """Whether a forward turns queries and keys, by a function that is written as Llama's."""
    if not isinstance(forward, types.FunctionType) or "apply_rotary_pos_emb" not in forward.__code__.co_names:
        return False
    known = ("apply_rotary_pos_emb", "rotate_half")
    return all(name in forward.__globals__ and known_code.is_same_code(forward.__globals__[name], getattr(llama, name)) for name in known)


def is_faster_here(x: Tensor) -> bool:
    """Whether this is where the fused forms measured faster."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    """A norm's forward."""
    if is_faster_here(hidden_states) and is_faster_here(module.weight):
        return _RMSNorm.apply(hidden_states, module.weight, module.variance_epsilon)
    return type(module).forward(module, hidden_states)


class _RMSNorm(torch.autograd.Function):
    """x (…, h), weight (h,) to x / sqrt(mean(x²) + epsilon) · weight, in the wider type of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        inverse = (torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed = (wide * inverse).to(x.dtype)
        return normed.mul_(weight) if weight.dtype == x.dtype else normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        wide, gradient = x.float(), gradient.float()
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * wide).mul_(inverse).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        scaled = gradient * weight.float()
        along = torch.linalg.vecdot(scaled, wide).unsqueeze(-1) * (inverse**3 / x.shape[-1])
        return scaled.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype), of_weight, None


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    """A feed-forward part's forward."""
    gate, up = module.gate_proj(x), module.up_proj(x)
    return module.down_proj(_SwiGLU.apply(gate, up) if is_faster_here(gate) and is_faster_here(up) else module.act_fn(gate) * up)


class _SwiGLU(torch.autograd.Function):
    """gate and up (…, h) to silu(gate) · up. The backward writes the gradient of gate over what it needs no more."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        swished = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate, up, swished)
        return swished * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate, up, swished = ctx.saved_tensors
        of_swished = gradient * up
        of_gate = torch.ops.aten.silu_backward.grad_input(of_swished, gate, grad_input=of_swished)
        return of_gate, gradient * swished


def _rotary_instead_of(original: Any) -> Any:
    """transformers' `apply_rotary_pos_emb`, fused where it suits."""

    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if not all(is_faster_here(x) for x in (q, k, cos, sin)) or cos.dtype != sin.dtype:
            return original(q, k, cos, sin, unsqueeze_dim)
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return _Rotary.apply(q, cos, sin), _Rotary.apply(k, cos, sin)

    return apply_rotary_pos_emb


class _Rotary(torch.autograd.Function):
    """x (B, H, N, D) turned by cos and sin (B, 1, N, D): x·cos + (-x₂, x₁)·sin, where x₁ and x₂ are the halves of D; in the wider type."""

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
    """x turned, or turned `back` as the gradient is, in float32."""
    x, cos, sin, half = x.float(), cos.float(), sin.float(), x.shape[-1] // 2
    of_second, of_first = (sin[..., half:], -sin[..., :half]) if back else (-sin[..., :half], sin[..., half:])
    found = x * cos
    found[..., :half].addcmul_(x[..., half:], of_second)
    found[..., half:].addcmul_(x[..., :half], of_first)
    return found
