"""Compute log-probabilities at chosen positions in one pass over the LM head, without the whole logits, and no second pass backward.

For a frozen head the gradient of log p(y) with respect to the hidden state does not need the backward of a softmax. It is
J = W[y] - pᵀW (times the logit scale). The forward computes p, so it can also compute and keep J. The backward then only scales the rows
of J. This costs 4hV FLOPs a token (h hidden size, V vocabulary); a backward that recomputes costs 6hV. One more token, the same at every
position, can be scored with the targets (`also`). It uses the same p, so it costs only a product with one row of W.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lexalign.fast_path import casts

TILE = 1 << 21
"""Number of logits in memory at once: small enough for the processor's cache, large enough for a fast matrix product."""
TOKENS = 512
"""Positions of one tile."""


@dataclass(frozen=True, kw_only=True)
class LogitMap:
    """The map from W·h + b to the logits of a model: u = scale·(W·h + b), z = cap·tanh(u / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, raw: Tensor) -> Tensor:
        """Map raw logits to the model's logits."""
        u = raw * self.scale if self.scale != 1.0 else raw
        return u if self.cap is None else self.cap * torch.tanh(u / self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative dz/d(raw), computed from the mapped logits."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)


@dataclass(frozen=True, kw_only=True)
class PositionScores:
    """Scores of M positions, each (M,): log p(y), the entropy, the mean logit, whether y has the highest logit, and log p(`also`).

    Only the two log-probabilities have a gradient.
    """

    log_probs: Tensor
    entropy: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    also: Tensor | None = None


NAMES = [field.name for field in fields(PositionScores)]


def score_targets(
    hidden: Tensor, targets: Tensor, lm_head: Any, logit_map: LogitMap, *, details: bool = False, also: int | None = None
) -> PositionScores:
    """Scores of `targets` (M,) at the hidden states (M, h), and of the token `also` at each of them. A frozen plain head needs
    one pass; other heads use the exact general path."""
    return (
        score_frozen_head(hidden, targets, lm_head, logit_map, details=details, also=also)
        if is_frozen(lm_head)
        else score_trained_head(hidden, targets, lm_head, logit_map, also=also)
    )


def is_frozen(lm_head: Any) -> bool:
    """Whether the head is a plain linear layer in floating point and is not trained."""
    is_plain = type(lm_head) is torch.nn.Linear and lm_head.weight.is_floating_point()
    return is_plain and not any(parameter.requires_grad for parameter in lm_head.parameters())


def score_frozen_head(
    hidden: Tensor, targets: Tensor, lm_head: Any, logit_map: LogitMap, *, details: bool, also: int | None
) -> PositionScores:
    """`score_targets` for a frozen head."""
    results = _OnePass.apply(hidden, lm_head.weight, lm_head.bias, targets, logit_map, details, also)
    return PositionScores(**dict(zip(NAMES, results, strict=True)))


def score_trained_head(hidden: Tensor, targets: Tensor, lm_head: Any, logit_map: LogitMap, *, also: int | None) -> PositionScores:
    """`score_targets` for a head that is trained, adapted or quantized: autograd through the module, one recomputed tile at a time."""

    def tile(part: Tensor, part_targets: Tensor) -> tuple[Tensor, ...]:
        logits = logit_map(lm_head(part).float())
        log_probs = logits.log_softmax(-1)
        constant_log_probs = log_probs.detach()
        entropy = -(constant_log_probs.exp() * constant_log_probs).sum(-1)
        results = log_probs.gather(-1, part_targets[:, None])[:, 0], entropy, logits.detach().mean(-1), logits.argmax(-1) == part_targets
        return results if also is None else (*results, log_probs[:, also])

    rows = count_tile_rows(lm_head, hidden.shape[-1])
    parts = [
        checkpoint(tile, hidden[start : start + rows], targets[start : start + rows], use_reentrant=False)
        for start in range(0, hidden.shape[0], rows)
    ] or [tile(hidden, targets)]
    return PositionScores(**dict(zip(NAMES, (torch.cat(columns) for columns in zip(*parts, strict=True)), strict=False)))


def count_tile_rows(lm_head: Any, width: int) -> int:
    """The number of positions whose whole logits fit into a tile. `width` is the input width, which is V if the head has no weights."""
    weight = getattr(lm_head, "weight", None)
    vocabulary = width if weight is None else weight.shape[0] if weight.dim() == 2 else TILE
    return max(1, TILE // vocabulary)


@torch.no_grad()
def score_at_temperature(hidden: Tensor, token: int, lm_head: Any, logit_map: LogitMap, temperature: float) -> Tensor:
    """log softmax(z / temperature)[token] at the hidden states (M, h), (M,) in float32, one tile at a time, without gradient."""
    rows = count_tile_rows(lm_head, hidden.shape[-1])
    parts = [
        (logit_map(lm_head(hidden[start : start + rows]).float()) / temperature).log_softmax(-1)[:, token]
        for start in range(0, hidden.shape[0], rows)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def compute_logits(hidden: Tensor, lm_head: Any, logit_map: LogitMap) -> Tensor:
    """The model's logits (B, V) at the hidden states (B, h), float32. The whole logits need much memory, so use it for few rows."""
    return logit_map(lm_head(hidden).float())


class _OnePass(torch.autograd.Function):
    """hidden (M, h), weight (V, h), bias (V,) or None, targets (M,) to log-probabilities (M,) of `targets` and of `also`, float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        logit_map: LogitMap,
        details: bool,
        also: int | None,
    ) -> Any:
        device_type = hidden.device.type
        if torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
            weight, bias = casts.cast_weight(weight, dtype), None if bias is None else bias.to(dtype)
        with torch.autocast(device_type, enabled=False):
            keep = ctx.needs_input_grad[0]
            jacobian = torch.empty_like(hidden) if keep else None
            parts = []
            for start in range(0, hidden.shape[0], TOKENS):
                span = slice(start, start + TOKENS)
                rows, tile_targets = hidden[span].to(weight.dtype), targets[span]
                *scores, tile_jacobian = _score_tile(rows, weight, bias, tile_targets, logit_map, details, keep)
                parts.append(scores)
                if jacobian is not None:
                    jacobian[span] = tile_jacobian.to(hidden.dtype)
            no_scores = hidden.new_zeros(0, dtype=torch.float32)
            columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else [no_scores.clone() for _ in range(5)]
            *columns, normaliser = columns
            also_logits = None
            if also is not None:
                also_bias = None if bias is None else bias[also : also + 1]
                also_logits = logit_map(F.linear(hidden.to(weight.dtype), weight[also : also + 1], also_bias).float())[:, 0]
        results = [columns[0], *(columns[1:] if details else [None] * 3), None if also_logits is None else also_logits - normaliser]
        ctx.logit_map, ctx.also = logit_map, also
        ctx.save_for_backward(jacobian, *(() if also_logits is None else (weight, targets, columns[0] + normaliser, also_logits)))
        ctx.mark_non_differentiable(*(column for column in results[1:4] if column is not None))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *other_gradients: Any) -> Any:
        jacobian, *saved_tensors = ctx.saved_tensors
        if ctx.also is None:
            return jacobian * gradient[:, None].to(jacobian.dtype), *[None] * 6
        # The token `also` has J' = s'·W[also] - pᵀW with the same pᵀW, so J' - J needs two rows of W and no second pass.
        weight, targets, own_logits, also_logits = saved_tensors
        also_gradient = other_gradients[-1]
        hidden_gradient = jacobian * (gradient + also_gradient)[:, None].to(jacobian.dtype)
        row_difference = (also_gradient * ctx.logit_map.slope(also_logits))[:, None] * weight[ctx.also].float()
        row_difference -= (also_gradient * ctx.logit_map.slope(own_logits))[:, None] * weight[targets].float()
        return hidden_gradient + row_difference.to(hidden_gradient.dtype), *[None] * 6


def _score_tile(
    rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logit_map: LogitMap, details: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scores of one block of positions (m,) over all tiles of the vocabulary, with a running maximum.

    The last two results are the log of the softmax's sum, (m,), and J, (m, h) (empty unless `keep`).
    """
    count = rows.shape[0]
    top, weight_sum, weighted_sum, logit_sum, target_logits = (rows.new_zeros(count, dtype=torch.float32) for _ in range(5))
    top.fill_(-torch.inf)
    jacobian = rows.new_zeros(rows.shape if keep else 0, dtype=torch.float32)
    target_slope = torch.ones_like(target_logits)
    for first_row, tile in _tiles(weight, count):
        raw_logits = F.linear(rows, tile, None if bias is None else bias[first_row : first_row + tile.shape[0]])
        logits = logit_map(raw_logits.float())
        is_inside = (targets >= first_row) & (targets < first_row + tile.shape[0])
        indices = (targets - first_row).clamp(0, tile.shape[0] - 1)[:, None]
        target_logits = torch.where(is_inside, logits.gather(1, indices)[:, 0], target_logits)
        if details:
            logit_sum += logits.sum(1)
        new_top = torch.maximum(top, logits.amax(1))
        rescale = (top - new_top).exp()
        slope = logit_map.slope(logits)
        weights = logits.sub(new_top[:, None]).exp_()
        weight_sum = weight_sum * rescale + weights.sum(1)
        if details:
            weighted_sum = weighted_sum * rescale + torch.linalg.vecdot(weights, logits)
        if keep:
            if isinstance(slope, Tensor):
                target_slope = torch.where(is_inside, slope.gather(1, indices)[:, 0], target_slope)
                weights *= slope
            jacobian.mul_(rescale[:, None]).add_(weights.to(tile.dtype) @ tile)
        top = new_top
    normaliser = top + weight_sum.log()
    if keep:
        scale = target_slope if logit_map.cap is not None else torch.full_like(target_logits, logit_map.scale)
        common_scale = 1.0 if logit_map.cap is not None else logit_map.scale
        jacobian = scale[:, None] * weight[targets].float() - jacobian * (common_scale / weight_sum)[:, None]
    return (
        target_logits - normaliser,
        normaliser - weighted_sum / weight_sum,
        logit_sum / weight.shape[0],
        target_logits >= top,
        normaliser,
        jacobian,
    )


def _tiles(weight: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) of the head's weight, so many rows at once that there are at most `TILE` logits."""
    size = max(1, TILE // max(count, 1))
    for first_row in range(0, weight.shape[0], size):
        yield first_row, weight[first_row : first_row + size]
