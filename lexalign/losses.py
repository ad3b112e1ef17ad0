"""The losses that are ours, as pure functions of tensors. Shapes: B rows (pairs), K beliefs, V vocabulary."""

import torch
import torch.nn.functional as F
from torch import Tensor


def preference_logits(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """Difference of the log-ratios, (B,): [log π(y_w) - log π(y_l)] - [log π_ref(y_w) - log π_ref(y_l)].

    Each argument is the summed log-probability of a response, (B,).
    """
    return (chosen - rejected) - (ref_chosen - ref_rejected)


def dpo_loss(logits: Tensor, *, beta: float) -> Tensor:
    """-log σ(β·h) for each pair, (B,); `logits` h is `preference_logits` (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7)."""
    return -F.logsigmoid(beta * logits)


def geometric_loss(logits: Tensor, soft_label: Tensor, *, beta: float) -> Tensor:
    """-log σ(β(2p̂-1)h) for each pair, (B,): DPO on the geometric average of the two responses (arXiv 2409.06691).

    p̂ = 1 is `dpo_loss` to the bit, p̂ = 1/2 has no gradient, p̂ < 1/2 prefers the rejected response.

    Args:
        logits: h, `preference_logits`, (B,).
        soft_label: p̂, the probability that the chosen response is preferred, (B,).
    """
    return -F.logsigmoid(beta * ((2 * soft_label - 1) * logits))


def conservative_loss(logits: Tensor, soft_label: Tensor, *, beta: float) -> Tensor:
    """-p̂ log σ(βh) - (1-p̂) log σ(-βh) for each pair, (B,): its minimum is where σ(βh) = p̂ (conservative DPO, with p̂ by pair).

    Args:
        logits: h, `preference_logits`, (B,).
        soft_label: p̂, the probability that the chosen response is preferred, (B,).
    """
    return -soft_label * F.logsigmoid(beta * logits) - (1 - soft_label) * F.logsigmoid(-beta * logits)


def calibration_loss(logits: Tensor, belief_tokens: Tensor, shares: Tensor) -> Tensor:
    """Forward KL from the target shares to the policy's belief distribution, (B,) (GDPO, arXiv 2412.20299, calibration term).

    KL(p* || π) = Σ_k p_k [log p_k - log softmax(z)_{c_k}] at the last prompt position. The softmax is over the whole vocabulary and not
    renormalised over the beliefs, so mass on anything else counts against the policy.

    Args:
        logits: z, (B, V), the logits at the last prompt position.
        belief_tokens: c, (K,), the token each belief begins with; all distinct.
        shares: p*, (B, K), rows sum to one; a share of zero contributes nothing.
    """
    log_probs = logits.float().log_softmax(-1)[:, belief_tokens]
    return (torch.xlogy(shares, shares) - shares * log_probs).sum(-1)


def gdpo_loss(
    calibration: Tensor,
    belief_log_probs: Tensor,
    preference: Tensor,
    *,
    calibration_weight: float,
    belief_weight: float,
    preference_weight: float,
) -> Tensor:
    """Weighted sum of the three terms of GDPO for each pair, (B,) (arXiv 2412.20299).

    Args:
        calibration: `calibration_loss`, (B,).
        belief_log_probs: mean log-probability of the tokens of the sampled belief, (B,).
        preference: `dpo_loss` of the responses given the chosen's belief, (B,).
    """
    return calibration_weight * calibration - belief_weight * belief_log_probs + preference_weight * preference
