"""Log-probabilities at chosen positions in one pass over the LM head: never the whole logits, and no second pass in the backward.

For a frozen head the gradient of log p(y) with respect to the hidden state does not need the backward of a softmax: it is
J = W[y] - pᵀW (times the logit scale), which the forward can keep, since it holds p already. The backward is then a row scale. Costs 4hV
FLOPs a token (h hidden size, V vocabulary) where a recomputing backward costs 6hV. One more token, the same at every position, can be
scored beside the targets (`also`): it shares p, and so costs a product with one row of W.
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
"""Logits held at once, in numbers: small enough to stay near the processor, large enough for a good matrix product."""
TOKENS = 512
"""Positions of one tile."""


@dataclass(frozen=True, kw_only=True)
class LogitMap:
    """What a model does to W·h before the softmax: u = scale·(W·h + b), z = cap·tanh(u / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, raw: Tensor) -> Tensor:
        """Raw logits to the model's logits."""
        u = raw * self.scale if self.scale != 1.0 else raw
        return u if self.cap is None else self.cap * torch.tanh(u / self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """dz/d(raw), from the mapped logits."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap) ** 2)


@dataclass(frozen=True, kw_only=True)
class PositionScores:
    """For M positions, each (M,): log p(y), and without gradient the entropy, the mean logit, and whether y has the highest logit; with
    gradient again the log-probability of the token that was asked for `also`."""

    log_probs: Tensor
    entropy: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    also: Tensor | None = None


NAMES = [field.name for field in fields(PositionScores)]


def score_targets(
    hidden: Tensor, targets: Tensor, lm_head: Any, logit_map: LogitMap, *, details: bool = False, also: int | None = None
) -> PositionScores:
    """Scores of `targets` (M,) at the hidden states (M, h), and of the token `also` at each of them; one pass for a frozen plain head, the
    exact general path for any other."""
    return (
        score_frozen_head(hidden, targets, lm_head, logit_map, details=details, also=also)
        if is_frozen(lm_head)
        else score_trained_head(hidden, targets, lm_head, logit_map, also=also)
    )


def is_frozen(lm_head: Any) -> bool:
    """Whether the head is a plain linear layer in floating point that is not trained."""
    plain = type(lm_head) is torch.nn.Linear and lm_head.weight.is_floating_point()
    return plain and not any(parameter.requires_grad for parameter in lm_head.parameters())


def score_frozen_head(
    hidden: Tensor, targets: Tensor, lm_head: Any, logit_map: LogitMap, *, details: bool, also: int | None
) -> PositionScores:
    """`score` for a frozen head."""
    found = _OnePass.apply(hidden, lm_head.weight, lm_head.bias, targets, logit_map, details, also)
    return PositionScores(**dict(zip(NAMES, found, strict=True)))


def score_trained_head(hidden: Tensor, targets: Tensor, lm_head: Any, logit_map: LogitMap, *, also: int | None) -> PositionScores:
    """`score` for a head that is trained, adapted or quantized: autograd through the module itself, a tile at a time, recomputed."""

    def tile(part: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        logits = logit_map(lm_head(part).float())
        log_probs = logits.log_softmax(-1)
        seen = log_probs.detach()
        entropy = -(seen.exp() * seen).sum(-1)
        own = log_probs.gather(-1, wanted[:, None])[:, 0], entropy, logits.detach().mean(-1), logits.argmax(-1) == wanted
        return own if also is None else (*own, log_probs[:, also])

    rows = count_tile_rows(lm_head, hidden.shape[-1])
    parts = [
        checkpoint(tile, hidden[at : at + rows], targets[at : at + rows], use_reentrant=False) for at in range(0, hidden.shape[0], rows)
    ] or [tile(hidden, targets)]
    return PositionScores(**dict(zip(NAMES, (torch.cat(columns) for columns in zip(*parts, strict=True)), strict=False)))


def count_tile_rows(lm_head: Any, width: int) -> int:
    """Positions whose whole logits fit into a tile; `width` is that of a position's input, which a head without weights gives as logits."""
    weight = getattr(lm_head, "weight", None)
    vocabulary = width if weight is None else weight.shape[0] if weight.dim() == 2 else TILE
    return max(1, TILE // vocabulary)


@torch.no_grad()
def score_at_temperature(hidden: Tensor, token: int, lm_head: Any, logit_map: LogitMap, temperature: float) -> Tensor:
    """log softmax(z / temperature)[token] at the hidden states (M, h), (M,) in float32, a tile at a time; no gradient."""
    rows = count_tile_rows(lm_head, hidden.shape[-1])
    parts = [
        (logit_map(lm_head(hidden[at : at + rows]).float()) / temperature).log_softmax(-1)[:, token]
        for at in range(0, hidden.shape[0], rows)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def compute_logits(hidden: Tensor, lm_head: Any, logit_map: LogitMap) -> Tensor:
    """The model's logits (B, V) at the hidden states (B, h), float32; whole, so for few rows only."""
    return logit_map(lm_head(hidden).float())


class _OnePass(torch.autograd.Function):
    """hidden (M, h), weight (V, h), bias (V,) or None, targets (M,) to log-probabilities (M,), float32; those of the token `also` too."""

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
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            weight, bias = casts.cast_weight(weight, dtype), None if bias is None else bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            keep = ctx.needs_input_grad[0]
            jacobian = torch.empty_like(hidden) if keep else None
            parts = []
            for at in range(0, hidden.shape[0], TOKENS):
                span = slice(at, at + TOKENS)
                rows, wanted = hidden[span].to(weight.dtype), targets[span]
                *part, expected = _score_tile(rows, weight, bias, wanted, logit_map, details, keep)
                parts.append(part)
                if jacobian is not None:
                    jacobian[span] = expected.to(hidden.dtype)
            none = hidden.new_zeros(0, dtype=torch.float32)
            columns = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else [none.clone() for _ in range(5)]
            *columns, normaliser = columns
            beside = None
            if also is not None:
                row = None if bias is None else bias[also : also + 1]
                beside = logit_map(F.linear(hidden.to(weight.dtype), weight[also : also + 1], row).float())[:, 0]
        found = [columns[0], *(columns[1:] if details else [None] * 3), None if beside is None else beside - normaliser]
        ctx.logit_map, ctx.also = logit_map, also
        ctx.save_for_backward(jacobian, *(() if beside is None else (weight, targets, columns[0] + normaliser, beside)))
        ctx.mark_non_differentiable(*(column for column in found[1:4] if column is not None))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *others: Any) -> Any:
        jacobian, *saved = ctx.saved_tensors
        if ctx.also is None:
            return jacobian * gradient[:, None].to(jacobian.dtype), *[None] * 6
        # The token beside has J' = s'·W[also] - pᵀW with the same pᵀW, so J' - J needs two rows of W and no second pass.
        weight, targets, own, beside = saved
        of_beside = others[-1]
        total = jacobian * (gradient + of_beside)[:, None].to(jacobian.dtype)
        apart = (of_beside * ctx.logit_map.slope(beside))[:, None] * weight[ctx.also].float()
        apart -= (of_beside * ctx.logit_map.slope(own))[:, None] * weight[targets].float()
        return total + apart.to(total.dtype), *[None] * 6


def _score_tile(
    rows: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor, logit_map: LogitMap, details: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One block of positions over all tiles of the vocabulary, with a running maximum; the last two are the log of the softmax's sum, (m,),
    and J, (m, h) (empty unless `keep`)."""
    count = rows.shape[0]
    top, total, spread, mean, own = (rows.new_zeros(count, dtype=torch.float32) for _ in range(5))
    top.fill_(-torch.inf)
    expected = rows.new_zeros(rows.shape if keep else 0, dtype=torch.float32)
    slope_of_own = torch.ones_like(own)
    for first, tile in _tiles(weight, count):
        raw = F.linear(rows, tile, None if bias is None else bias[first : first + tile.shape[0]])
        logits = logit_map(raw.float())
        inside = (wanted >= first) & (wanted < first + tile.shape[0])
        at = (wanted - first).clamp(0, tile.shape[0] - 1)[:, None]
        own = torch.where(inside, logits.gather(1, at)[:, 0], own)
        if details:
            mean += logits.sum(1)
        higher = torch.maximum(top, logits.amax(1))
        shrink = (top - higher).exp()
        slope = logit_map.slope(logits)
        weights = logits.sub(higher[:, None]).exp_()
        total = total * shrink + weights.sum(1)
        if details:
            spread = spread * shrink + torch.linalg.vecdot(weights, logits)
        if keep:
            if isinstance(slope, Tensor):
                slope_of_own = torch.where(inside, slope.gather(1, at)[:, 0], slope_of_own)
                weights *= slope
            expected.mul_(shrink[:, None]).add_(weights.to(tile.dtype) @ tile)
        top = higher
    normaliser = top + total.log()
    if keep:
        scale = slope_of_own if logit_map.cap is not None else torch.full_like(own, logit_map.scale)
        common = 1.0 if logit_map.cap is not None else logit_map.scale
        expected = scale[:, None] * weight[wanted].float() - expected * (common / total)[:, None]
    return own - normaliser, normaliser - spread / total, mean / weight.shape[0], own >= top, normaliser, expected


def _tiles(weight: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) of the head's weight, as many at once as leave `TILE` logits."""
    size = max(1, TILE // max(count, 1))
    for first in range(0, weight.shape[0], size):
        yield first, weight[first : first + size]
