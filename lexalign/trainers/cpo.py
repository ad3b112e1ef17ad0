"""Contrastive preference optimization (arXiv 2401.08417): no reference; the likelihood of the chosen response is added to the loss."""

from lexalign import losses
from lexalign.training.objective import LossOutput, Objective, Scores


class CpoObjective(Objective):
    """`lexalign.losses.cpo_loss` of each pair, and `cpo_alpha` times the mean negative log-likelihood of a chosen token."""

    reference = None

    def compute(self, scores: Scores) -> LossOutput:
        chosen, rejected = scores.sums.chunk(2)
        likelihood = -(scores.log_probs * scores.weights)[: len(chosen)]
        return LossOutput(
            loss=losses.cpo_loss(chosen, rejected, beta=self.method.beta),
            token_loss=self.method.cpo_alpha * likelihood,
            rewards=self.method.beta * scores.sums.detach(),
            terms={"nll_loss": (likelihood.sum(), scores.weights[: len(chosen)].sum())},
        )
