"""Simple preference optimization (arXiv 2405.14734): mean log-probabilities, a margin, no reference."""

from lexalign import losses
from lexalign.training.objective import LossOutput, Objective, Scores


class SimpoObjective(Objective):
    """`lexalign.losses.simpo_loss` of each pair."""

    reference = None
    logs_means = True

    def compute(self, scores: Scores) -> LossOutput:
        chosen, rejected = scores.means.chunk(2)
        likelihood = -(scores.log_probs.detach() * scores.weights)[: len(chosen)]
        return LossOutput(
            loss=losses.simpo_loss(chosen, rejected, beta=self.method.beta, gamma=self.method.gamma),
            rewards=self.method.beta * scores.means.detach(),
            terms={"nll_loss": (likelihood.sum(), scores.weights[: len(chosen)].sum())},
        )
