"""Odds-ratio preference optimization (arXiv 2403.07691): the likelihood of the chosen row and an odds ratio, no reference."""

from lexalign import losses
from lexalign.training.objective import LossOutput, Objective, Scores


class OrpoObjective(Objective):
    """The negative log-likelihood of the chosen row plus `beta` times `lexalign.losses.odds_ratio_loss`.

    The likelihood includes the prompt, as in the authors' code.
    """

    reference = None
    logs_means = True
    scores_prompts = True

    def compute(self, scores: Scores) -> LossOutput:
        chosen, rejected = scores.means.chunk(2)
        loss, log_odds = losses.odds_ratio_loss(chosen, rejected)
        likelihood = -scores.log_probs[: len(chosen)]
        return LossOutput(
            loss=self.method.beta * loss,
            token_loss=likelihood,
            rewards=self.method.beta * scores.means.detach(),
            terms={
                "nll_loss": (likelihood.sum(), scores.label_mask[: len(chosen)].sum()),
                "log_odds_ratio": -loss,
                "log_odds_chosen": log_odds,
            },
        )
