"""The losses of all methods, as pure functions of tensors. Shapes: B rows (pairs), R = 2B responses, K beliefs, V vocabulary, T tokens.

A *log-ratio* is the log-probability of a response under the policy minus that under the reference. h is the log-ratio of the chosen
response minus that of the rejected one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2 = 0.6931471805599453


def preference_logits(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """Difference of the log-ratios, (B,): [log π(y_w) - log π(y_l)] - [log π_ref(y_w) - log π_ref(y_l)].

    Each argument is the summed log-probability of a response, (B,).
    """
    return (chosen - rejected) - (ref_chosen - ref_rejected)


def dpo_loss(logits: Tensor, *, beta: float) -> Tensor:
    """-log σ(β·h) for each pair, (B,); `logits` h is `preference_logits` (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7)."""
    return -F.logsigmoid(beta * logits)


def sigmoid_norm_loss(chosen_mean: Tensor, rejected_mean: Tensor, *, beta: float) -> Tensor:
    """-log σ(β·h̄) for each pair, (B,), where h̄ is the difference of the log-ratios, each divided by its response's length."""
    return -F.logsigmoid(beta * (chosen_mean - rejected_mean))


def ipo_loss(chosen_mean: Tensor, rejected_mean: Tensor, *, beta: float) -> Tensor:
    """(h̄ - 1/(2τ))² for each pair, (B,) (Azar et al. 2024, arXiv 2310.12036, Eq. 17).

    Args:
        chosen_mean, rejected_mean: log-ratios of the responses, each divided by the number of its tokens, (B,).
        beta: τ.
    """
    return (chosen_mean - rejected_mean - 1 / (2 * beta)).square()


def hinge_loss(logits: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - β·h) for each pair, (B,) (SLiC, Zhao et al. 2023, arXiv 2305.10425)."""
    return torch.relu(1 - beta * logits)


def exo_pair_loss(logits: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """KL(q ‖ p) of q = (σ(βh), σ(-βh)) from p = (1-ε, ε) for each pair, (B,) (EXO, Ji et al. 2024, arXiv 2402.00856, Eq. 16)."""
    log_unflipped, log_flipped = logits.new_tensor([1 - label_smoothing, label_smoothing]).log()
    log_chosen, log_rejected = F.logsigmoid(beta * logits), F.logsigmoid(-beta * logits)
    return log_chosen.exp() * (log_chosen - log_unflipped) + log_rejected.exp() * (log_rejected - log_flipped)


def nca_pair_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log σ(r_w) - ½ log σ(-r_w) - ½ log σ(-r_l) with r = β·log-ratio, (B,) (NCA, Chen et al. 2024, arXiv 2402.05369)."""
    chosen, rejected = beta * chosen, beta * rejected
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def robust_loss(logits: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO's loss, unbiased if a share ε of the labels is flipped, (B,) (robust DPO, Chowdhury et al. 2024, arXiv 2403.00409)."""
    loss, flipped_loss = -F.logsigmoid(beta * logits), -F.logsigmoid(-beta * logits)
    return ((1 - label_smoothing) * loss - label_smoothing * flipped_loss) / (1 - 2 * label_smoothing)


def bco_pair_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log σ(r_w) - log σ(-r_l) with r = β·log-ratio, (B,) (BCO, Jung et al. 2024, arXiv 2404.04656, without its shift)."""
    return -F.logsigmoid(beta * chosen) - F.logsigmoid(-beta * rejected)


def sppo_hard_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(log-ratio_w - 1/(2β))² + (log-ratio_l + 1/(2β))², (B,) (SPPO, Wu et al. 2024, arXiv 2405.00675, Eq. 4.7 with P of 1 and 0)."""
    return (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square()


def aot_loss(first: Tensor, second: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO's loss of the difference of two sorted samples, (B,) (AOT, Melnyk et al. 2024, arXiv 2406.05882).

    Paired: `first` is the policy's log π(y_w) - log π(y_l), `second` the reference's. Unpaired: the log-ratios of chosen and rejected.
    The rows are coupled: the i-th value does not belong to row i. Only the mean over all rows of a step has a meaning.
    """
    differences = first.sort(0).values - second.sort(0).values
    return -F.logsigmoid(beta * differences) * (1 - label_smoothing) - F.logsigmoid(-beta * differences) * label_smoothing


def apo_zero_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """1 - σ(r_w) + σ(r_l), r = β·log-ratio, (B,): chosen up, rejected down (APO, D'Oosterlinck et al. 2024, arXiv 2408.06266, Eq. 7)."""
    return 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """σ(r_w) + 1 - σ(r_w - r_l) with r = β·log-ratio, (B,): both down, rejected more (APO, arXiv 2408.06266, Eq. 8)."""
    return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(beta * (chosen - rejected))


def discopop_loss(logits: Tensor, *, beta: float, tau: float = 0.05) -> Tensor:
    """The log-ratio modulated loss for each pair, (B,) (DiscoPOP, Lu et al. 2024, arXiv 2406.08414, Eq. 5).

    (1 - m)·(-log σ(βh)) + m·exp(-βh) with m = σ(βh / τ).
    """
    scaled_logits = beta * logits
    share = torch.sigmoid(scaled_logits / tau)
    return -F.logsigmoid(scaled_logits) * (1 - share) + torch.exp(-scaled_logits) * share


def kto_loss(log_ratios: Tensor, labels: Tensor, kl: Tensor, *, beta: float, desirable_weight: float, undesirable_weight: float) -> Tensor:
    """λ·(1 - σ(±β(log-ratio - z))) for each response, (B,) (KTO, Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 7 and 8).

    Args:
        log_ratios: (B,).
        labels: (B,), 1 where a response is desirable (weight λ_D, sign +), 0 where not (λ_U, sign -).
        kl: z, the KL divergence from the reference, at least 0, without gradient, one number for all rows of a step.
    """
    sign = 2 * labels - 1
    weight = labels * desirable_weight + (1 - labels) * undesirable_weight
    return weight * (1 - torch.sigmoid(beta * sign * (log_ratios - kl)))


def odds_ratio_loss(chosen_mean: Tensor, rejected_mean: Tensor) -> tuple[Tensor, Tensor]:
    """-log σ(log odds ratio) and the log odds ratio of each pair, (B,) each (ORPO, Hong et al. 2024, arXiv 2403.07691, Eq. 4 and 7).

    odds(y) = p / (1 - p), where log p is the mean log-probability of a response's token; float32.
    """
    chosen, rejected = chosen_mean.float(), rejected_mean.float()
    log_odds = (chosen - rejected) - (log_one_minus_exp(chosen) - log_one_minus_exp(rejected))
    return -F.logsigmoid(log_odds), log_odds


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 (Mächler 2012), exact near 0 and far from it. x of 0 or more is replaced by the largest number below 0."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    is_near = x > -LOG_2
    # Each branch gets values with a finite derivative, so that no NaN reaches the gradient of the other branch.
    near_value = torch.log(-torch.expm1(torch.where(is_near, x, torch.full_like(x, -1.0))))
    far_value = torch.log1p(-torch.exp(torch.where(is_near, torch.full_like(x, -1.0), x)))
    return torch.where(is_near, near_value, far_value)


def cpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log σ(β(log π(y_w) - log π(y_l))) for each pair, (B,), summed log-probabilities (CPO, Xu et al. 2024, arXiv 2401.08417, Eq. 3)."""
    return -F.logsigmoid(beta * (chosen - rejected))


def simpo_loss(chosen_mean: Tensor, rejected_mean: Tensor, *, beta: float, gamma: float) -> Tensor:
    """-log σ(β(m_w - m_l) - γ) for each pair, (B,), m the mean log-probability of a token (SimPO, Meng et al. 2024, 2405.14734, Eq. 6)."""
    return -F.logsigmoid(beta * (chosen_mean - rejected_mean) - gamma)


def geometric_loss(logits: Tensor, soft_label: Tensor, *, beta: float) -> Tensor:
    """-log σ(β(2p̂-1)h) for each pair, (B,): DPO on the geometric average of the two responses (arXiv 2409.06691).

    p̂ = 1 is `dpo_loss` to the bit, p̂ = 1/2 has no gradient, p̂ < 1/2 prefers the rejected response.

    Args:
        logits: h, `preference_logits`, (B,).
        soft_label: p̂, the probability that the chosen response is preferred, (B,).
    """
    return -F.logsigmoid(beta * ((2 * soft_label - 1) * logits))


def conservative_loss(logits: Tensor, soft_label: Tensor, *, beta: float) -> Tensor:
    """-p̂ log σ(βh) - (1-p̂) log σ(-βh) for each pair, (B,). Its minimum is at σ(βh) = p̂ (conservative DPO, with a p̂ for each pair).

    Args:
        logits: h, `preference_logits`, (B,).
        soft_label: p̂, the probability that the chosen response is preferred, (B,).
    """
    return -soft_label * F.logsigmoid(beta * logits) - (1 - soft_label) * F.logsigmoid(-beta * logits)


def calibration_loss(logits: Tensor, belief_tokens: Tensor, shares: Tensor) -> Tensor:
    """Forward KL from the target shares to the policy's belief distribution, (B,) (GDPO, arXiv 2412.20299, calibration term).

    KL(p* || π) = Σ_k p_k [log p_k - log softmax(z)_{c_k}] at the last prompt position. The softmax is over the whole vocabulary and is not
    renormalised over the beliefs, so probability on other tokens raises the loss.

    Args:
        logits: z, (B, V), the logits at the last prompt position.
        belief_tokens: c, (K,), the first token of each belief; all are different.
        shares: p*, (B, K), each row sums to 1; a share of 0 adds nothing.
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
    """The weighted sum of the three terms of GDPO for each pair, (B,) (arXiv 2412.20299).

    Args:
        calibration: `calibration_loss`, (B,).
        belief_log_probs: mean log-probability of the tokens of the sampled belief, (B,).
        preference: `dpo_loss` of the responses given the chosen's belief, (B,).
    """
    return calibration_weight * calibration - belief_weight * belief_log_probs + preference_weight * preference


def flow_loss(
    actions: Tensor, ends: Tensor, ref_actions: Tensor, ref_ends: Tensor, mask: Tensor, terminal: Tensor, *, alpha: float
) -> Tensor:
    """Detailed balance of a response as a flow of tokens, Σ_t (log F_t - log F_{t+1} + a_t)², (R,) (GFlowNet-DPO, arXiv 2410.15096).

    State s_t is the prompt and the first t of n response tokens, t = 0 … n-1; ⊤ ends a response. Column s_t of a row holds

        a_t = log π(y_{t+1}|s_t) and e_t = log π(⊤|s_t), of the policy,
        log R_t = log π_ref(y_{t+1}|s_t) + log softmax(z_ref(s_t)/γ)[⊤] + 1[t = n-1]·α·c, the reward of ending at s_t, without gradient,
        log F_t = log R_t - e_t, the flow through s_t.

    The authors' code does not decide some points. This code decides them as follows:

    - The first state is the prompt alone, one column left of the response's first token. There is no state before it. The authors' mask
      also includes the column before it, a step of the prompt, where their label is token 0.
    - A term belongs to a step from one state to the next, so a row has n-1 terms. The last column of a row, s_{n-1}, has no term of its
      own. It appears only as log F_{t+1}, and α·c acts there. (The authors drop the last column of the batch, so a shorter row keeps a
      term whose next state is the padding after its end.) Padding never counts, and a row's loss does not depend on its batch.
    - If y_n is ⊤, its step is the end itself. The definition of log F balances it, and e_{n-1} = a_{n-1}. In a cut response, y_n is its
      last remaining token. A response of one token has no step and a loss of 0.
    - The mask alone decides which columns count. Token ids do not matter, so ⊤ may also be the padding token.

    Args:
        actions, ends: a, e, (R, T).
        ref_actions, ref_ends: the reference's two terms of log R, (R, T).
        mask: (R, T), true in the columns of s_0 … s_{n-1}, which are adjacent. The other columns are not read.
        terminal: c, (R,), the log-reward of a whole response: 0 for a chosen one, below 0 for a rejected one.
        alpha: α, the weight of c.
    """
    mask = mask.bool()
    has_step = mask[:, :-1] & mask[:, 1:]
    is_last = mask & ~F.pad(has_step, (0, 1))
    log_rewards = (ref_actions + ref_ends + alpha * terminal[:, None] * is_last).detach()
    log_flows = log_rewards - ends
    balance = log_flows[:, :-1] - log_flows[:, 1:] + actions[:, :-1]
    return balance.masked_fill(~has_step, 0).square().sum(1)
