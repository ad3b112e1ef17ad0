"""Simple preference optimization (arXiv 2405.14734): mean log-probabilities, a margin, no reference."""

from lexalign import losses
from lexalign.training.objective import LossOutput, Objective, Scores


class SimpoObjective(Objective):
    """`lexalign.losses.simpo_loss` of each pair."""

    reference = None
    logs_means = True

    def compute(self, scores: Scores) -> LossOutput:
        chosen, rejected = scores.means.chunk(2)
        loss = losses.simpo_loss(chosen, rejected, beta=self.method.beta, gamma=self.method.gamma)
        return LossOutput(loss=loss, rewards=self.method.beta * scores.means.detach())
