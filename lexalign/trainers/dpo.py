"""Direct preference optimization (arXiv 2305.18290), and the other losses for pairs with a reference."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lexalign import losses
from lexalign.training.objective import LossOutput, Objective, Scores


def halve(values: Tensor) -> tuple[Tensor, Tensor]:
    """Split values of 2B responses into those of the chosen and those of the rejected responses, (B,) each."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected


def compute_difference(scores: Scores) -> Tensor:
    """h, (B,): the log-ratio of the chosen response minus that of the rejected one."""
    chosen, rejected = halve(scores.log_ratios)
    return chosen - rejected


def compute_mean_ratios(scores: Scores) -> tuple[Tensor, Tensor]:
    """The log-ratios, (B,) each, divided by the lengths of their responses."""
    return halve(scores.log_ratios / scores.lengths)


def compute_aot(scores: Scores, method: Any) -> Tensor:
    """The paired form of AOT, (B,)."""
    policy, reference = (chosen - rejected for chosen, rejected in (halve(scores.sums), halve(scores.reference["sums"])))
    return losses.aot_loss(policy, reference, beta=method.beta, label_smoothing=method.label_smoothing)


LOSSES: dict[str, Callable[[Scores, Any], Tensor]] = {
    "sigmoid": lambda scores, m: losses.dpo_loss(compute_difference(scores), beta=m.beta),
    "sigmoid_norm": lambda scores, m: losses.sigmoid_norm_loss(*compute_mean_ratios(scores), beta=m.beta),
    "hinge": lambda scores, m: losses.hinge_loss(compute_difference(scores), beta=m.beta),
    "ipo": lambda scores, m: losses.ipo_loss(*compute_mean_ratios(scores), beta=m.beta),
    "exo_pair": lambda scores, m: losses.exo_pair_loss(compute_difference(scores), beta=m.beta, label_smoothing=m.label_smoothing),
    "nca_pair": lambda scores, m: losses.nca_pair_loss(*halve(scores.log_ratios), beta=m.beta),
    "robust": lambda scores, m: losses.robust_loss(compute_difference(scores), beta=m.beta, label_smoothing=m.label_smoothing),
    "bco_pair": lambda scores, m: losses.bco_pair_loss(*halve(scores.log_ratios), beta=m.beta),
    "sppo_hard": lambda scores, m: losses.sppo_hard_loss(*halve(scores.log_ratios), beta=m.beta),
    "aot": compute_aot,
    "aot_unpaired": lambda scores, m: losses.aot_loss(*halve(scores.log_ratios), beta=m.beta, label_smoothing=m.label_smoothing),
    "apo_zero": lambda scores, m: losses.apo_zero_loss(*halve(scores.log_ratios), beta=m.beta),
    "apo_down": lambda scores, m: losses.apo_down_loss(*halve(scores.log_ratios), beta=m.beta),
    "discopop": lambda scores, m: losses.discopop_loss(compute_difference(scores), beta=m.beta),
}


class DpoObjective(Objective):
    """The loss `method.loss_type` of each pair. `sft` is the mean negative log-likelihood of a token of the chosen responses."""

    @property
    def couples_rows(self) -> bool:  # type: ignore[override]
        """AOT sorts the rows of a step."""
        return self.method.loss_type in ("aot", "aot_unpaired")

    @property
    def start_loss(self) -> float | None:
        return losses.LOG_2 if self.method.loss_type == "sigmoid" else None

    def compute(self, scores: Scores) -> LossOutput:
        rewards = self.method.beta * scores.log_ratios.detach()
        if self.method.loss_type == "sft":
            chosen, _ = halve(scores.log_probs * scores.weights)
            return LossOutput(token_loss=-chosen, rewards=rewards)
        return LossOutput(loss=LOSSES[self.method.loss_type](scores, self.method), rewards=rewards)
