"""Cache casts of mixed precision, which autocast repeats at each use: of frozen weights, and of the last activation."""

import weakref

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_weights: WeakIdKeyDictionary = WeakIdKeyDictionary()
_last: tuple[weakref.ref[Tensor], int, Tensor] | None = None


def get_compute_dtype(x: Tensor) -> torch.dtype:
    """The number type of a matrix product with `x`: the type of autocast, or else of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@torch.no_grad()
def cast_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in another type, without gradient. The cast of a frozen weight is kept while the weight exists and does not change."""
    if weight.dtype == dtype:
        return weight
    if weight.requires_grad:
        return weight.to(dtype)
    with torch.inference_mode(False):  # a later use of the kept cast may need a gradient
        state = (weight.device, weight.data_ptr(), weight._version, dtype)
        old_state, cast = _weights.get(weight, (None, None))
        if old_state != state or cast is None:
            cast = weight.detach().to(dtype)
            _weights[weight] = state, cast
    return cast


@torch.no_grad()
def cast_activation(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An activation (…, h) in another type as rows (M, h), without gradient. Layers that read the same activation share one cast."""
    global _last
    if x.dtype == dtype or x.is_inference():
        return x.reshape(-1, x.shape[-1]).to(dtype)
    if _last is not None and _last[0]() is x and _last[1] == x._version and _last[2].dtype == dtype:
        return _last[2]
    rows = x.detach().reshape(-1, x.shape[-1]).to(dtype)
    _last = weakref.ref(x), x._version, rows
    return rows
