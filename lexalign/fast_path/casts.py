"""Casts of mixed precision, made once where autocast makes one at each use: a frozen weight's for good, an activation's for its readers."""

import weakref

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_weights: WeakIdKeyDictionary = WeakIdKeyDictionary()
_last: tuple[weakref.ref[Tensor], int, Tensor] | None = None


def get_compute_dtype(x: Tensor) -> torch.dtype:
    """The type of numbers that a matrix product of `x` is computed in: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@torch.no_grad()
def cast_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in another type, without gradient. That of a frozen weight is kept, as long as the weight is there and unchanged."""
    if weight.dtype == dtype:
        return weight
    if weight.requires_grad:
        return weight.to(dtype)
    with torch.inference_mode(False):  # what is kept may be needed where there is a gradient
        now = (weight.device, weight.data_ptr(), weight._version, dtype)
        then, cast = _weights.get(weight, (None, None))
        if then != now or cast is None:
            cast = weight.detach().to(dtype)
            _weights[weight] = now, cast
    return cast


@torch.no_grad()
def cast_activation(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An activation (…, h) in another type as rows (M, h), without gradient; the layers that read one activation in turn share one cast."""
    global _last
    if x.dtype == dtype or x.is_inference():
        return x.reshape(-1, x.shape[-1]).to(dtype)
    if _last is not None and _last[0]() is x and _last[1] == x._version and _last[2].dtype == dtype:
        return _last[2]
    rows = x.detach().reshape(-1, x.shape[-1]).to(dtype)
    _last = weakref.ref(x), x._version, rows
    return rows
